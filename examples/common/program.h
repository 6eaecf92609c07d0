// What every example program shares: flags, exit codes, precision modes, progress.
#pragma once
#include <binade/binade.h>

#include <chrono>
#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace example {

using binade::DType;
using binade::Tensor;

// What the caller asked for cannot be done as asked: exit code 2.
struct UsageError : binade::Error {
  using Error::Error;
};
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) throw UsageError((binade::to_text(parts) + ...));
}

// A precision a program can be asked for.
struct PrecisionMode {
  std::string name;      // fp32, bf16, fp16
  DType autocast;        // f32: off
  bool loss_scaling;     // FP16 gradients need it
};
PrecisionMode precision_mode(const std::string& name);  // throws UsageError listing the modes

struct RunOptions {
  std::string precision = "fp32", device = "auto";
  std::uint64_t seed = 42;
  std::int64_t steps = 0, batch = 0;
  double lr = 0;
  std::string metrics;                  // JSON lines, one object per step
  std::string checkpoint;               // file
  std::int64_t checkpoint_every = 0;    // steps
  bool resume = false;
  bool deterministic_reduction = false;  // results that do not depend on the number of processes
  std::int64_t micro_batches = 8;        // of the whole batch, in a deterministic reduction
  bool zero1 = false;                    // the optimizer's state is shared out among the processes
  std::int64_t timeout = 600;            // seconds a process waits for the others

  PrecisionMode mode() const { return precision_mode(precision); }
  bool saves_after(std::int64_t step) const {  // whether a checkpoint is due
    return !checkpoint.empty() && (step + 1 == steps || (checkpoint_every > 0 && (step + 1) % checkpoint_every == 0));
  }
};
void add_run_options(CLI::App& app, RunOptions& options);
void add_learning_rate(CLI::App& app, double& lr, const std::string& description);  // finite and positive
void validate(const RunOptions& options);  // flags that need each other, outputs that can be written
void require_batch(std::int64_t batch, std::int64_t samples);  // --batch is at most the number of training samples
void check_writable(const std::string& path, const char* flag);  // before the work, not after it; "" is fine
binade::Device device_named(const std::string& flag);  // --device
void print_device(binade::Device device, const std::string& flag);  // says in one line what runs where

int rank_of_launch();  // as the launcher set it, before any group is joined

// Runs `body` and turns what it throws into one line and an exit code: 2 for usage, 1 otherwise.
// `add_flags` declares the program's flags.
int run_program(int argc, char** argv, const char* description, const std::function<void(CLI::App&)>& add_flags,
                const std::function<void()>& body);

// One line that is rewritten on a terminal, plain lines now and then in a log.
class Progress {
 public:
  struct Now {
    std::int64_t step = 0;
    double loss = 0, lr = 0;
    double loss_scale = 0;  // 0: no loss scaling
    std::int64_t skipped = 0;
    double items_per_s = 0;  // 0: none measured yet
    binade::Device device;   // whose memory is told
  };
  Progress(std::string what, std::string unit, std::int64_t first_step, std::int64_t steps);
  void update(const Now& now);
  void line(const std::string& text);  // a line of its own, above the progress
  void finish();

 private:
  std::string what_, unit_;
  std::int64_t first_, steps_;
  bool terminal_;
  std::chrono::steady_clock::time_point start_, last_;
};

double seconds_since(std::chrono::steady_clock::time_point start);

}  // namespace example
