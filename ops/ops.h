// Every operation, as a function: the public page of what a tensor can do.
// Conventions: x, y, weight, bias as in PyTorch; `dim` may be negative; floating arithmetic is for f64, f32, f16, bf16.
// Each throws Error ("operation: rule: what came") for shapes or dtypes it does not accept. Under amp::Autocast the
// precision class of each operation decides its dtype (docs/op_support.md lists them).
#pragma once
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "binade/core/tensor/tensor.h"

namespace binade {

struct PathName;

// ---- elementwise; binary ones broadcast and promote dtypes as torch.result_type does --------------------------------
Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);  // true division
Tensor pow(const Tensor& a, const Tensor& b);
Tensor pow(const Tensor& a, double exponent);
Tensor maximum(const Tensor& a, const Tensor& b);  // gradient is shared half and half at ties; NaN propagates
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor neg(const Tensor& x);
Tensor abs(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor relu(const Tensor& x);
Tensor leaky_relu(const Tensor& x, double negative_slope = 0.01);
enum class Gelu { erf, tanh };
Tensor gelu(const Tensor& x, Gelu approximate = Gelu::erf);
Tensor silu(const Tensor& x);
Tensor clamp(const Tensor& x, double min, double max);  // min > max throws; use infinities for one side
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);  // condition: bool

Tensor operator+(const Tensor& a, const Tensor& b);
Tensor operator-(const Tensor& a, const Tensor& b);
Tensor operator*(const Tensor& a, const Tensor& b);
Tensor operator/(const Tensor& a, const Tensor& b);
Tensor operator-(const Tensor& x);
Tensor operator+(const Tensor& a, double b);
Tensor operator-(const Tensor& a, double b);
Tensor operator*(const Tensor& a, double b);
Tensor operator/(const Tensor& a, double b);
Tensor operator+(double a, const Tensor& b);
Tensor operator-(double a, const Tensor& b);
Tensor operator*(double a, const Tensor& b);
Tensor operator/(double a, const Tensor& b);

// ---- comparisons: bool tensors, no gradient -------------------------------------------------------------------------
Tensor eq(const Tensor& a, const Tensor& b);
Tensor ne(const Tensor& a, const Tensor& b);
Tensor lt(const Tensor& a, const Tensor& b);
Tensor le(const Tensor& a, const Tensor& b);
Tensor gt(const Tensor& a, const Tensor& b);
Tensor ge(const Tensor& a, const Tensor& b);

// ---- reductions over `dims` (empty: all); keepdim keeps them with size 1. Empty tensors: sum 0, mean and var NaN,
// max, min, argmax throw ------------------------------------------------------------------------------------------------
struct ReduceOptions {
  bool keepdim = false;
};
using Dims = std::vector<std::int64_t>;
Tensor sum(const Tensor& x, const Dims& dims = {}, ReduceOptions options = {});
Tensor mean(const Tensor& x, const Dims& dims = {}, ReduceOptions options = {});
Tensor max(const Tensor& x, const Dims& dims = {}, ReduceOptions options = {});  // gradient shared among ties
Tensor min(const Tensor& x, const Dims& dims = {}, ReduceOptions options = {});
Tensor var(const Tensor& x, const Dims& dims = {}, double correction = 1, ReduceOptions options = {});
Tensor norm(const Tensor& x, const Dims& dims = {}, ReduceOptions options = {});  // Euclidean
Tensor logsumexp(const Tensor& x, const Dims& dims = {}, ReduceOptions options = {});
Tensor argmax(const Tensor& x, std::optional<std::int64_t> dim = {}, ReduceOptions options = {});  // i64
Tensor argmin(const Tensor& x, std::optional<std::int64_t> dim = {}, ReduceOptions options = {});

// ---- matrix products ------------------------------------------------------------------------------------------------
// Products of f32 operands, here and in attention and convolution, follow set_float32_matmul_precision.
Tensor matmul(const Tensor& a, const Tensor& b);  // [.., m, k] x [.., k, n]; batch dims broadcast; vectors as in PyTorch
enum class Activation { none, relu, gelu_erf, gelu_tanh, silu };
// activation(x weight^T + bias): x [.., in], weight [out, in], bias [out] or undefined
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Activation activation = Activation::none);

