// Saving, resuming and reporting a training run: the same for every model.
#pragma once
#include <binade/binade.h>

#include <optional>
#include <string>

#include "binade/core/io/metrics.h"
#include "common/batches.h"
#include "common/program.h"

namespace example {

struct Training {  // all that the next step depends on, beside the options
  binade::nn::Module& model;
  binade::optim::Optimizer& optimizer;
  binade::amp::GradScaler& scaler;
  Batches& batches;

  void save(const std::string& path, std::int64_t steps_done) const;
  std::int64_t load(const std::string& path) const;  // steps done
  std::int64_t start(const RunOptions& options) const;  // the first step: 0, or where --resume's checkpoint ends
};

// The writer for --metrics, if asked for. A resumed run keeps the lines before its first step: a killed run has
// usually written some steps beyond its last checkpoint, which now come again.
std::optional<binade::io::MetricsWriter> open_metrics(const RunOptions& options, std::int64_t first_step);

struct StepReport {
  std::int64_t step = 0;
  double loss = 0, lr = 0, grad_norm = 0, items_per_s = 0;
  const char* rate_name = "items_per_s";
  binade::Device device;

  Progress::Now progress(const binade::amp::GradScaler& scaler) const;
  binade::io::Metrics metrics(const binade::amp::GradScaler& scaler, std::optional<double> validation_loss) const;
};

}  // namespace example
