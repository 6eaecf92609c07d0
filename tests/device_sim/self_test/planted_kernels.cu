// Kernels with one mistake each, see planted_kernels.h. Blocks of 64 threads.
#ifndef BINADE_CUDA_LAUNCH_H
#include "binade/cuda/kernels/launch.h"
#endif
// launch.h first
#include <cuda_bf16.h>

#include "planted_kernels.h"

namespace binade::test {

float host_variable = 1;

namespace {

constexpr unsigned all_lanes = 0xffffffffU;

__global__ void bounds_kernel(Planted what, const float* in, float* out, int n) {
  SHARED(float, shared, 64);
  DYN_SHARED(float, dynamic);
  const int t = static_cast<int>(threadIdx.x);
  switch (what) {
    case Planted::write_past_end: out[t + 1] = 1; break;
    case Planted::write_before_start: out[t - 1] = 1; break;
    case Planted::read_past_end: out[t] = in[t + 1]; break;
    case Planted::half_past_end: {
      const float4 v = *reinterpret_cast<const float4*>(in + (t < 15 ? t * 4 : 60));
      out[t] = v.x + v.w;
      break;
    }
    case Planted::uninitialised_global: out[t] = in[t] + 1; break;
    case Planted::uninitialised_shared: out[t] = shared[t]; break;
    case Planted::shared_past_end: shared[t + 1] = 1; break;
    case Planted::dynamic_shared_past_end: dynamic[t + 1] = 1; break;
    case Planted::misaligned_vector: {
      const float4 v = *reinterpret_cast<const float4*>(in + (t < 8 ? t * 4 + 1 : 0));
      out[t] = v.x + v.w;
      break;
    }
    case Planted::misaligned_pair: {
      const auto* halves = reinterpret_cast<const __nv_bfloat16*>(in);
      out[t] = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(halves + 1)).x;
      break;
    }
    case Planted::host_heap:
    case Planted::null_pointer:
    case Planted::other_device: out[t] = in[t]; break;
    case Planted::host_write: out[t] = 1; break;
    case Planted::misaligned_atomic: {
      char* bytes = reinterpret_cast<char*>(out);
      atomicAdd(reinterpret_cast<int*>(bytes + 2), 1);
      break;
    }
    case Planted::atomic_past_end: atomicAdd(out + n, 1.0F); break;
    default: break;
  }
}

__global__ void host_variable_kernel(const float* variable, float* out) { out[threadIdx.x] = *variable; }

__global__ void races_kernel(Planted what, float* out) {
  SHARED(float, shared, 64);
  const int t = static_cast<int>(threadIdx.x), w = t / 32;
  switch (what) {
    case Planted::shared_race_read_write:
      shared[t] = 0;
      __syncthreads();
      shared[t] = static_cast<float>(t);
      out[t] = shared[(t + 33) % 64];
      break;
    case Planted::shared_race_write_write: shared[t / 2] = static_cast<float>(t); break;
    case Planted::shared_race_second_round:
      for (int round = 0; round < 2; ++round) {
        shared[t] = static_cast<float>(t + round);
        __syncthreads();
        out[t] = shared[63 - t];
      }
      break;
    case Planted::global_race_in_block:
      out[t] = static_cast<float>(t);
      out[t] += out[t ^ 33];
      break;
    case Planted::block_race: out[t] = static_cast<float>(blockIdx.x); break;
    case Planted::block_race_read:
      if (blockIdx.x == 0) out[t] = 1;
      if (blockIdx.x == 1) out[t + 64] = out[t] + 1;
      break;
    case Planted::atomic_and_plain:
      if (t == 0 && blockIdx.x == 0) atomicAdd(out, 1.0F);
      if (t == 0 && blockIdx.x == 1) out[0] = 2;
      break;
    case Planted::missing_fence: {
      auto* done = reinterpret_cast<unsigned*>(out + 100);
      if (t == 0) {
        out[blockIdx.x] = 1;
        if (atomicAdd(done, 1U) == gridDim.x - 1) {
          float total = 0;
          for (unsigned b = 0; b < gridDim.x; ++b) total += out[b];
          out[64] = total;
        }
      }
      break;
    }
    case Planted::missing_syncwarp: {
      if (t % 32 == 0) shared[w] = 1;
      __syncwarp();
      const float before = shared[w];
      if (t % 32 == 31) shared[w] = 2;
      __syncwarp();
      out[t] = before + shared[w];
      break;
    }
    case Planted::shuffle_is_no_barrier:
      if (t % 32 == 0) shared[w] = 1;
      out[t] = __shfl_xor_sync(all_lanes, static_cast<float>(t), 1);
      out[t] += shared[w];
      break;
    default: break;
  }
}

__global__ void meetings_kernel(Planted what, float* out) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  float value = static_cast<float>(t);
  switch (what) {
    case Planted::divergent_barrier:
      if (t != 5) __syncthreads();
      break;
    case Planted::barrier_after_exit:
      if (t < 7) return;
      __syncthreads();
      break;
    case Planted::two_barriers:
      if (t < 32) {
        __syncthreads();
      } else {
        value += 1;
        __syncthreads();
      }
      break;
    case Planted::divergent_shuffle:
      if (lane % 2) value += __shfl_xor_sync(all_lanes, value, 1);
      break;
    case Planted::shuffle_outside_mask:
      if (lane < 16) value += __shfl_sync(0x0000ffffU, value, 20);
      break;
    case Planted::caller_outside_mask: value += __shfl_xor_sync(0x0000ffffU, value, 1); break;
    case Planted::shuffle_after_exit:
      if (lane == 3) return;
      value += __shfl_xor_sync(all_lanes, value, 1);
      break;
    case Planted::different_masks: value += __shfl_xor_sync(lane < 8 ? 0x0000ffffU : 0x00ff00ffU, value, 1); break;
    default: break;
  }
  out[t] = value;
}

}  // namespace

void run_planted(Planted what, const float* in, float* out, int n, cudaStream_t stream) {
  const cuda::LaunchConfig one{dim3(1), dim3(64), 256, stream};
  if (what == Planted::host_global) {
    cuda::launch(one, host_variable_kernel, &host_variable, out);
  } else if (what >= Planted::shared_race_read_write && what <= Planted::shuffle_is_no_barrier) {
    const bool blocks = what >= Planted::block_race && what <= Planted::missing_fence;
    cuda::launch(cuda::LaunchConfig{dim3(blocks ? 2 : 1), dim3(64), 0, stream}, races_kernel, what, out);
  } else if (what >= Planted::divergent_barrier && what <= Planted::different_masks) {
    cuda::launch(one, meetings_kernel, what, out);
  } else {
    cuda::launch(one, bounds_kernel, what, in, out, n);
  }
}

}  // namespace binade::test
