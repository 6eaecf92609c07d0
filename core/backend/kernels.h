// Every kernel a backend provides, one typed line each (a new family may bring its own in <stem>_kernels.h beside it).
// Views arrive checked: shapes agree, all on one device, outputs allocated; an absent view means "not given" or
// "not wanted". Views may be strided unless a line says contiguous. Floating arithmetic is done in float (double for
// f64) and rounded once on store; sums are accumulated in float or better, in an order that does not depend on the
// number of threads. `accumulate` adds to what the output holds, otherwise it is overwritten.
#pragma once
#include <cstdint>
#include <span>

#include "binade/core/backend/kernel_slot.h"
#include "binade/core/backend/matmul_precision.h"
#include "binade/core/base/random.h"

namespace binade::kernel {

// ---- elementwise (formulas: ops/formulas.h). Inputs are broadcast to the output's shape by stride 0. --------------
struct FormulaArgs {  // a formula's constants, such as leaky_relu's slope
  double a = 0, b = 0;
};
template <class Formula>
inline KernelSlot<void(TensorView x, TensorView y, FormulaArgs args)> unary_forward{Formula::name};
template <class Formula>  // dx = Formula::backward(x, dy)
inline KernelSlot<void(TensorView x, TensorView dy, TensorView dx, FormulaArgs args)> unary_backward{Formula::name};
template <class Formula>
inline KernelSlot<void(TensorView a, TensorView b, TensorView y)> binary_forward{Formula::name};
template <class Formula>  // da, db have dy's (broadcast) shape
inline KernelSlot<void(TensorView a, TensorView b, TensorView dy, TensorView da, TensorView db)> binary_backward{
    Formula::name};
template <class Formula>  // y is bool; a and b have one dtype, any
inline KernelSlot<void(TensorView a, TensorView b, TensorView y)> compare{Formula::name};
inline KernelSlot<void(TensorView condition, TensorView a, TensorView b, TensorView y)> where{"where"};

inline KernelSlot<void(TensorView source, TensorView y)> copy{"copy"};  // any dtypes; broadcasts source
inline KernelSlot<void(TensorView x, TensorView y, double alpha)> add_into{"add_into"};  // y += alpha x, any floats
inline KernelSlot<void(TensorView y, double value)> fill{"fill"};
inline KernelSlot<void(TensorView y, double start, double step)> arange{"arange"};

// ---- random: element i (row-major) uses word i of the draw (normal: words 2i, 2i + 1) ------------------------------
inline KernelSlot<void(TensorView y, PhiloxState state, double low, double high)> uniform{"uniform"};
inline KernelSlot<void(TensorView y, PhiloxState state, double mean, double stddev)> normal{"normal"};
inline KernelSlot<void(TensorView y, PhiloxState state, std::int64_t low, std::int64_t high)> randint{"randint"};
// y = x / (1 - p) where uniform(i) >= p, else 0. Backward is the same kernel on dy.
inline KernelSlot<void(TensorView x, TensorView y, PhiloxState state, double p)> dropout{"dropout"};

// ---- reductions: y has x's rank, size 1 where reduced -------------------------------------------------------------
inline KernelSlot<void(TensorView x, TensorView y, double scale, bool accumulate)> sum{"sum"};  // y (+)= scale * sum x
inline KernelSlot<void(TensorView x, TensorView y)> amax{"amax"};  // NaN propagates
inline KernelSlot<void(TensorView x, TensorView y)> amin{"amin"};
inline KernelSlot<void(TensorView x, TensorView mean, TensorView y, double correction)> var{"var"};  // mean: as y
inline KernelSlot<void(TensorView x, TensorView y)> norm{"norm"};              // sqrt(sum x^2)
inline KernelSlot<void(TensorView x, TensorView y)> logsumexp{"logsumexp"};
inline KernelSlot<void(TensorView x, TensorView y)> argmax{"argmax"};  // y i64; one dim reduced, or all; first wins
inline KernelSlot<void(TensorView x, TensorView y)> argmin{"argmin"};

// ---- matrix product: c[.., m, n] (+)= a[.., m, k] b[.., k, n] + bias[n]. Batch dims equal (stride 0 allowed);
// a transposed operand is a transposed view. a and b have one dtype; c the same, or f32 for 16-bit operands. ----------
// What else is wanted of a two-dimensional product, absent where nothing is. A backend whose library computes one of
// these in the same pass writes it and makes it absent here; what is left, the caller computes.
struct MatmulEpilogue {
  TensorView row_sums;  // [m] = the sums of a's rows: the gradient of a bias, where a is dy transposed
  TensorView gelu;      // of c's shape and dtype, contiguous: gelu_tanh(c)
};
// Products of f32 operands follow `precision`, here and in attention and convolution: what is set when the options are
// made, which is when the kernel is called.
struct MatmulOptions {
  bool accumulate = false;
  MatmulPrecision precision = float32_matmul_precision();
  MatmulEpilogue* epilogue = nullptr;
};
inline KernelSlot<void(TensorView a, TensorView b, TensorView bias, TensorView c, MatmulOptions options)> matmul{
    "matmul"};

// ---- rows: x [rows, n] contiguous --------------------------------------------------------------------------------
inline KernelSlot<void(TensorView x, TensorView y, bool log)> softmax{"softmax"};
inline KernelSlot<void(TensorView y, TensorView dy, TensorView dx, bool log)> softmax_backward{"softmax_backward"};
// weight, bias [n] or absent; y may have another dtype than x, and an f32 x a narrower dy; mean, rstd [rows] f32 (f64 for f64)
inline KernelSlot<void(TensorView x, TensorView weight, TensorView bias, TensorView y, TensorView mean,
                       TensorView rstd, double eps)>
    layer_norm{"layer_norm"};
struct NormAccumulate {  // what is added to its target instead of overwriting it
  bool x = false, parameters = false;
};
inline KernelSlot<void(TensorView x, TensorView weight, TensorView mean, TensorView rstd, TensorView dy, TensorView dx,
                       TensorView dweight, TensorView dbias, NormAccumulate accumulate)>
    layer_norm_backward{"layer_norm_backward"};
inline KernelSlot<void(TensorView x, TensorView weight, TensorView y, TensorView rstd, double eps)> rms_norm{
    "rms_norm"};
// sum = residual + dropout(branch), each rounded to its dtype, and from the same pass y, mean and rstd as the norm of it:
// layer_norm where mean is given, else rms_norm. residual, branch, sum, y [rows, n] contiguous. The bits of the kernels
// one by one.
struct AddNormOptions {
  double eps = 0;
  double dropout = 0;  // 0: none, and no draw
  PhiloxState state;
};
inline KernelSlot<void(TensorView residual, TensorView branch, TensorView weight, TensorView bias, TensorView sum,
                       TensorView y, TensorView mean, TensorView rstd, AddNormOptions options)>
    add_norm{"add_norm"};
inline KernelSlot<void(TensorView x, TensorView weight, TensorView rstd, TensorView dy, TensorView dx,
                       TensorView dweight, NormAccumulate accumulate)>
    rms_norm_backward{"rms_norm_backward"};
// x [outer, channels, inner], statistics over (outer, inner) of each channel given: y = (x - mean) rstd weight + bias
inline KernelSlot<void(TensorView x, TensorView mean, TensorView rstd, TensorView weight, TensorView bias,
                       TensorView y)>
    batch_norm{"batch_norm"};
inline KernelSlot<void(TensorView x, TensorView mean, TensorView var, TensorView rstd, double eps)>
    batch_norm_statistics{"batch_norm_statistics"};  // per channel mean, biased variance, 1 / sqrt(variance + eps)
// All of a training pass, with or without running statistics [channels]: mean, rstd and y as above, and
// running = (1 - momentum) running + momentum new, where the variance is the unbiased one
struct BatchNormTraining {
  TensorView running_mean, running_var;
  double eps = 1e-5, momentum = 0.1;
};
inline KernelSlot<void(TensorView x, TensorView weight, TensorView bias, TensorView y, TensorView mean,
                       TensorView rstd, BatchNormTraining training)>
    batch_norm_training{"batch_norm_training"};
inline KernelSlot<void(TensorView x, TensorView mean, TensorView rstd, TensorView weight, TensorView dy, TensorView dx,
                       TensorView dweight, TensorView dbias, bool training)>
    batch_norm_backward{"batch_norm_backward"};  // training: the statistics depend on x

// ---- losses -------------------------------------------------------------------------------------------------------
struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;
  double label_smoothing = 0;
};
// logits [rows, classes], the classes of a row side by side, dlogits with the same strides, targets [rows] i64; loss, lse
// [rows] f32 (f64 for f64); an ignored row has loss 0.
// Throws Error naming the target for a class index out of range.
inline KernelSlot<void(TensorView logits, TensorView targets, TensorView loss, TensorView lse,
                       CrossEntropyOptions options)>
    cross_entropy{"cross_entropy"};
