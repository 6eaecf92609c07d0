// PostMortem: where the first infinity or NaN of a training step came from, and what usually cures it. Once a step has
// one, what follows in the step is its consequence and is not looked at.
//
//   amp::PostMortem post_mortem({.loss_scale = [&] { return scaler.get_scale(); }});
//   const ObserverScope watching(post_mortem);
//   for (const auto& [x, y] : loader) {
//     scaler.scale(loss_of(x, y)).backward();
//     scaler.step(optimizer);
//     scaler.update();
//     optimizer.zero_grad();
//     post_mortem.step();
//   }
//   if (post_mortem.first()) std::cerr << post_mortem.first()->text();
//
// A gradient that overflows while the loss is scaled is how GradScaler finds its scale. It is only kept for
// explain(), for the case that the scale collapses. Every floating result and gradient is read once more.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "binade/core/autograd/observer.h"

namespace binade::amp {

enum class Cause {
  bad_data,         // an input from outside the model was not finite already
  bad_parameter,    // a parameter was
  passed_on,        // an operation's result was, and let pass as deliberate: a mask of -inf
  f16_product,      // a matrix product or convolution beyond 65504
  attention_scores, // a product of two activations beyond 65504, or attention
  f16_range,        // another result beyond 65504
  singular_point,   // log, division, power or root at or beyond the edge of its domain
  exp_overflow,
  scaled_gradient,  // a gradient overflowed while the loss was scaled: GradScaler backs off
  gradient,         // a gradient became infinite or NaN otherwise
  divergence        // f32 or bf16 beyond 3.4e38, or a NaN made of finite values
};
std::string_view name(Cause cause);
std::string_view cure(Cause cause);  // one or two sentences

struct ValueSummary {
  DType dtype = DType::f32;
  Shape shape;
  std::int64_t positive_infs = 0, negative_infs = 0, nans = 0;
  double largest_finite = 0;  // magnitude
  bool finite() const { return positive_infs + negative_infs + nans == 0; }
};
ValueSummary summarize(const Tensor& x);  // floating tensors; waits for the device
std::string to_text(const ValueSummary& summary);

struct Casualty {
  std::int64_t step = 0;
  int rank = 0;
  bool backward = false;
  std::string operation, module;  // "linear", "h.0.attn.qkv"
  std::string tensor;             // "output", "gradient of the output", "gradient of input 1", "gradient of h.0.ln_1.bias"
  ValueSummary values;
  struct Source {
    std::string what;  // "input 0", "gradient of the output"
    std::string from;  // "linear in h.0.mlp.fc", "parameter h.0.mlp.fc.weight", "outside of the graph"
    ValueSummary values;
  };
  std::vector<Source> sources;  // what the operation computed it from
  double loss_scale = 1;
  Cause cause = Cause::divergence;
  std::string text() const;
};

struct PostMortemOptions {
  bool stop = false;            // throw an Error with the text instead of only recording
  bool report_backoff = false;  // gradients overflowing under a loss scale are casualties like others
  std::function<double()> loss_scale = {};  // what the loss was multiplied by; empty: 1
  int rank = 0;
};

class PostMortem final : public Observer {
 public:
  explicit PostMortem(PostMortemOptions options = {}) : options_(std::move(options)) {}

  void step();  // ends a training step
  const std::optional<Casualty>& first() const { return first_; }  // of all steps, back-offs aside
  const std::optional<Casualty>& last() const { return last_; }    // back-offs included
  std::int64_t steps_with_casualties() const { return count_; }    // back-offs aside
  std::string explain() const;  // the text of last(), or that nothing happened
  std::string json() const;     // fields: docs/observatory.md

  void on_forward_call(const ForwardCall& call) override;
  void on_backward(const Op& op, const Tensor& dy) override;
  void on_gradients(const BackwardCall& call) override;
  void on_leaf_gradient(const Tensor& leaf) override;

 private:
  void report(Casualty casualty);
  Casualty begin(std::string operation, std::string tensor, const ValueSummary& values, bool backward) const;

  PostMortemOptions options_;
  std::int64_t step_ = 0, count_ = 0;
  bool found_ = false;  // in this step
  std::optional<Casualty> first_, last_;
};

}  // namespace binade::amp
