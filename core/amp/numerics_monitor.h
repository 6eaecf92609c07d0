// NumericsMonitor: histograms of exponents of everything a training step touches, and what they say about FP16 and FP8.
// The values are taken as they are: observe an FP32 run to predict FP16 and FP8.
//
//   amp::NumericsMonitor monitor({.every = 10});        // of ten steps, one is looked at
//   const ObserverScope watching(monitor);
//   for (const auto& [x, y] : loader) {
//     cross_entropy(model(x), y).backward();
//     optimizer.step();
//     optimizer.zero_grad();
//     monitor.step();
//   }
//   std::cout << monitor.advice();                       // a few lines for people
//   std::ofstream("numerics.json") << monitor.json();    // fields: docs/observatory.md
#pragma once
#include <functional>
#include <map>
#include <set>

#include "binade/core/amp/numerics_advice.h"
#include "binade/core/autograd/observer.h"

namespace binade::amp {

struct MonitorOptions {
  std::int64_t every = 1;  // observes the early steps, and of the others steps every, 2 every, ..
  std::set<TensorKind> kinds = {TensorKind::activation, TensorKind::operand, TensorKind::weight,
                                TensorKind::activation_gradient, TensorKind::weight_gradient};
  // What the loss was multiplied by; gradients are divided by it. Empty: 1. Example: [&] { return scaler.get_scale(); }
  std::function<double()> loss_scale = {};
  // Gradients are often smallest at first: each of the first so many steps is observed, and the window's lower edge is
  // taken from them alone.
  std::int64_t early_steps = 25;
  // binade sums the weight gradients of f32 parameters in f32, so that they ask nothing of a loss scale. Where backward
  // delivers them in FP16, as PyTorch's autocast does, they count.
  bool f16_weight_gradients = false;
  std::int64_t zero_steps = 20;   // observed steps of exact zeros after which a layer counts as dead
};

class NumericsMonitor final : public Observer {
 public:
  explicit NumericsMonitor(MonitorOptions options = {});

  void step();  // ends a training step: its statistics join the records
  std::int64_t steps() const { return step_; }
  bool observing() const { return step_ < options_.early_steps || step_ % options_.every == 0; }  // the present step
  std::int64_t observed_steps() const { return observed_; }
  // Whether results were FP16 already: what they had lost is in no record, and the window's lower edge may be too low.
  bool saw_float16() const { return saw_float16_; }

  // One for each tensor and kind, in order of appearance. Parameters need a name: those of modules have one,
  // set_name() gives one to others. Operations are told apart by module and name.
  const std::vector<TensorRecord>& records() const { return records_; }

  std::optional<LossScaleWindow> loss_scale_window() const { return amp::loss_scale_window(records_); }
  std::vector<DeadLayer> dead_layers() const { return amp::dead_layers(records_, options_.zero_steps); }
  std::vector<LayerAtRisk> layers_at_risk() const { return amp::layers_at_risk(records_); }
  std::optional<Fp8Advice> fp8_recipe() const { return amp::fp8_recipe(records_); }
  std::string advice() const;
  std::string json() const;

  void on_forward_call(const ForwardCall& call) override;
  void on_backward(const Op& op, const Tensor& dy) override;
  void on_leaf_gradient(const Tensor& leaf) override;

 private:
  struct Seen {  // a tensor in the present step
    ExponentHistogram histogram;
    Fp8Error current, delayed;
  };
  using Key = std::pair<TensorKind, std::string>;
  bool wants(TensorKind kind) const;
  bool narrow_in_f16(const ForwardCall& call) const;
  double gradient_factor() const;
  TensorRecord& record(TensorKind kind, const std::string& name, std::string_view operation);
  // Adds `x`; a later tensor of the same step adds to it, or with `replace` takes its place.
  void look(TensorRecord& record, const Tensor& x, double factor, bool replace);
  void close(TensorRecord& record, const Seen& seen) const;

  MonitorOptions options_;
  std::int64_t step_ = 0, observed_ = 0;
  bool saw_float16_ = false;
  std::vector<TensorRecord> records_;
  std::map<Key, std::size_t> index_;
  std::map<std::size_t, Seen> present_;  // by index of the record
  std::map<std::size_t, double> last_amax_;
  std::set<std::string, std::less<>> views_;   // operations that only look at their input's memory
  std::set<const Op*> narrow_;  // operations of the present step whose result FP16 autocast would leave in FP16
};

}  // namespace binade::amp
