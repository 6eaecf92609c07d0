// The comparison: one task trained in several precisions from the same weights, on the same batches, with the same
// dropout masks. It answers whether a precision trains this model as FP32 does, and if not, why.
//
//   compare::Comparison result = compare::run(factory, {.modes = compare::modes("fp32,bf16,fp16"), .steps = 300});
//   fmt::print("{}", compare::table(result));
//   compare::write_html(result, "report.html");
#pragma once
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binade/core/backend/memory.h"
#include "binade/core/optim/schedule.h"
#include "binade/ops/compare/mode.h"
#include "binade/ops/nn/module.h"

namespace binade::compare {

// ---- what is compared

struct Task {
  nn::Module model = {};                   // what is trained
  std::function<Tensor()> training_loss = {};   // forward on the next batch: a scalar; called under the mode's autocast
  std::function<double()> validation_loss = {};  // mean over held-out data; called under the same autocast and NoGrad
  std::int64_t items_per_step = 1;         // in `unit`s
};
// Builds a task from a seed alone: the same weights and batches, in the same order, each time.
using TaskFactory = std::function<Task(std::uint64_t seed)>;

struct Progress {  // after each step of each run
  std::string mode = "";
  std::uint64_t seed = 0;
  std::int64_t run = 0, runs = 0;    // counted from 0
  std::int64_t step = 0, steps = 0;  // counted from 0
  double loss = 0, lr = 0, loss_scale = 0;
  double items_per_s = 0;  // 0: none measured yet
  std::int64_t skipped = 0;
};

struct Options {
  std::vector<Mode> modes = compare::modes("fp32,bf16,fp16");
  std::uint64_t first_seed = 42;
  std::int64_t seeds = 1;           // a verdict needs at least 3
  std::int64_t steps = 300;
  std::int64_t evaluate_every = 0;  // steps between validations; 0: a fifth of the steps
  double lr = 1e-3;                 // peak; cosine down to a tenth of it, after a warm-up of a twentieth of the steps
  double clip_norm = 1;             // largest gradient norm; 0: no clipping
  // FP32 twins: FP32 again from weights moved by one rounding to 11 bits (relative 2^-11). How far they drift apart is
  // what any change of rounding does to this run: the noise a verdict has to see through.
  bool twins = true;
  bool observe = true;  // numerics of the first FP32 run: what FP16 and FP8 would lose; costs a few observed steps
  std::string model = "model", size = "", unit = "samples", device = "";  // names, for the report
  std::int64_t batch = 0;                                       // for the report
  // Both have defaults: AdamW with weight decay 0.01, and the cosine above.
  std::function<std::unique_ptr<optim::Optimizer>(const Tensors& params, const Mode& mode)> optimizer = {};
  std::function<double(std::int64_t step)> lr_at = {};
  std::function<void(const Progress&)> on_step = {};
  std::function<void(const std::string& text)> on_numerics = {};  // once, after the first FP32 run
  std::function<double(double loss)> mean_loss = {};  // of a step's loss over the processes that share its batch
  std::function<bool()> stop = {};  // asked after every step; true ends the comparison with what it has
};

// ---- what came out

struct SeedRun {
  std::uint64_t seed = 0;
  bool complete = false;       // ran to its last step; false also where training was given up: see failure
  std::string failure;         // why training was given up, or empty
  std::vector<double> train_loss;                                // per step
  std::vector<double> loss_scale;                                // per step; empty without scaling
  std::vector<std::pair<std::int64_t, double>> validation_loss;  // (steps done, loss)
  std::int64_t skipped_steps = 0;
  double items_per_s = 0;
  MemoryStats memory;

  bool counts() const { return complete || !failure.empty(); }  // false: cut short by `stop`
  double final_train_loss() const;  // mean of the last 20 % of the steps; NaN for a failed run
  double final_validation_loss() const;
};

enum class Label { reference, equivalent, degraded, failed, inconclusive };
std::string_view name(Label label);

struct Verdict {
  Label label = Label::inconclusive;
  std::string reason;            // one sentence
  double mean_difference = NAN;  // r: (mode - fp32) / FP32's improvement, mean over seeds
  double visible = NAN;          // e: the smallest difference this comparison could have seen, in the same unit
};

struct ModeResult {
  Mode mode;
  std::vector<SeedRun> seeds = {};
  Verdict verdict = {};
  // With Options::observe, of the first seed: its operations' errors against f64, after training (JSON and a table); and
  // of the first seed that failed: where its first infinity or NaN came from. Empty where there is nothing to say.
  std::string shadow = {}, shadow_text = {}, post_mortem = {};

  double final_train_loss() const;  // means over the seeds that count
  double final_validation_loss() const;
  double items_per_s() const;
  std::size_t peak_bytes() const;      // largest over seeds
  std::int64_t skipped_steps() const;  // sum over seeds
  double final_loss_scale() const;     // of the last seed; 0 without scaling
};

struct Comparison {
  std::string model = "", size = "", unit = "", device = "";
  std::int64_t steps = 0, batch = 0, seeds = 0;
  double lr = 0;
  bool interrupted = false;
  std::vector<ModeResult> modes = {};  // in the order asked for
  std::vector<SeedRun> twins = {};     // FP32 twins, by seed
  double seed_spread = NAN;       // standard deviation of FP32's final training loss over seeds
  std::string numerics = {};           // JSON of the observatory, or empty
  double gradients_lost = NAN;     // share of gradient values that FP16 rounds to zero without loss scaling, seen in fp32
  std::string numerics_text = {};      // its advice

  const ModeResult* reference() const;  // fp32, or null
};

// Trains seed by seed, each seed in every mode, so that an early end leaves whole seeds. Throws Error for bad options;
// a run that fails is a result, not an error.
Comparison run(const TaskFactory& factory, const Options& options);

}  // namespace binade::compare