// ---- softmax and losses ----------------------------------------------------------------------------------------------
Tensor softmax(const Tensor& x, std::int64_t dim = -1);
Tensor log_softmax(const Tensor& x, std::int64_t dim = -1);
enum class Reduction { mean, sum, none };
struct CrossEntropyLoss {
  std::int64_t ignore_index = -100;
  double label_smoothing = 0;
  Reduction reduction = Reduction::mean;
};
// logits [.., classes] floating, targets [..] class indices (i64 or i32); mean is over targets that are not ignored
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, CrossEntropyLoss options = {});
struct LinearCrossEntropyLoss {
  Tensor linear_bias = {};  // [classes]
  std::int64_t ignore_index = -100;
  double label_smoothing = 0;
  Reduction reduction = Reduction::mean;
  std::int64_t batch_chunk_size = 512;  // tokens whose logits exist at a time, at most
};
// cross_entropy(linear(x, weight, linear_bias), targets) without the logits as a whole: x [.., in], weight [classes, in],
// targets [..]. With mean and sum, forward computes the gradients too, where they will be wanted, and keeps them in f32: less
// memory where the tokens outnumber `in`, twice that in 16 bits. With none, backward computes the logits again. An error
// about a target counts rows from the beginning of its chunk.
Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& targets,
                            LinearCrossEntropyLoss options = {});
Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean);
Tensor l1_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean);
Tensor bce_with_logits(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean);
// -(target log p + (1 - target) log(1 - p)), each logarithm at least -100; p in [0, 1]. Throws under autocast: use
// bce_with_logits there, which needs no p.
Tensor binary_cross_entropy(const Tensor& p, const Tensor& target, Reduction reduction = Reduction::mean);

// ---- normalisation ------------------------------------------------------------------------------------------------------
// over the last dims, as many as weight has; weight and bias may be undefined (then the last dim). `dtype` is that of the
// result of an f32 x: one rounding, where a product under autocast would cast the result anyway.
Tensor layer_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5,
                  DType dtype = DType::f32);
Tensor rms_norm(const Tensor& x, const Tensor& weight = {}, double eps = 1e-6);
// sum = residual + dropout(branch) of equal shapes, and normed = layer_norm(sum) or rms_norm(sum), from one pass over
// memory: two recorded operations, with the bits and the draw of the two calls.
struct NormedSum {
  Tensor sum, normed;
};
struct AddLayerNormOptions {
  double dropout = 0;  // applied whenever it is not 0
  double eps = 1e-5;
  DType dtype = DType::f32;
  const PathName* norm_module = nullptr;  // whose operation the norm is (core/autograd/module_path.h), if not the sum's
};
NormedSum add_layer_norm(const Tensor& residual, const Tensor& branch, const Tensor& weight = {},
                         const Tensor& bias = {}, AddLayerNormOptions options = {});
struct AddRmsNormOptions {
  double dropout = 0;
  double eps = 1e-6;
  const PathName* norm_module = nullptr;
};
NormedSum add_rms_norm(const Tensor& residual, const Tensor& branch, const Tensor& weight = {},
                       AddRmsNormOptions options = {});
Tensor group_norm(const Tensor& x, std::int64_t groups, const Tensor& weight = {}, const Tensor& bias = {},
                  double eps = 1e-5);  // x [batch, channels, ..]
struct BatchNormOptions {
  bool training = true;  // use the batch's statistics and update the running ones in place
  double momentum = 0.1, eps = 1e-5;
};
// x [batch, channels, ..]; running_mean, running_var [channels] f32, may be undefined when training
Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor running_mean, Tensor running_var,
                  BatchNormOptions options = {});

// ---- tables and indices ---------------------------------------------------------------------------------------------------
Tensor embedding(const Tensor& weight, const Tensor& indices);  // weight [rows, n], indices [..] -> [.., n]
Tensor gather(const Tensor& x, std::int64_t dim, const Tensor& index);
Tensor scatter_add(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source);  // out of place
Tensor index_select(const Tensor& x, std::int64_t dim, const Tensor& index);  // index [count]

