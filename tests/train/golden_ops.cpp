// Operations against PyTorch: tests/golden/ops.safetensors and cross_entropy.safetensors, in f64, with gradients.
// Here the meaning of an operation is judged; the operation suite judges its accuracy.
#include <functional>

#include "binade/ops/ops.h"
#include "binade/tests/train/golden.h"

namespace binade::test {

namespace {

struct GoldenCase {
  std::string name;
  std::function<Tensor(Inputs)> function;
};

void PrintTo(const GoldenCase& c, std::ostream* out) { *out << c.name; }

Tensor as_bool(const Tensor& x) { return x.to(DType::boolean); }

std::vector<GoldenCase> cases() {
  const auto sdpa = [](SdpaOptions options) {
    return [options](Inputs in) {
      return scaled_dot_product_attention(in[0], in[1], in[2], in.size() > 3 ? in[3] : Tensor(), options);
    };
  };
  const Pool2dOptions pool{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}};
  Pool2dOptions without_padding = pool;
  without_padding.count_include_pad = false;
  return {
      {"conv2d",
       [](Inputs in) {
         return conv2d(in[0], in[1], in[2], {.stride = {2, 2}, .padding = {1, 1}, .dilation = {2, 2}, .groups = 2});
       }},
      {"conv1d", [](Inputs in) { return conv1d(in[0], in[1], in[2], {.padding = 2}); }},
      {"conv_transpose2d",
       [](Inputs in) {
         return conv_transpose2d(in[0], in[1], in[2],
                                 {.stride = {2, 2}, .padding = {1, 1}, .groups = 2, .output_padding = {1, 1}});
       }},
      {"max_pool2d", [pool](Inputs in) { return max_pool2d(in[0], pool); }},
      {"avg_pool2d_include_pad", [pool](Inputs in) { return avg_pool2d(in[0], pool); }},
      {"avg_pool2d_exclude_pad", [without_padding](Inputs in) { return avg_pool2d(in[0], without_padding); }},
      {"group_norm", [](Inputs in) { return group_norm(in[0], 3, in[1], in[2]); }},
      {"layer_norm", [](Inputs in) { return layer_norm(in[0], in[1], in[2]); }},
      {"rms_norm", [](Inputs in) { return rms_norm(in[0], in[1], 1e-6); }},
      {"sdpa", sdpa({})},
      {"sdpa_causal", sdpa({.is_causal = true})},
      {"sdpa_bool_mask", [](Inputs in) { return scaled_dot_product_attention(in[0], in[1], in[2], as_bool(in[3])); }},
      {"sdpa_additive_mask", sdpa({})},
      {"sdpa_gqa", sdpa({.is_causal = true})},
      {"sdpa_scale", sdpa({.scale = 0.3})},
      {"logsumexp", [](Inputs in) { return logsumexp(in[0], {1}); }},
      {"logsumexp_dims",
       [](Inputs in) {
         return logsumexp(in[0], {0, 2}, {.keepdim = true});
       }},
      {"var_unbiased",
       [](Inputs in) {
         return var(in[0], {0, 2});
       }},
      {"var_biased",
       [](Inputs in) {
         return var(in[0], {0, 2}, 0);
       }},
      {"std", [](Inputs in) { return sqrt(var(in[0], {1})); }},
      {"norm_l2", [](Inputs in) { return norm(in[0]); }},
      {"norm_l2_dim", [](Inputs in) { return norm(in[0], {1}, {.keepdim = true}); }},
      {"norm_l1_dim", [](Inputs in) { return sum(abs(in[0]), {0}); }},
      {"norm_l3_dim", [](Inputs in) { return pow(sum(pow(abs(in[0]), 3), {1}), 1.0 / 3); }},
      {"softmax", [](Inputs in) { return softmax(in[0], 1); }},
      {"log_softmax", [](Inputs in) { return log_softmax(in[0], 1); }},
      {"gelu_erf", [](Inputs in) { return gelu(in[0]); }},
      {"gelu_tanh", [](Inputs in) { return gelu(in[0], Gelu::tanh); }},
      {"silu", [](Inputs in) { return silu(in[0]); }},
      {"pow", [](Inputs in) { return pow(in[0], in[1]); }},
      {"pow_cube", [](Inputs in) { return pow(in[0], 3); }},
      {"pow_sqrt", [](Inputs in) { return pow(in[0], 0.5); }},
      {"bce_with_logits_mean", [](Inputs in) { return bce_with_logits(in[0], in[1]); }},
      {"bce_with_logits_none", [](Inputs in) { return bce_with_logits(in[0], in[1], Reduction::none); }},
      {"embedding", [](Inputs in) { return embedding(in[0], in[1]); }},
      {"gather", [](Inputs in) { return gather(in[0], 1, in[1]); }},
      {"scatter_add", [](Inputs in) { return scatter_add(in[0], 1, in[1], in[2]); }},
      {"rope_interleaved", [](Inputs in) { return rotary_embedding(in[0], {.interleaved = true}); }},
      {"rope_half", [](Inputs in) { return rotary_embedding(in[0]); }},
  };
}

const io::TensorMap& ops_file() {
  static const io::TensorMap file = golden("ops");
  return file;
}

// The inputs of a case, in f64, those that have a golden gradient requiring theirs.
Tensors inputs_of(const std::string& name) {
  Tensors inputs;
  for (int i = 0; ops_file().contains(name + ".input" + std::to_string(i)); ++i) {
    Tensor x = ops_file().at(name + ".input" + std::to_string(i));
    if (is_floating(x.dtype())) x = x.to(DType::f64);
    // A mask has no gradient here: it is an argument, not something to train.
    const bool mask = name == "sdpa_additive_mask" && i == 3;
    if (ops_file().contains(name + ".grad" + std::to_string(i)) && !mask) x.requires_grad_();
    inputs.push_back(x);
  }
  return inputs;
}

void expect_case(const std::string& name, const std::function<Tensor(Inputs)>& function) {
  const Tensors inputs = inputs_of(name);
  ASSERT_FALSE(inputs.empty());
  const Tensor y = function(inputs);
  // The file holds f32: half a unit of rounding, and a little for sums that cancel.
  expect_close(y, ops_file().at(name + ".output"), 1.2e-7, 2e-7, "output");
  y.backward(ops_file().at(name + ".dy").to(DType::f64));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto expected = ops_file().find(name + ".grad" + std::to_string(i));
    if (expected == ops_file().end() || !inputs[i].requires_grad()) continue;
    const Tensor gradient = inputs[i].grad() ? inputs[i].grad() : zeros(inputs[i].shape());
    expect_close(gradient, expected->second, 1.2e-7, 5e-7, "gradient of input " + std::to_string(i));
  }
}