inline KernelSlot<void(TensorView logits, TensorView targets, TensorView lse, TensorView dloss, TensorView dlogits,
                       CrossEntropyOptions options)>  // dlogits may be logits itself
    cross_entropy_backward{"cross_entropy_backward"};

// ---- tables -------------------------------------------------------------------------------------------------------
// weight [rows, n], indices [count] i64, y [count, n]; throws Error naming an index out of range.
inline KernelSlot<void(TensorView weight, TensorView indices, TensorView y)> embedding{"embedding"};
inline KernelSlot<void(TensorView dy, TensorView indices, TensorView dweight, bool accumulate)> embedding_backward{
    "embedding_backward"};  // deterministic
// torch.gather / scatter_add along `dim`: index has y's (source's) rank and shape
inline KernelSlot<void(TensorView x, TensorView index, TensorView y, int dim)> gather{"gather"};
inline KernelSlot<void(TensorView source, TensorView index, TensorView y, int dim)> scatter_add{"scatter_add"};

// ---- attention: q [batch, heads, time_q, d], k, v [batch, kv_heads, time_k, d], o as q; the last dim contiguous ----
struct AttentionOptions {
  double scale = 1;
  bool causal = false;  // query i sees keys j <= i
  double dropout = 0;   // of the probabilities: word ((b*heads + h)*time_q + i)*time_k + j of `state`
  PhiloxState state;
  MatmulPrecision precision = float32_matmul_precision();  // for f32 q: of q, k, v, d_o, and of what they multiply
  // As attention_lengths writes them, or both absent: all of time_q and time_k. Of sequence b, queries from q_lengths[b]
  // on see nothing, and keys from kv_lengths[b] on are seen by nobody; what lies there need not be read.
  TensorView q_lengths, kv_lengths;
};
// mask [batch, heads, time_q, time_k] (strides 0 where broadcast): bool, true = may attend; or floating, added to the
// scores. lse [batch, heads, time_q] f32 (f64). A row that sees nothing gives zeros and lse = -inf. Rows beyond lengths: all
// results and gradients zeros, lse inf, so that exp(score - lse) is 0 wherever somebody reads them after all.
inline KernelSlot<void(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                       AttentionOptions options)>
    attention{"attention"};
