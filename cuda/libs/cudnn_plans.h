// What binade asks of cuDNN: a closed list of specifications, the plans made from them, and one cache of plans. Who
// makes plans is decided at link time: cudnn_frontend_graphs.cpp (the library), cudnn_plans_absent.cpp (nobody), or the
// simulated device of the tests.
#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "binade/core/tensor/view.h"

namespace binade::cuda {

// Four dims, strides in elements; absent where `given` is false.
struct PlanTensor {
  bool given = false;
  DType dtype = DType::f32;
  std::array<std::int64_t, 4> dims{}, strides{};
};
// A view of at most four dims; fewer are filled up with ones at the end. Strides of dims of size 1 are made what they
// would be without gaps, so that equal calls have equal specifications.
PlanTensor plan_tensor(const TensorView& x);
PlanTensor plan_tensor_if_given(const TensorView& x);
PlanTensor plan_tensor_of_channels(const TensorView& x);  // a vector [c] as [1, c, 1, 1]

// Attention as kernels.h defines it, without mask and dropout: operands [batch, heads, time, d] of one 16-bit dtype, k
// and v with fewer heads where shared by groups of q's; lse [batch, heads, time_q, 1] f32, natural logarithm. Lengths,
// i32 [batch, 1, 1, 1] in [0, time], given together or not at all: what results hold in rows beyond them is undefined.
struct SdpaForward {
  PlanTensor q, k, v, q_lengths, kv_lengths, o, lse;
  double scale = 1;
  bool causal = false;  // query i sees keys j <= i
};
struct SdpaBackward {
  PlanTensor q, k, v, o, d_o, lse, q_lengths, kv_lengths, dq, dk, dv;
  double scale = 1;
  bool causal = false;
};

// Cross-correlation of x [batch, c_in, h, w] with weight [c_out, c_in / groups, kh, kw]; the groups follow from the
// channels. All tensors of one 16-bit dtype, without gaps, with their dims in order or all with channels innermost: for
// other strides the library may build a plan and compute something else.
struct ConvGeometry {
  std::array<std::int64_t, 2> stride{1, 1}, padding{0, 0}, dilation{1, 1};
};
struct ConvForward {
  PlanTensor x, weight, bias, y;  // bias [1, c_out, 1, 1], or absent: added before the one rounding
  ConvGeometry geometry;
  bool relu = false;  // y = max(0, sum)
};
struct ConvDataGradient {
  PlanTensor dy, weight, dx;
  ConvGeometry geometry;
};
struct ConvWeightGradient {
  PlanTensor x, dy, dweight;
  ConvGeometry geometry;
};

// Batch norm in training: x, y and their gradients [n, c, h, w] of one dtype (f32 too), statistics over n, h and w; all
// else [1, c, 1, 1] in f32. next = (1 - momentum) running + momentum new, the variance unbiased; absent together.
struct BatchNormForward {
  PlanTensor x, scale, bias, running_mean, running_var, y, mean, rstd, next_mean, next_var;
  double eps = 0, momentum = 0;
};
struct BatchNormBackward {
  PlanTensor dy, x, scale, mean, rstd, dx, dscale, dbias;
};

using PlanSpec = std::variant<SdpaForward, SdpaBackward, ConvForward, ConvDataGradient, ConvWeightGradient,
                              BatchNormForward, BatchNormBackward>;

struct NamedTensor {
  std::string_view name;
  PlanTensor tensor;
  bool output;
};
// The tensors given, in the order of the members. execute() takes their pointers in this order; the library knows them
// by their place in it.
std::vector<NamedTensor> tensors_of(const PlanSpec& spec);
std::string to_text(const PlanSpec& spec);  // all of it, in one line: equal texts are equal specifications

class Plan {
 public:
  virtual ~Plan() = default;
  virtual std::size_t workspace_bytes() const = 0;
  virtual std::string engine() const = 0;               // what the library calls the kernel it chose
  virtual std::vector<PlanTensor> tensors() const = 0;  // as the library has them, in the order of tensors_of()
  virtual std::vector<std::uint8_t> serialize() const = 0;
  // Pointers aligned to 16 bytes, workspace too; on the stream's device, which is current.
  virtual void execute(cudaStream_t stream, std::span<void* const> pointers, void* workspace) const = 0;
};

// ---- who makes plans. All throw Error with the library's reason.
std::string plan_library();  // name and version
// The GPU that a plan is for. One that is there is asked by the library itself: from a description alone, however
// complete, it shapes some launches for a fraction of the multiprocessors (18 of an H100's 132 for attention).
struct PlanGpu {
  std::string properties;        // what the library knows of it, as its JSON
  std::optional<Device> device;  // absent: it need not be there, for plans that are built and never executed
};
PlanGpu plan_gpu(Device device);
std::unique_ptr<Plan> build_plan(const PlanSpec& spec, const PlanGpu& gpu);
std::unique_ptr<Plan> restore_plan(const PlanSpec& spec, const PlanGpu& gpu, std::span<const std::uint8_t> serialized);

// ---- the cache

// Runs the specification on the device's stream, or returns false where the library refuses it; both are remembered per
// device. A plan is also kept in the folder that BINADE_CUDNN_CACHE names, if any, for later processes: by library,
// GPU and specification. `op` names the call in traces (BINADE_TRACE=dispatch).
bool run_plan(std::string_view op, const PlanSpec& spec, Device device, std::span<void* const> pointers);
// The views that are given: what run_plan() takes, where they are named in the order of the specification's members.
std::vector<void*> pointers_of(std::initializer_list<TensorView> views);
// Why a plan cannot use these tensors as they lie, or nothing: 16-bit floats (or f32) of one dtype, with elements, no
// dim repeated, aligned to 16 bytes, and cuDNN not switched off (BINADE_CUDNN=0). An absent view is left out.
std::string_view why_not_plan(std::initializer_list<TensorView> tensors, bool or_f32 = false);
void trace_own_kernels(std::string_view op, Device device, std::string_view reason);

}  // namespace binade::cuda
