// kernel::attention and its gradient: cuDNN's fused plans where they can do the call, else our own kernels. Both save
// the same logsumexp, so that the gradient may take the other road than its forward pass.
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/attention.h"
#include "binade/cuda/libs/cudnn_plans.h"

namespace binade::cuda {

namespace {

// Why the call is not for cuDNN, or nothing. Dropout: the library's own random numbers are not the words of our draw.
// Masks: the library wants them as scores in memory, and a row that sees nothing would give NaN.
std::string_view why_not(const TensorView& mask, const kernel::AttentionOptions& options,
                         std::initializer_list<TensorView> tensors) {
  if (mask) return "a mask";
  if (options.dropout > 0) return "dropout";
  const std::int64_t d = tensors.begin()->size(3);
  if (d % 8 != 0 || d > 256) return "d is not a multiple of 8 up to 256";
  if (const std::string_view reason = why_not_plan(tensors); !reason.empty()) return reason;
  for (const TensorView& x : tensors)
    for (int dim = 0; dim < 3; ++dim)
      if (x.size(dim) > 1 && x.stride(dim) % 8 != 0) return "rows are not aligned to 16 bytes";
  return {};
}

// The library does not say what it leaves in rows beyond the lengths, so they are set here.
void clear_results(std::initializer_list<BeyondLengths> results) {
  if (results.begin()->lengths) clear_beyond(std::span(results.begin(), results.size()));
}

void attention(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
               kernel::AttentionOptions options) {
  const std::string_view reason = why_not(mask, options, {q, k, v, o});
  if (!reason.empty()) {
    trace_own_kernels("attention", q.device, reason);
  } else {
    const TensorView &q_lengths = options.q_lengths, &kv_lengths = options.kv_lengths;
    const SdpaForward spec{plan_tensor(q),
                           plan_tensor(k),
                           plan_tensor(v),
                           plan_tensor_if_given(q_lengths),
                           plan_tensor_if_given(kv_lengths),
                           plan_tensor(o),
                           plan_tensor(lse),
                           options.scale,
                           options.causal};
    const std::vector<void*> pointers = pointers_of({q, k, v, q_lengths, kv_lengths, o, lse});
    if (run_plan("attention", spec, q.device, pointers))
      return clear_results({{o, q_lengths}, {lse, q_lengths, std::numeric_limits<float>::infinity()}});
  }
  own_attention(q, k, v, mask, o, lse, options);
}

void attention_backward(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                        TensorView d_o, TensorView dq, TensorView dk, TensorView dv, kernel::AttentionOptions options) {
  const std::string_view reason = dq && dk && dv ? why_not(mask, options, {q, k, v, o, d_o, dq, dk, dv})
                                                 : std::string_view("not all gradients are wanted");
  if (!reason.empty()) {
    trace_own_kernels("attention_backward", q.device, reason);
  } else {
    const TensorView &q_lengths = options.q_lengths, &kv_lengths = options.kv_lengths;
    const SdpaBackward spec{plan_tensor(q),
                            plan_tensor(k),
                            plan_tensor(v),
                            plan_tensor(o),
                            plan_tensor(d_o),
                            plan_tensor(lse),
                            plan_tensor_if_given(q_lengths),
                            plan_tensor_if_given(kv_lengths),
                            plan_tensor(dq),
                            plan_tensor(dk),
                            plan_tensor(dv),
                            options.scale,
                            options.causal};
    const std::vector<void*> pointers = pointers_of({q, k, v, o, d_o, lse, q_lengths, kv_lengths, dq, dk, dv});
    if (run_plan("attention_backward", spec, q.device, pointers))
      return clear_results({{dq, q_lengths}, {dk, kv_lengths}, {dv, kv_lengths}});
  }
  own_attention_backward(q, k, v, mask, o, lse, d_o, dq, dk, dv, options);
}

}  // namespace

void provide_attention_cudnn();
void provide_attention_cudnn() {
  kernel::attention.provide(DeviceType::cuda, attention);
  kernel::attention_backward.provide(DeviceType::cuda, attention_backward);
}

}  // namespace binade::cuda