inline KernelSlot<void(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                       TensorView d_o, TensorView dq, TensorView dk, TensorView dv, AttentionOptions options)>
    attention_backward{"attention_backward"};
// Lengths of sequences, i32 or i64 [batch] or absent (the whole time), as i32 [batch], contiguous, for the options above.
// Throws Error naming the length that is not in [0, time]; where that is thrown later it is meanwhile the nearer end.
// Where a sequence has no queries or no keys, both lengths become 0. Self-attention: kv and kv_lengths are absent.
inline KernelSlot<void(TensorView q, TensorView kv, TensorView q_lengths, TensorView kv_lengths, std::int64_t time_q,
                       std::int64_t time_k)>
    attention_lengths{"attention_lengths"};
// Rotates pairs of the last dim of x [.., time, d] by the angle whose cosine and sine are in cos, sin [time, d/2] f32
// (f64 for f64), contiguous;
// pairs (2i, 2i+1) when interleaved, else (i, i + d/2). Inverse rotates back (the backward pass).
inline KernelSlot<void(TensorView x, TensorView cos, TensorView sin, TensorView y, bool interleaved, bool inverse)>
    rotary{"rotary"};

// ---- convolution: x [batch, c_in, h, w], weight [c_out, c_in/groups, kh, kw], y [batch, c_out, oh, ow] --------------
struct ConvOptions {
  std::int64_t stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
  std::int64_t groups = 1;
  MatmulPrecision precision = float32_matmul_precision();
  bool relu = false;  // y = max(0, convolution + bias), NaN stays; conv2d only
};
inline KernelSlot<void(TensorView x, TensorView weight, TensorView bias, TensorView y, ConvOptions options)> conv2d{
    "conv2d"};
inline KernelSlot<void(TensorView dy, TensorView weight, TensorView dx, ConvOptions options)> conv2d_backward_data{
    "conv2d_backward_data"};
inline KernelSlot<void(TensorView x, TensorView dy, TensorView dweight, ConvOptions options)> conv2d_backward_weight{
    "conv2d_backward_weight"};

struct PoolOptions {
  std::int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[2] = {0, 0};
  bool count_include_pad = true;  // average pooling
};
// index: i64, the position h*w + w' of each maximum within its plane
inline KernelSlot<void(TensorView x, TensorView y, TensorView index, PoolOptions options)> max_pool2d{"max_pool2d"};
inline KernelSlot<void(TensorView dy, TensorView index, TensorView dx, PoolOptions options)> max_pool2d_backward{
    "max_pool2d_backward"};
inline KernelSlot<void(TensorView x, TensorView y, PoolOptions options)> avg_pool2d{"avg_pool2d"};
inline KernelSlot<void(TensorView dy, TensorView dx, PoolOptions options)> avg_pool2d_backward{"avg_pool2d_backward"};