// ---- attention ------------------------------------------------------------------------------------------------------------
struct SdpaOptions {
  bool is_causal = false;
  std::optional<double> scale = {};  // default 1 / sqrt(d)
  double dropout = 0;           // applied whenever it is not 0
  // Of padded sequences, i32 or i64 [batch], each in [0, time_q] or [0, time_k]; absent: all are whole. Nothing attends to
  // keys from kv_lengths[b] on; queries from q_lengths[b] on give zeros, and so do gradients of either. What lies there is
  // not used, but should be finite: cuDNN may multiply it with 0.
  Tensor q_lengths = {}, kv_lengths = {};
};
// q [batch, heads, time_q, d], k, v [batch, kv_heads, time_k, d], heads a multiple of kv_heads (grouped-query).
// mask: bool (true = may attend) or floating (added), broadcasting to [batch, heads, time_q, time_k]; no gradient.
// Causal: query i sees keys j <= i, both counted from the start, whatever the lengths. A query sees what mask, causality
// and lengths all allow; one that sees nothing gives zeros. Never forms the time_q x time_k matrix in memory.
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask = {},
                                    SdpaOptions options = {});
struct SelfAttentionOptions {  // as SdpaOptions; a sequence has as many queries as keys
  bool is_causal = false;
  std::optional<double> scale = {};
  double dropout = 0;
  Tensor lengths = {};
};
// The same from one packed projection qkv [batch, time, 3 * heads * d] (q, then k, then v): [batch, time, heads * d],
// without a copy of q, k, v in either direction.
Tensor packed_self_attention(const Tensor& qkv, std::int64_t heads, SelfAttentionOptions options = {});
struct RotaryOptions {
  double base = 10000;
  bool interleaved = false;      // pairs (2i, 2i+1), else (i, i + d/2)
  std::int64_t start = 0;        // position of the first time step
};
Tensor rotary_embedding(const Tensor& x, RotaryOptions options = {});  // x [.., time, d], d even; Su et al. 2021, eq. 15

// ---- dropout ------------------------------------------------------------------------------------------------------------------
Tensor dropout(const Tensor& x, double p, bool training = true);  // next draw of the random stream

// ---- shape: views where strides allow -----------------------------------------------------------------------------------------
Tensor cast(const Tensor& x, DType dtype);
Tensor reshape(const Tensor& x, const Shape& shape);
Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b);
Tensor permute(const Tensor& x, const Shape& order);
Tensor expand(const Tensor& x, const Shape& shape);
Tensor slice(const Tensor& x, std::int64_t dim, std::int64_t start, std::int64_t end, std::int64_t step = 1);
Tensor narrow(const Tensor& x, std::int64_t dim, std::int64_t start, std::int64_t length);
Tensor select(const Tensor& x, std::int64_t dim, std::int64_t index);
Tensor squeeze(const Tensor& x, std::optional<std::int64_t> dim = {});
Tensor unsqueeze(const Tensor& x, std::int64_t dim);
Tensor cat(const Tensors& tensors, std::int64_t dim = 0);
Tensor stack(const Tensors& tensors, std::int64_t dim = 0);
Tensors split(const Tensor& x, std::int64_t size, std::int64_t dim = 0);
Tensors chunk(const Tensor& x, std::int64_t chunks, std::int64_t dim = 0);

// ---- convolution and pooling: x [batch, channels, h, w] (1d: [batch, channels, time]) --------------------------------------------
using Pair = std::pair<std::int64_t, std::int64_t>;
struct Conv2dOptions {
  Pair stride{1, 1}, padding{0, 0}, dilation{1, 1};
  std::int64_t groups = 1;
  Pair output_padding{0, 0};  // transposed convolution only
  Activation activation = Activation::none;  // of the result, in the same pass; not of a transposed convolution
};
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Conv2dOptions options = {});
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Conv2dOptions options = {});
struct Conv1dOptions {
  std::int64_t stride = 1, padding = 0, dilation = 1, groups = 1, output_padding = 0;
  Activation activation = Activation::none;
};
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Conv1dOptions options = {});
Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Conv1dOptions options = {});
struct Pool2dOptions {
  Pair kernel{2, 2}, stride{0, 0};  // stride 0: the kernel's size
  Pair padding{0, 0};
  bool count_include_pad = true;    // average only
};
Tensor max_pool2d(const Tensor& x, Pool2dOptions options = {});
Tensor avg_pool2d(const Tensor& x, Pool2dOptions options = {});

}  // namespace binade
