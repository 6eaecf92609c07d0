// Counts the kernels that run, by the names of their slots.
#pragma once
#include <map>
#include <string>
#include <string_view>

#include "binade/core/backend/kernel_slot.h"

namespace binade::test {

struct KernelCalls final : KernelObserver {  // while it lives
  KernelCalls() { kernel_observer = this; }
  ~KernelCalls() { kernel_observer = previous; }
  KernelCalls(const KernelCalls&) = delete;
  KernelCalls& operator=(const KernelCalls&) = delete;
  void on_kernel(std::string_view name, Device, double) override { ++calls[std::string(name)]; }
  std::map<std::string, int> calls;
  KernelObserver* previous = kernel_observer;
};

}  // namespace binade::test
