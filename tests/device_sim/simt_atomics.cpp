// Atomics. Blocks run one after another, so a plain read and write is atomic; the checker is told, so that it knows
// which accesses may meet and which order they make.
#include <algorithm>

#include "checker.h"
#include "grid.h"

namespace {

template <class T, class Update>
T update(T* address, const void* code, Update&& new_value) {
  simt::Grid& grid = simt::the_grid();
  if (grid.in_kernel() && grid.checked()) {
    grid.atomic_access(simt::address_of(address));
    simt::check_access(address, sizeof(T), simt::Access::atomic, true, code);
  }
  const T old = *address;
  *address = new_value(old);
  return old;
}

}  // namespace

#define CODE static_cast<const char*>(__builtin_return_address(0)) - 1
#define ADD(T) \
  T atomicAdd(T* address, T value) { return update(address, CODE, [=](T old) { return old + value; }); }
#define SUB(T) \
  T atomicSub(T* address, T value) { return update(address, CODE, [=](T old) { return old - value; }); }
#define MIN(T) \
  T atomicMin(T* address, T value) { return update(address, CODE, [=](T old) { return std::min(old, value); }); }
#define MAX(T) \
  T atomicMax(T* address, T value) { return update(address, CODE, [=](T old) { return std::max(old, value); }); }
#define EXCH(T) \
  T atomicExch(T* address, T value) { return update(address, CODE, [=](T) { return value; }); }
#define CAS(T)                                                                           \
  T atomicCAS(T* address, T compare, T value) {                                          \
    return update(address, CODE, [=](T old) { return old == compare ? value : old; });   \
  }
#define OR(T) \
  T atomicOr(T* address, T value) { return update(address, CODE, [=](T old) { return old | value; }); }
#define AND(T) \
  T atomicAnd(T* address, T value) { return update(address, CODE, [=](T old) { return old & value; }); }

ADD(float)
ADD(double)
ADD(int)
ADD(unsigned)
ADD(unsigned long long)
SUB(int)
SUB(unsigned)
MIN(int)
MIN(unsigned)
MAX(int)
MAX(unsigned)
MAX(unsigned long long)
EXCH(int)
EXCH(unsigned)
EXCH(float)
CAS(int)
CAS(unsigned)
CAS(unsigned long long)
OR(int)
OR(unsigned)
AND(int)
AND(unsigned)
unsigned atomicInc(unsigned* address, unsigned limit) {
  return update(address, CODE, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
