// The comparison: one task trained in several precisions from the same weights, on the same batches.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/program.h"

namespace example {

// A model with its data, ready to train: what differs between an MLP and a GPT.
class Task {
 public:
  virtual ~Task() = default;
  virtual std::string unit() const = 0;                   // "tokens" or "images"
  virtual std::int64_t items_per_step() const = 0;
  virtual binade::Tensors parameters() const = 0;
  virtual Tensor training_loss() = 0;                     // forward on the next batch; called under autocast
  virtual double validation_loss() = 0;                   // called under autocast and NoGrad
};
// Builds a task from a seed alone: the same weights and batches for the same seed.
using TaskFactory = std::function<std::unique_ptr<Task>(std::uint64_t seed)>;
TaskFactory mlp_task(const std::string& size, std::int64_t batch, binade::Device device);
TaskFactory gpt_task(const std::string& size, std::int64_t batch, binade::Device device);

struct SeedRun {
  std::uint64_t seed = 0;
  std::vector<double> train_loss;                               // per step
  std::vector<double> loss_scale;                               // per step; empty without scaling
  std::vector<std::pair<std::int64_t, double>> validation_loss;  // (steps done, loss)
  std::int64_t skipped_steps = 0;
  double items_per_s = 0;
  binade::MemoryStats memory;

  double final_train_loss() const;  // mean of the last 20 % of the steps
  double final_validation_loss() const { return validation_loss.empty() ? NAN : validation_loss.back().second; }
};

struct ModeResult {
  PrecisionMode mode;
  std::vector<SeedRun> seeds;

  double final_train_loss() const;       // means over seeds
  double final_validation_loss() const;
  double items_per_s() const;
  std::size_t peak_bytes() const;        // largest over seeds
  std::int64_t skipped_steps() const;    // sum over seeds
  double final_loss_scale() const;       // of the last seed; 0 without scaling
};

struct Comparison {
  std::string model, size, unit, device;
  std::int64_t steps = 0, batch = 0;
  double lr = 0;
  std::vector<ModeResult> modes;  // the reference, fp32, first when it was asked for

  const ModeResult* reference() const;  // fp32, or null
};

struct TrainOptions {
  std::int64_t steps = 0, evaluate_every = 0;
  double lr = 0;
};
SeedRun train(const TaskFactory& factory, const PrecisionMode& mode, std::uint64_t seed, const TrainOptions& options,
              const std::string& label);

void print_table(const Comparison& comparison);
void write_json(const Comparison& comparison, const std::string& path);
void write_html(const Comparison& comparison, const std::string& path);  // self-contained

}  // namespace example
