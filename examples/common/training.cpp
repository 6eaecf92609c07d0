#include "common/training.h"

namespace example {

using namespace binade;

void Training::save(const std::string& path, std::int64_t steps_done) const {
  io::save_checkpoint(path, {.model = model.state_dict(),
                             .optimizer = optimizer.state_dict(),
                             .scaler = scaler.state_dict(),
                             .random = random_state(),
                             .loader = batches.loader().state(),
                             .step = steps_done,
                             .numbers = {}});
}

std::int64_t Training::load(const std::string& path) const {
  const io::Checkpoint checkpoint = io::load_checkpoint(path);
  model.load_state_dict(checkpoint.model);
  optimizer.load_state_dict(checkpoint.optimizer);
  scaler.load_state_dict(checkpoint.scaler);
  batches.loader().load_state(checkpoint.loader);
  set_random_state(checkpoint.random);
  return checkpoint.step;
}

Progress::Now StepReport::progress(const amp::GradScaler& scaler) const {
  return {.step = step,
          .loss = loss,
          .lr = lr,
          .loss_scale = scaler.enabled() ? scaler.get_scale() : 0,
          .skipped = scaler.skipped_steps(),
          .items_per_s = items_per_s};
}

io::Metrics StepReport::metrics(const amp::GradScaler& scaler, std::optional<double> validation_loss) const {
  io::Metrics out{{"loss", loss},
                  {"lr", lr},
                  {"grad_norm", grad_norm},
                  {"loss_scale", scaler.enabled() ? scaler.get_scale() : 1.0},
                  {"skipped", scaler.last_step_skipped()},
                  {rate_name, items_per_s},
                  {"bytes_peak", static_cast<std::int64_t>(memory_stats().peak_total)}};
  if (validation_loss) out.emplace_back("val_loss", *validation_loss);
  return out;
}

}  // namespace example
