// Lengths of padded sequences for attention: checked and clamped on the device, where a training step does not wait for
// them; and what lies beyond them set to what it is defined to be, where a library leaves it open.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <algorithm>

#include "binade/cuda/kernels/attention.h"
#include "binade/cuda/kernels/attention_tiles.h"
#include "binade/cuda/kernels/fault.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

struct GivenLengths {  // as the caller gave them, or absent: `time`
  Span data;
  std::int64_t stride, time;
  IndexUser user;
  __device__ __forceinline__ std::int64_t checked(std::int64_t b, IndexFault* fault) const {
    if (!data) return time;
    const std::int64_t at = b * stride;
    const std::int64_t length = data.dtype == DType::i32 ? reinterpret_cast<const std::int32_t*>(data.data)[at]
                                                         : reinterpret_cast<const std::int64_t*>(data.data)[at];
    if (length >= 0 && length <= time) return length;
    note_fault(fault, user, b, length, time);
    return length < 0 ? 0 : time;
  }
};
GivenLengths given_lengths(const TensorView& lengths, std::int64_t time, IndexUser user) {
  return {span_of(lengths), lengths ? lengths.stride(0) : 0, time, user};
}

// `kv` is null for self-attention, whose lengths are `queries`.
__global__ void __launch_bounds__(block_threads, resident_blocks)
    attention_lengths_kernel(GivenLengths queries, GivenLengths keys, std::int32_t* q, std::int32_t* kv,
                             std::int64_t batch, IndexFault* fault) {
  const std::int64_t b = global_thread();
  if (b >= batch) return;
  const std::int64_t of_q = queries.checked(b, fault), of_kv = kv ? keys.checked(b, fault) : of_q;
  const bool nothing = of_q == 0 || of_kv == 0;
  q[b] = nothing ? 0 : static_cast<std::int32_t>(of_q);
  if (kv) kv[b] = nothing ? 0 : static_cast<std::int32_t>(of_kv);
}

struct PaddedRows {
  HeadRows rows;
  const std::int32_t* lengths;
  std::int64_t count, heads, time;  // count: batch heads time
  int width;                        // elements of a row
  float value;
};
constexpr int most_padded = 3;
struct PaddedOperands {
  PaddedRows of[most_padded];
};

// One warp per row, of each operand.
__global__ void __launch_bounds__(block_threads, resident_blocks) clear_beyond_kernel(PaddedOperands operands) {
  const std::int64_t row = global_thread() / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int k = 0; k < most_padded; ++k) {
    const PaddedRows& x = operands.of[k];
    if (row >= x.count) continue;  // whole warps
    const std::int64_t i = row % x.time, head = row / x.time % x.heads, batch = row / x.time / x.heads;
    if (i < x.lengths[batch]) continue;
    const Span data = x.rows.of_head(batch, head);
    const std::int64_t first = i * x.rows.strides[2];
    if (x.rows.vectors) {
      Vector values;
#pragma unroll
      for (int j = 0; j < vector_length; ++j) values.v[j] = x.value;
      for (int c = lane; c < x.width / vector_length; c += 32)
        store_vector(data.data, data.dtype, first / vector_length + c, values);
    } else {
      for (int c = lane; c < x.width; c += 32) data.set<Formats::arithmetic>(first + c, x.value);
    }
  }
}

void attention_lengths(TensorView q, TensorView kv, TensorView q_lengths, TensorView kv_lengths, std::int64_t time_q,
                       std::int64_t time_k) {
  const std::int64_t batch = q.size(0);
  if (batch == 0) return;
  launch(one_thread_each(batch, q.device), attention_lengths_kernel,
         given_lengths(q_lengths, time_q, kv ? IndexUser::query_lengths : IndexUser::self_attention_lengths),
         given_lengths(kv_lengths, time_k, IndexUser::key_lengths), q.as<std::int32_t>(), kv.as<std::int32_t>(), batch,
         index_fault_of(q.device));
}

}  // namespace

void clear_beyond(std::span<const BeyondLengths> tensors) {
  check(tensors.size() <= most_padded, "attention: at most ", most_padded, " tensors are cleared at once");
  PaddedOperands operands{};
  std::int64_t most = 0;
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    const TensorView& x = tensors[k].x;
    operands.of[k] = {head_rows(x),
                      tensors[k].lengths.as<const std::int32_t>(),
                      x.size(0) * x.size(1) * x.size(2),
                      x.size(1),
                      x.size(2),
                      x.dim() == 4 ? static_cast<int>(x.size(3)) : 1,
                      tensors[k].value};
    most = std::max(most, operands.of[k].count);
  }
  if (most > 0) launch(one_thread_each(most * 32, tensors[0].x.device), clear_beyond_kernel, operands);
}

void provide_attention_lengths();
void provide_attention_lengths() { kernel::attention_lengths.provide(DeviceType::cuda, attention_lengths); }

}  // namespace binade::cuda
