// Judges memory accesses on the simulated device: bounds, initialisation, races between threads and blocks, order
// between streams.
#pragma once
#include <cstddef>

#include "order.h"

namespace simt {

enum class Access { read, write, atomic };

// An access of the running thread of a kernel; does not return when it is wrong.
void check_access(const volatile void* p, std::size_t bytes, Access access, bool must_be_aligned, const void* code);

// An access of a whole range by an operation that is no kernel (a copy, a matmul, a free). Returns false after
// reporting. `uninitialised_ok` for copies between devices' memories, which hand the state on.
struct RangeUser {
  const char* operation;
  const Clock* clock;
  std::uint32_t epoch;
  int device;  // -1: any
};
bool check_range(const RangeUser& user, const void* p, std::size_t bytes, Access access, bool uninitialised_ok = false);

// After a kernel ran that does not call the checker, what is written and by whom is unknown: only bounds are judged.
void note_unchecked_kernel();
bool knows_writes();
void forget_unchecked_kernels();

}  // namespace simt
