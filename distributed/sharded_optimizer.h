// ShardedOptimizer: ZeRO stage 1 (Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter
// models", SC 2020). Every rank keeps the optimizer's state, FP32 master weights included, of its N-th part of the
// parameters, updates that part, and gathers the others' in the parameters' own dtype.
//
//   dist::DataParallel parallel(model, {.group = group});
//   const auto optimizer = dist::shard<optim::AdamW>(parallel, optim::AdamWOptions{.lr = 1e-3});
//   loss.backward();                       // each rank receives the mean gradient of its part only
//   optim::clipped_step(*optimizer, 1.0);  // over all ranks' parts
//   optimizer->zero_grad();
//
// Works as an Optimizer with GradScaler and Schedule; a step that one rank must skip is skipped by all. A parameter's own
// .grad is undefined after backward. For optimizers that work element by element (SGD, Adam, AdamW): parts cut through
// parameters. Optimizers that round stochastically draw other numbers than one process would.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "binade/core/optim/optimizer.h"
#include "binade/distributed/data_parallel.h"

namespace binade::dist {

class ShardedOptimizer : public optim::Optimizer {
 public:
  using Make = std::function<std::unique_ptr<optim::Optimizer>(std::vector<optim::ParamGroup> groups)>;
  // `groups` hold parameters of the model, each once; `make` gets them with this rank's pieces, which are 1-d, in their
  // place. Before the first backward; moves the parameters into flat memory. Must not outlive `parallel`.
  ShardedOptimizer(const DataParallel& parallel, std::vector<optim::ParamGroup> groups, const Make& make);
  ~ShardedOptimizer() override;

  void zero_grad() override;
  bool scales_gradients() const override { return inner_->scales_gradients(); }
  // The norm is that over all ranks, which all call it; found_inf is this rank's, and agreed in the step.
  void inspect_gradients(const Tensor& scale, const Tensor& norm, const Tensor& found_inf) const override;
  // Scales this rank's gradients so that the norm over all ranks is at most max_norm; returns that norm before, [1] f32.
  Tensor clip_grad_norm_(double max_norm);

  // This rank's part: "group.<index>.lr" and "weight_decay", "state.<parameter>.<offset>.<name>", by the parameter's place
  // in the model and the piece's first element in it.
  optim::StateDict state_dict() const override;
  // Parts of any number of ranks, put together, as long as they cover this rank's pieces; the error names what is missing.
  void load_state_dict(const optim::StateDict& state) override;

  // All ranks together: files PATH.<step>.<rank>-of-<ranks>. Once all of them are there rank 0 calls `then`, which writes
  // what goes with this step, such as the model's checkpoint; after it the files of earlier steps go.
  void save(const std::string& path, std::int64_t step, const std::function<void()>& then = {}) const;
  // `step`, or the last step whose files are all there, whatever their number; returns it.
  std::int64_t load(const std::string& path, std::optional<std::int64_t> step = {});

 private:
  struct Piece {
    std::size_t parameter, bucket;
    std::int64_t begin, size;  // in the parameter
    std::int64_t at;           // in the bucket
    Tensor values;
  };
  struct Layout {
    std::vector<Tensor> flat;  // parameters, as the buckets hold their gradients
    std::vector<Piece> pieces;  // this rank's, in the order of the groups' parameters
    std::vector<optim::ParamGroup> groups;
  };
  ShardedOptimizer(std::shared_ptr<Reducer> reducer, Layout layout, const Make& make);
  static Layout lay_out(Reducer& reducer, const std::vector<optim::ParamGroup>& groups);
  static void move_into_flat_memory(const Reducer& reducer, Layout& layout);
  void update(const Tensor& skip) override;
  void take_numbers();
  std::vector<std::string> state_names() const override { return {}; }
  std::string key_of(const Piece& piece) const;
  void take_gradients();

  std::shared_ptr<Reducer> reducer_;
  Layout layout_;
  std::unique_ptr<optim::Optimizer> inner_;
};

// One group with all of the model's parameters, and lr and weight_decay of `options`.
template <class O, class Options>
std::unique_ptr<ShardedOptimizer> shard(const DataParallel& parallel, Options options) {
  optim::ParamGroup group{.params = {}, .lr = options.lr, .weight_decay = options.weight_decay};
  for (const auto& parameter : parallel.reducer()->parameters()) group.params.push_back(parameter.tensor);
  return std::make_unique<ShardedOptimizer>(parallel, std::vector{std::move(group)}, [=](std::vector<optim::ParamGroup> groups) {
    return std::make_unique<O>(std::move(groups), options);
  });
}

}  // namespace binade::dist