class GoldenOps : public ::testing::TestWithParam<GoldenCase> {};
TEST_P(GoldenOps, OutputAndGradients) { expect_case(GetParam().name, GetParam().function); }
std::string name_of(const ::testing::TestParamInfo<GoldenCase>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Cases, GoldenOps, ::testing::ValuesIn(cases()), name_of);

TEST(GoldenBatchNorm, TrainingUpdatesTheRunningStatistics) {
  Tensor mean = ops_file().at("batch_norm.running_mean_before").clone();
  Tensor variance = ops_file().at("batch_norm.running_var_before").clone();
  expect_case("batch_norm", [&](Inputs in) { return batch_norm(in[0], in[1], in[2], mean, variance); });
  expect_close(mean, ops_file().at("batch_norm.running_mean_after"), 1e-6, 1e-6, "running mean");
  expect_close(variance, ops_file().at("batch_norm.running_var_after"), 1e-6, 1e-6, "running variance");
}

TEST(GoldenBatchNorm, EvaluationUsesTheRunningStatistics) {
  const Tensor mean = ops_file().at("batch_norm_eval.running_mean");
  const Tensor variance = ops_file().at("batch_norm_eval.running_var");
  expect_case("batch_norm_eval",
              [&](Inputs in) { return batch_norm(in[0], in[1], in[2], mean, variance, {.training = false}); });
}

TEST(GoldenOpsFile, EveryCaseIsCompared) {
  std::vector<std::string> known{"batch_norm", "batch_norm_eval"};
  for (const GoldenCase& c : cases()) known.push_back(c.name);
  for (const auto& [name, tensor] : ops_file()) {
    if (!name.ends_with(".output")) continue;
    const std::string stem = name.substr(0, name.size() - 7);
    EXPECT_NE(std::find(known.begin(), known.end(), stem), known.end()) << stem << " is not compared";
  }
}

TEST(GoldenCrossEntropy, ReductionsAndSmoothing) {
  const io::TensorMap file = golden("cross_entropy");
  const std::pair<const char*, Reduction> reductions[] = {
      {"mean", Reduction::mean}, {"sum", Reduction::sum}, {"none", Reduction::none}};
  for (const auto& [text, reduction] : reductions)
    for (const double smoothing : {0.0, 0.1}) {
      const std::string stem = std::string(text) + (smoothing > 0 ? "_ls0.1" : "_ls0");
      for (const DType dtype : {DType::f64, DType::f32}) {
        const double tolerance = dtype == DType::f64 ? 1.2e-7 : 2e-6;
        Tensor logits = file.at("logits").to(dtype).clone();
        logits.requires_grad_();
        const Tensor loss =
            cross_entropy(logits, file.at("targets"), {.label_smoothing = smoothing, .reduction = reduction});
        expect_close(loss, file.at(stem + ".loss"), tolerance, tolerance, stem + " loss");
        loss.backward(reduction == Reduction::none ? file.at("dy_none").to(dtype) : Tensor());
        expect_close(logits.grad(), file.at(stem + ".grad"), tolerance, tolerance, stem + " gradient");
      }
    }
}

}  // namespace

}  // namespace binade::test
