// What a kernel file sees when the host compiler builds it for the simulated device (-include this file): the names of
// CUDA's device language, and binade::cuda's launch(), SHARED, SHARED1, DYN_SHARED. cuda/kernels/launch.h then adds
// nothing. A kernel keeps to the rules in docs/simulated_device.md; nothing here is ever installed.
#pragma once
#define BINADE_CUDA_LAUNCH_H

// These words mean nothing to the host compiler. CUDA's headers leave them alone when they are defined already.
#undef __global__
#undef __device__
#undef __host__
#define __global__
#define __device__
#define __host__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#undef __forceinline__
#define __forceinline__ inline
#undef __launch_bounds__
#define __launch_bounds__(...)

#include <cstddef>
#include <cstdint>
#include <new>
#include <tuple>
#include <type_traits>

namespace simt {

// ---- the running thread

struct ThreadContext {
  uint3 thread{}, block{};
  dim3 block_dim, grid_dim;
  unsigned linear = 0;  // of the thread in its block
};
extern constinit ThreadContext current;  // kernels run one at a time, under the runtime's lock

struct Site {  // where a kernel called a barrier or a warp operation
  const char* file = "";
  int line = 0;
  static constexpr Site current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// ---- barriers and shared memory (simt_grid.cpp)

int block_barrier(int predicate, Site site);  // returns in how many threads the predicate holds
void* static_shared(const void* key, std::size_t bytes, std::size_t align);
void* dynamic_shared();
void thread_fence();

// ---- warp operations (simt_warp.cpp); lanes of `mask` meet, and all must come from the same place

std::uint64_t warp_shuffle(unsigned mask, std::uint64_t value, unsigned source_lane, Site site);
unsigned warp_ballot(unsigned mask, bool predicate, Site site);
unsigned warp_match(unsigned mask, std::uint64_t value, Site site);
std::uint64_t warp_reduce(unsigned mask, std::uint64_t value, std::uint64_t (*combine)(std::uint64_t, std::uint64_t),
                          Site site);
void warp_sync(unsigned mask, Site site);
unsigned active_mask();

// ---- launches (runtime_launch.cpp)

inline constexpr std::size_t max_parameter_bytes = 512;

struct Kernel {
  void (*run)(const void* parameters) = nullptr;  // one thread of the kernel
  const void* function = nullptr;                 // the __global__ function itself, for its name and attributes
  bool checked = false;                           // its memory accesses call the checker
  std::size_t bytes = 0;
  alignas(16) std::byte parameters[max_parameter_bytes];
};
void enqueue_kernel(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, const Kernel& kernel);

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kernels_are_checked = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kernels_are_checked = true;
#else
inline constexpr bool kernels_are_checked = false;
#endif
#else
inline constexpr bool kernels_are_checked = false;
#endif

}  // namespace simt

namespace binade::cuda {

struct LaunchConfig {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// cuda/runtime/watch.h; absent where kernels are tested without the backend.
__attribute__((weak)) bool syncs_each_launch();
__attribute__((weak)) void check_finished(const void* kernel, cudaStream_t stream);

// Queues one kernel. Throws binade::Error naming the kernel when the configuration is not launchable.
template <class... P, class... A>
void launch(const LaunchConfig& config, void (*kernel)(P...), A... args) {
  static_assert((std::is_trivially_copyable_v<P> && ...), "kernel parameters must be trivially copyable");
  struct Call {
    void (*function)(P...);
    std::tuple<P...> parameters;
  };
  static_assert(sizeof(Call) <= ::simt::max_parameter_bytes, "kernel parameters must fit 512 bytes");
  ::simt::Kernel call;
  call.run = [](const void* bytes) {
    const Call& c = *static_cast<const Call*>(bytes);
    std::apply(c.function, c.parameters);
  };
  call.function = reinterpret_cast<const void*>(kernel);
  call.checked = ::simt::kernels_are_checked;
  call.bytes = sizeof(Call);
  new (call.parameters) Call{kernel, std::tuple<P...>(static_cast<P>(args)...)};
  ::simt::enqueue_kernel(config.grid, config.block, config.shared_bytes, config.stream, call);
  if (&syncs_each_launch != nullptr && syncs_each_launch()) check_finished(call.function, config.stream);
}

}  // namespace binade::cuda

// ---- device language

#define threadIdx (::simt::current.thread)
#define blockIdx (::simt::current.block)
#define blockDim (::simt::current.block_dim)
#define gridDim (::simt::current.grid_dim)
#define warpSize 32

// Each use has storage of its own, as __shared__ has.
#define SHARED(T, name, n)                       \
  static constexpr char simt_key_##name = 0;     \
  T(&name)[n] = *static_cast<T(*)[n]>(::simt::static_shared(&simt_key_##name, sizeof(T) * (n), alignof(T)))
#define SHARED1(T, name)                     \
  static constexpr char simt_key_##name = 0; \
  T& name = *static_cast<T*>(::simt::static_shared(&simt_key_##name, sizeof(T), alignof(T)))
#define DYN_SHARED(T, name) T* name = static_cast<T*>(::simt::dynamic_shared())

inline void __syncthreads(simt::Site site = simt::Site::current()) { simt::block_barrier(0, site); }
inline int __syncthreads_count(int predicate, simt::Site site = simt::Site::current()) {
  return simt::block_barrier(predicate, site);
}
inline int __syncthreads_or(int predicate, simt::Site site = simt::Site::current()) {
  return simt::block_barrier(predicate, site) != 0;
}
inline int __syncthreads_and(int predicate, simt::Site site = simt::Site::current()) {
  return simt::block_barrier(!predicate, site) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffU, simt::Site site = simt::Site::current()) {
  simt::warp_sync(mask, site);
}
inline void __threadfence() { simt::thread_fence(); }
inline void __threadfence_block() {}

inline unsigned __activemask() { return simt::active_mask(); }
inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Site site = simt::Site::current()) {
  return simt::warp_ballot(mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, simt::Site site = simt::Site::current()) {
  return simt::warp_ballot(mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, simt::Site site = simt::Site::current()) {
  return simt::warp_ballot(mask, predicate == 0, site) == 0;
}

namespace simt {

template <class T>
std::uint64_t to_word(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t word = 0;
  __builtin_memcpy(&word, &value, sizeof value);
  return word;
}
template <class T>
T from_word(std::uint64_t word) {
  T value;
  __builtin_memcpy(&value, &word, sizeof value);
  return value;
}
inline unsigned lane() { return current.linear & 31U; }

}  // namespace simt

// A source outside the segment of `width` lanes gives the caller's own value, as on the device.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, simt::Site site = simt::Site::current()) {
  const unsigned w = static_cast<unsigned>(width), base = simt::lane() & ~(w - 1);
  return simt::from_word<T>(
      simt::warp_shuffle(mask, simt::to_word(value), base + (static_cast<unsigned>(source) & (w - 1)), site));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, simt::Site site = simt::Site::current()) {
  const unsigned w = static_cast<unsigned>(width), lane = simt::lane();
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return simt::from_word<T>(
      simt::warp_shuffle(mask, simt::to_word(value), source < (lane & ~(w - 1)) + w ? source : lane, site));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, simt::Site site = simt::Site::current()) {
  const unsigned w = static_cast<unsigned>(width), lane = simt::lane();
  return simt::from_word<T>(
      simt::warp_shuffle(mask, simt::to_word(value), lane % w + delta < w ? lane + delta : lane, site));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, simt::Site site = simt::Site::current()) {
  const unsigned w = static_cast<unsigned>(width), lane = simt::lane();
  return simt::from_word<T>(
      simt::warp_shuffle(mask, simt::to_word(value), lane % w >= delta ? lane - delta : lane, site));
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, simt::Site site = simt::Site::current()) {
  return simt::warp_match(mask, simt::to_word(value), site);
}

namespace simt {

template <class T, class Combine>
T reduce_word(unsigned mask, T value, Combine, Site site) {
  return from_word<T>(warp_reduce(
      mask, to_word(value),
      [](std::uint64_t a, std::uint64_t b) { return to_word(static_cast<T>(Combine()(from_word<T>(a), from_word<T>(b)))); },
      site));
}
struct Add { template <class T> T operator()(T a, T b) const { return a + b; } };
struct Min { template <class T> T operator()(T a, T b) const { return b < a ? b : a; } };
struct Max { template <class T> T operator()(T a, T b) const { return a < b ? b : a; } };
struct And { template <class T> T operator()(T a, T b) const { return a & b; } };
struct Or { template <class T> T operator()(T a, T b) const { return a | b; } };

}  // namespace simt

// T: int or unsigned, as on the device.
template <class T>
T __reduce_add_sync(unsigned mask, T value, simt::Site site = simt::Site::current()) {
  return simt::reduce_word(mask, value, simt::Add(), site);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, simt::Site site = simt::Site::current()) {
  return simt::reduce_word(mask, value, simt::Min(), site);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, simt::Site site = simt::Site::current()) {
  return simt::reduce_word(mask, value, simt::Max(), site);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, simt::Site site = simt::Site::current()) {
  return simt::reduce_word(mask, value, simt::And(), site);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, simt::Site site = simt::Site::current()) {
  return simt::reduce_word(mask, value, simt::Or(), site);
}

// ---- atomics (simt_atomics.cpp); each returns the old value

float atomicAdd(float* address, float value);
double atomicAdd(double* address, double value);
int atomicAdd(int* address, int value);
unsigned atomicAdd(unsigned* address, unsigned value);
unsigned long long atomicAdd(unsigned long long* address, unsigned long long value);
int atomicSub(int* address, int value);
unsigned atomicSub(unsigned* address, unsigned value);
int atomicMin(int* address, int value);
unsigned atomicMin(unsigned* address, unsigned value);
int atomicMax(int* address, int value);
unsigned atomicMax(unsigned* address, unsigned value);
unsigned long long atomicMax(unsigned long long* address, unsigned long long value);
int atomicExch(int* address, int value);
unsigned atomicExch(unsigned* address, unsigned value);
float atomicExch(float* address, float value);
int atomicCAS(int* address, int compare, int value);
unsigned atomicCAS(unsigned* address, unsigned compare, unsigned value);
unsigned long long atomicCAS(unsigned long long* address, unsigned long long compare, unsigned long long value);
int atomicOr(int* address, int value);
unsigned atomicOr(unsigned* address, unsigned value);
int atomicAnd(int* address, int value);
unsigned atomicAnd(unsigned* address, unsigned value);
unsigned atomicInc(unsigned* address, unsigned limit);  // old >= limit ? 0 : old + 1

#include "simt_math.h"