// ---- multi-tensor: optimizer, scaler, clipping. All views contiguous. Flags and counters are read and written where
// they lie, so that no step waits for the host: `skip`, f32 [1] or absent, makes a kernel do nothing where it is not 0. --
struct GradItem {  // one gradient
  TensorView grad;
  TensorView where() const { return grad; }
};
// grad *= float(1 / double(*scale)); *found_inf = 1 where any element is not finite (found_inf is not cleared here)
inline KernelSlot<void(std::span<const GradItem>, TensorView scale, TensorView found_inf)> unscale{"unscale"};
// One pass that reads: *norm, that of the gradients times float(1 / double(*scale)), absent: times 1; *found_inf = 1 where
// any element is not finite, else 0. Either result may be absent.
inline KernelSlot<void(std::span<const GradItem>, TensorView scale, TensorView norm, TensorView found_inf)>
    inspect_gradients{"inspect_gradients"};
// *grad_scale, f64 [1] = float(1 / double(*scale)) min(1, max_norm / (*norm + 1e-6)); scale, norm f32 [1], absent: no factor
inline KernelSlot<void(TensorView grad_scale, TensorView scale, TensorView norm, double max_norm)> gradient_scale{
    "gradient_scale"};
// grad *= min(1, max_norm / (*norm + 1e-6))
inline KernelSlot<void(std::span<const GradItem>, TensorView norm, double max_norm)> clip_by_norm{"clip_by_norm"};
inline KernelSlot<void(std::span<const GradItem>, double limit)> clip_by_value{"clip_by_value"};
struct SumItem {  // of one shape
  TensorView x, y;
  TensorView where() const { return y; }
};
inline KernelSlot<void(std::span<const SumItem>)> add_all{"add_all"};  // y += x, any arithmetic floats; no y twice

struct OptimizerItem {  // one parameter
  TensorView param, grad;
  TensorView m, v;           // f32 or bf16 (f64 for an f64 parameter), or absent
  TensorView master;         // f32 copy of a 16-bit parameter: what is updated; or absent. Where the parameter is not the
                             // copy's rounding, it was changed from outside, and the copy takes its value.
  TensorView step;           // i64, one element: updates done; counted up unless skipped
  std::uint64_t first_word;  // of a stochastic rounding's draw: element i uses word first_word + i
  TensorView rounded = {};   // of an f32 parameter, written with it: its rounding to f16 or bf16; or absent
  TensorView where() const { return param; }
};
struct Rounding {  // of an updated 16-bit parameter
  bool stochastic = false;  // core/base/stochastic.h, without a master copy; otherwise to nearest even
  PhiloxState state;
};
struct StepInputs {  // what an update finds in the device's memory; each may be absent
  TensorView skip;        // f32 [1]: where it is not 0 nothing is updated and no step counted
  TensorView grad_scale;  // f64 [1]: gradients are multiplied by it as they are read
  TensorView numbers;     // f64 [2]: lr and weight_decay, in place of the options': a recorded step follows a schedule
};
struct AdamOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decoupled = true;  // AdamW; false: decay added to the gradient
  Rounding rounding;
};
inline KernelSlot<void(std::span<const OptimizerItem>, AdamOptions, StepInputs)> adam{"adam"};
struct SgdOptions {
  double lr = 1e-2, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false;
  Rounding rounding;
};
// m: the momentum buffer, set at the first step, or absent
inline KernelSlot<void(std::span<const OptimizerItem>, SgdOptions, StepInputs)> sgd{"sgd"};
// What optimizers that are not one kernel begin and end with: master takes the parameter's value where the parameter is
// not its rounding; y = source; counter += 1, i64 [1].
inline KernelSlot<void(TensorView param, TensorView master)> refresh_master{"refresh_master"};
inline KernelSlot<void(TensorView source, TensorView y, TensorView skip)> copy_unless{"copy_unless"};
inline KernelSlot<void(TensorView counter, TensorView skip)> count_unless{"count_unless"};

// ---- loss scaling: scale and found_inf are f32 [1] ---------------------------------------------------------------------
inline KernelSlot<void(TensorView x, TensorView factor, TensorView y)> multiply_by{"multiply_by"};  // y = x * *factor
struct LossScaleOptions {
  double growth_factor = 2, backoff_factor = 0.5, min_scale = 0;
  std::int64_t growth_interval = 2000, hysteresis = 1;
};
// After good gradients tracker[0], i64 [2], counts up, and at growth_interval the scale grows; after bad ones tracker[1]
// counts down, and at 0 the scale backs off. See amp::loss_scale::Dynamic.
inline KernelSlot<void(TensorView scale, TensorView tracker, TensorView found_inf, LossScaleOptions options)>
    loss_scale_update{"loss_scale_update"};
// counters, i64 [2]: updates skipped in all, and in a row up to now; last_good, f32 [1]: the scale of the last good one
inline KernelSlot<void(TensorView counters, TensorView last_good, TensorView scale, TensorView found_inf)>
    loss_scale_count{"loss_scale_count"};

}  // namespace binade::kernel
