// Bad inputs of losses, norms, tables, attention and convolutions.
#include "binade/tests/core/bad_inputs.h"

namespace binade::test {

namespace {

std::vector<BadCall> loss_and_norm_calls() {
  return {
      {"softmax", "dim",
       [] {
         softmax(f({2, 3}), 2);
       }},
      {"softmax", "integers",
       [] {
         softmax(i64({2, 3}));
       }},
      {"log_softmax", "dim",
       [] {
         log_softmax(f({2, 3}), -3);
       }},
      {"cross_entropy", "target count",
       [] {
         cross_entropy(f({2, 3}), i64({3}));
       }},
      {"cross_entropy", "target dtype",
       [] {
         cross_entropy(f({2, 3}), f({2}));
       }},
      {"cross_entropy", "class out of range",
       [] {
         cross_entropy(f({2, 3}), full({2}, 3, {.dtype = DType::i64}));
       }},
      {"cross_entropy", "negative class",
       [] {
         cross_entropy(f({2, 3}), full({2}, -1, {.dtype = DType::i64}));
       }},
      {"cross_entropy", "smoothing",
       [] {
         cross_entropy(f({2, 3}), i64({2}), {.label_smoothing = 1.5});
       }},
      {"cross_entropy", "undefined",
       [] {
         cross_entropy(f({2, 3}), Tensor());
       }},
      {"linear_cross_entropy", "inner sizes",
       [] {
         linear_cross_entropy(f({2, 3}), f({5, 4}), i64({2}));
       }},
      {"linear_cross_entropy", "target count",
       [] {
         linear_cross_entropy(f({2, 3}), f({5, 3}), i64({3}));
       }},
      {"linear_cross_entropy", "target dtype",
       [] {
         linear_cross_entropy(f({2, 3}), f({5, 3}), f({2}));
       }},
      {"linear_cross_entropy", "undefined weight",
       [] {
         linear_cross_entropy(f({2, 3}), Tensor(), i64({2}));
       }},
      {"linear_cross_entropy", "bias",
       [] {
         linear_cross_entropy(f({2, 3}), f({5, 3}), i64({2}), {.linear_bias = f({4})});
       }},
      {"linear_cross_entropy", "smoothing",
       [] {
         linear_cross_entropy(f({2, 3}), f({5, 3}), i64({2}), {.label_smoothing = -0.5});
       }},
      {"linear_cross_entropy", "chunk",
       [] {
         linear_cross_entropy(f({2, 3}), f({5, 3}), i64({2}), {.batch_chunk_size = 0});
       }},
      {"linear_cross_entropy", "no class",
       [] {
         linear_cross_entropy(f({2, 3}), f({0, 3}), i64({2}));
       }},
      {"cross_entropy", "class out of range in the second chunk of linear_cross_entropy",
       [] {
         linear_cross_entropy(f({2, 3}), f({5, 3}), full({2}, 5, {.dtype = DType::i64}), {.batch_chunk_size = 1});
       }},
      {"mse_loss", "shapes",
       [] {
         mse_loss(f({2, 3}), f({4, 2}));
       }},
      {"l1_loss", "shapes",
       [] {
         l1_loss(f({2, 3}), f({4, 2}));
       }},
      {"bce_with_logits", "shapes",
       [] {
         bce_with_logits(f({2, 3}), f({4, 2}));
       }},
      {"layer_norm", "weight",
       [] {
         layer_norm(f({2, 3}), f({4}), f({4}));
       }},
      {"layer_norm", "bias",
       [] {
         layer_norm(f({2, 3}), f({3}), f({2}));
       }},
      {"layer_norm", "zero dim", [] { layer_norm(f({})); }},
      {"rms_norm", "weight",
       [] {
         rms_norm(f({2, 3}), f({4}));
       }},
      {"add_layer_norm", "shapes",
       [] {
         add_layer_norm(f({2, 3}), f({3}));
       }},
      {"add_layer_norm", "undefined branch",
       [] {
         add_layer_norm(f({2, 3}), {});
       }},
      {"add_layer_norm", "integers",
       [] {
         add_layer_norm(i64({2, 3}), f({2, 3}));
       }},
      {"add_layer_norm", "probability",
       [] {
         add_layer_norm(f({2, 3}), f({2, 3}), {}, {}, {.dropout = 1.5});
       }},
      {"layer_norm", "weight, of a sum",
       [] {
         add_layer_norm(f({2, 3}), f({2, 3}), f({4}));
       }},
      {"layer_norm", "zero dim, of a sum", [] { add_layer_norm(f({}), f({})); }},
      {"add_rms_norm", "shapes",
       [] {
         add_rms_norm(f({2, 3}), f({2, 4}));
       }},
      {"add_rms_norm", "negative probability",
       [] {
         add_rms_norm(f({2, 3}), f({2, 3}), {}, {.dropout = -0.5});
       }},
      {"group_norm", "groups",
       [] {
         group_norm(f({2, 4, 3}), 3);
       }},
      {"group_norm", "no groups",
       [] {
         group_norm(f({2, 4, 3}), 0);
       }},
      {"batch_norm", "running statistics",
       [] {
         batch_norm(f({2, 3}), f({3}), f({3}), f({4}), f({4}));
       }},
      {"batch_norm", "none for eval",
       [] {
         batch_norm(f({2, 3}), f({3}), f({3}), {}, {}, {.training = false});
       }},
      {"batch_norm", "one value",
       [] {
         batch_norm(f({1, 3}), f({3}), f({3}), {}, {});
       }},
  };
}

std::vector<BadCall> table_calls() {
  return {
      {"embedding", "index",
       [] {
         embedding(f({4, 2}), full({3}, 4, {.dtype = DType::i64}));
       }},
      {"embedding", "negative index",
       [] {
         embedding(f({4, 2}), full({3}, -1, {.dtype = DType::i64}));
       }},
      {"embedding", "index dtype",
       [] {
         embedding(f({4, 2}), f({3}));
       }},
      {"embedding", "weight dims", [] { embedding(f({4}), i64({3})); }},
      {"gather", "index",
       [] {
         gather(f({2, 3}), 1, full({2, 1}, 3, {.dtype = DType::i64}));
       }},
      {"gather", "index dtype",
       [] {
         gather(f({2, 3}), 1, f({2, 1}));
       }},
      {"gather", "rank",
       [] {
         gather(f({2, 3}), 1, i64({2}));
       }},
      {"gather", "dim",
       [] {
         gather(f({2, 3}), 2, i64({2, 1}));
       }},
      {"scatter_add", "index",
       [] {
         scatter_add(f({2, 3}), 1, full({2, 1}, 3, {.dtype = DType::i64}), f({2, 1}));
       }},
      {"scatter_add", "shapes",
       [] {
         scatter_add(f({2, 3}), 1, i64({2, 1}), f({2, 2}));
       }},
      {"index_select", "index",
       [] {
         index_select(f({2, 3}), 0, full({1}, 2, {.dtype = DType::i64}));
       }},
      {"index_select", "index dims",
       [] {
         index_select(f({2, 3}), 0, i64({1, 1}));
       }},
      {"dropout", "probability", [] { dropout(f({2}), 1.5); }},
      {"dropout", "negative probability", [] { dropout(f({2}), -0.1); }},
      {"dropout", "integers", [] { dropout(i64({2}), 0.5); }},
  };
}

std::vector<BadCall> attention_calls() {
  const auto sdpa = [](Shape q, Shape k, Shape v) { scaled_dot_product_attention(f(q), f(k), f(v)); };
  const std::string name = "scaled_dot_product_attention";
  return {
      {name, "dims",
       [sdpa] {
         sdpa({2, 3, 4}, {2, 3, 4}, {2, 3, 4});
       }},
      {name, "head size",
       [sdpa] {
         sdpa({1, 2, 3, 4}, {1, 2, 3, 5}, {1, 2, 3, 5});
       }},
      {name, "heads",
       [sdpa] {
         sdpa({1, 3, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4});
       }},
      {name, "batch",
       [sdpa] {
         sdpa({2, 2, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4});
       }},
      {name, "keys and values",
       [sdpa] {
         sdpa({1, 2, 3, 4}, {1, 2, 3, 4}, {1, 2, 5, 4});
       }},
      {name, "mask",
       [] {
         scaled_dot_product_attention(f({1, 2, 3, 4}), f({1, 2, 3, 4}), f({1, 2, 3, 4}), boolean({5, 3}));
       }},
      {name, "integers",
       [] {
         scaled_dot_product_attention(i64({1, 2, 3, 4}), i64({1, 2, 3, 4}), i64({1, 2, 3, 4}));
       }},
      {"packed_self_attention", "heads",
       [] {
         packed_self_attention(f({1, 3, 12}), 5);
       }},
      {"packed_self_attention", "dims",
       [] {
         packed_self_attention(f({3, 12}), 2);
       }},
      {"rotary_embedding", "odd size",
       [] {
         rotary_embedding(f({2, 3, 5}));
       }},
      {"rotary_embedding", "dims", [] { rotary_embedding(f({4})); }},
  };
}

std::vector<BadCall> convolution_calls() {
  return {
      {"conv2d", "channels",
       [] {
         conv2d(f({1, 3, 5, 5}), f({4, 2, 3, 3}));
       }},
      {"conv2d", "dims",
       [] {
         conv2d(f({3, 5, 5}), f({4, 3, 3, 3}));
       }},
      {"conv2d", "kernel too large",
       [] {
         conv2d(f({1, 3, 2, 2}), f({4, 3, 3, 3}));
       }},
      {"conv2d", "groups",
       [] {
         conv2d(f({1, 4, 5, 5}), f({4, 4, 3, 3}), {}, {.groups = 3});
       }},
      {"conv2d", "stride",
       [] {
         conv2d(f({1, 3, 5, 5}), f({4, 3, 3, 3}), {}, {.stride = {0, 1}});
       }},
      {"conv2d", "bias",
       [] {
         conv2d(f({1, 3, 5, 5}), f({4, 3, 3, 3}), f({3}));
       }},
      {"conv2d", "negative padding",
       [] {
         conv2d(f({1, 3, 5, 5}), f({4, 3, 3, 3}), {}, {.padding = {-1, 0}});
       }},
      {"conv2d", "integers",
       [] {
         conv2d(i64({1, 3, 5, 5}), i64({4, 3, 3, 3}));
       }},
      {"conv1d", "channels",
       [] {
         conv1d(f({1, 3, 5}), f({4, 2, 3}));
       }},
      {"conv_transpose2d", "channels",
       [] {
         conv_transpose2d(f({1, 3, 5, 5}), f({4, 2, 3, 3}));
       }},
      {"conv_transpose2d", "activation",
       [] {
         conv_transpose2d(f({1, 3, 5, 5}), f({3, 2, 3, 3}), {}, {.activation = Activation::relu});
       }},
      {"conv_transpose1d", "activation",
       [] {
         conv_transpose1d(f({1, 3, 5}), f({3, 2, 3}), {}, {.activation = Activation::relu});
       }},
      {"conv_transpose1d", "channels",
       [] {
         conv_transpose1d(f({1, 3, 5}), f({4, 2, 3}));
       }},
      {"max_pool2d", "dims",
       [] {
         max_pool2d(f({3, 5}));
       }},
      {"max_pool2d", "padding",
       [] {
         max_pool2d(f({1, 1, 5, 5}), {.padding = {2, 2}});
       }},
      {"max_pool2d", "kernel",
       [] {
         max_pool2d(f({1, 1, 5, 5}), {.kernel = {0, 2}});
       }},
      {"avg_pool2d", "kernel too large",
       [] {
         avg_pool2d(f({1, 1, 2, 2}), {.kernel = {3, 3}});
       }},
      {"avg_pool2d", "integers",
       [] {
         avg_pool2d(i64({1, 1, 4, 4}));
       }},
  };
}

INSTANTIATE_TEST_SUITE_P(LossesAndNorms, BadInputs, ::testing::ValuesIn(loss_and_norm_calls()), call_name);
INSTANTIATE_TEST_SUITE_P(Tables, BadInputs, ::testing::ValuesIn(table_calls()), call_name);
INSTANTIATE_TEST_SUITE_P(Attention, BadInputs, ::testing::ValuesIn(attention_calls()), call_name);
INSTANTIATE_TEST_SUITE_P(Convolutions, BadInputs, ::testing::ValuesIn(convolution_calls()), call_name);

}  // namespace

}  // namespace binade::test
