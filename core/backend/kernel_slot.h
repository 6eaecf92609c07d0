// KernelSlot: one typed function pointer per device. The only seam between operations and backends.
#pragma once
#include <array>
#include <chrono>
#include <span>
#include <string_view>

#include "binade/core/tensor/view.h"

namespace binade {

// Where a kernel's first argument lies.
inline Device device_of(const TensorView& view) { return view.device; }
template <class Item>  // lists of structs whose first member `where` is a view: multi-tensor kernels
Device device_of(std::span<const Item> items) {
  return items.front().where().device;
}

// Watches kernels run, for profiles (kernel_times.h); null when nobody does. Set it only while no kernel runs.
struct KernelObserver {
  virtual void before_kernel(std::string_view /*name*/, Device) {}
  // Returned without an error. `seconds` of the host: on a GPU the launch, not the work.
  virtual void on_kernel(std::string_view name, Device device, double seconds) = 0;
  virtual void after_kernel(Device) {}  // in any case

 protected:
  ~KernelObserver() = default;
};
inline KernelObserver* kernel_observer = nullptr;

void load_backend(DeviceType device);  // provides the kernels of a device, once

template <class Signature>
class KernelSlot;

template <class First, class... Rest>
class KernelSlot<void(First, Rest...)> {
 public:
  using Function = void (*)(First, Rest...);
  constexpr explicit KernelSlot(std::string_view name) : name_(name) {}
  KernelSlot(const KernelSlot&) = delete;
  KernelSlot& operator=(const KernelSlot&) = delete;

  void provide(DeviceType device, Function kernel) { by_device_[static_cast<std::size_t>(device)] = kernel; }
  Function function(DeviceType device) const { return by_device_[static_cast<std::size_t>(device)]; }  // or null
  std::string_view name() const { return name_; }

  void operator()(First first, Rest... rest) const {
    const DeviceType device = device_of(first).type;
    Function kernel = function(device);
    if (!kernel) [[unlikely]] {
      load_backend(device);
      kernel = function(device);
      check(kernel != nullptr, name_, ": no kernel for ", to_text(device), " in this build");
    }
    if (kernel_observer) [[unlikely]] return observed(kernel, device_of(first), first, rest...);
    kernel(first, rest...);
  }

 private:
  void observed(Function kernel, Device device, First first, Rest... rest) const {
    KernelObserver& observer = *kernel_observer;
    struct After {
      KernelObserver& observer;
      Device device;
      ~After() { observer.after_kernel(device); }
    };
    observer.before_kernel(name_, device);
    const After after{observer, device};
    const auto start = std::chrono::steady_clock::now();
    kernel(first, rest...);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    observer.on_kernel(name_, device, seconds.count());
  }

  std::string_view name_;
  std::array<Function, device_types> by_device_{};
};

}  // namespace binade
