#include "common/program.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <thread>

namespace example {

PrecisionMode precision_mode(const std::string& name) {
  if (name == "fp32") return {name, DType::f32, false};
  if (name == "bf16") return {name, DType::bf16, false};
  if (name == "fp16") return {name, DType::f16, true};
  throw UsageError("unknown precision '" + name + "', expected fp32, bf16 or fp16");
}

void add_run_options(CLI::App& app, RunOptions& o) {
  app.add_option("--precision", o.precision, "fp32, bf16, or fp16 with dynamic loss scaling")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->capture_default_str();
  app.add_option("--device", o.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--seed", o.seed, "Initial weights, data order, dropout")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--steps", o.steps, "Training steps")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--batch", o.batch, "Samples per step, of all processes together")
      ->check(CLI::PositiveNumber)
      ->default_str(o.batch > 0 ? fmt::format("{}", o.batch) : "by size");
  add_learning_rate(app, o.lr, "Peak learning rate");
  app.add_option("--metrics", o.metrics, "Write one JSON object per step to this file");
  app.add_option("--checkpoint", o.checkpoint, "Save training state to this file; replaced atomically");
  app.add_option("--every", o.checkpoint_every, "Steps between checkpoints (default: only at the end)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--resume", o.resume, "Continue from --checkpoint, bit for bit");
  app.add_flag("--deterministic-reduction", o.deterministic_reduction,
               "Sum gradients in one fixed order: the same bits for any number of processes (mpirun -n 1, 2, 4 ...)");
  app.add_option("--micro-batches", o.micro_batches, "Parts a batch is cut into for that, a power of two")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--zero1", o.zero1, "Each process keeps its part of the optimizer's state only (ZeRO-1), the results are the same");
  app.add_option("--timeout", o.timeout, "Seconds a process waits for the others before it gives up")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

void add_learning_rate(CLI::App& app, double& lr, const std::string& description) {
  const auto positive = [](const std::string& text) {
    double value = 0;
    const bool ok = CLI::detail::lexical_cast(text, value) && std::isfinite(value) && value > 0;
    return ok ? std::string() : "expected a positive learning rate, got " + text;
  };
  const bool by_model = lr == 0;
  auto* option = app.add_option("--lr", lr, description)->check(CLI::Validator(positive, "POSITIVE"));
  if (!by_model) option->capture_default_str();
}

void check_writable(const std::string& path, const char* flag) {
  namespace fs = std::filesystem;
  if (path.empty()) return;
  const fs::path folder = fs::absolute(path).parent_path();
  std::error_code ignored;
  binade::check(fs::is_directory(folder, ignored), flag, ": cannot write ", path, ": there is no folder ",
                folder.string());
  binade::check(!fs::is_directory(path, ignored), flag, ": cannot write ", path, ": it is a folder, name a file");
  const bool ok = access(folder.c_str(), W_OK) == 0 && (!fs::exists(path, ignored) || access(path.c_str(), W_OK) == 0);
  binade::check(ok, flag, ": cannot write ", path, ": permission denied");
}

void validate(const RunOptions& o) {
  require(!o.resume || !o.checkpoint.empty(), "--resume: needs --checkpoint FILE to continue from");
  require(o.checkpoint_every == 0 || !o.checkpoint.empty(), "--every: needs --checkpoint FILE to write to");
  check_writable(o.metrics, "--metrics");
  check_writable(o.checkpoint, "--checkpoint");
}

void require_batch(std::int64_t batch, std::int64_t samples) {
  require(batch <= samples, "--batch: ", batch, " is more than the ", samples, " training samples");
}

binade::Device device_named(const std::string& flag) {
  try {
    return flag == "auto" ? binade::default_device() : binade::device_from_name(flag);
  } catch (const binade::Error& error) {
    throw UsageError(std::string("--") + error.what());
  }
}

void print_device(binade::Device device, const std::string& flag) {
  const bool none = flag == "auto" && device.type == binade::DeviceType::cpu;
  fmt::print("device: {}{}\n", binade::device_description(device), none ? " (no CUDA device)" : "");
}

namespace {
int report(const std::exception& error, int exit_code) {
  std::fflush(stdout);
  fmt::print(stderr, "error: {}\n", error.what());
  return exit_code;
}
// What is wrong with the flags is wrong in every process: one of them says so.
int report_usage(const std::string& text) {
  if (rank_of_launch() == 0) fmt::print(stderr, "{}\n", text);
  else std::this_thread::sleep_for(std::chrono::seconds(1));  // launchers end every process once one has ended
  return 2;
}
}  // namespace

int rank_of_launch() {
  try {
    return binade::dist::read_launch().rank;
  } catch (const binade::Error&) {  // dist::init() will say what is wrong
    return 0;
  }
}

int run_program(int argc, char** argv, const char* description, const std::function<void(CLI::App&)>& add_flags,
                const std::function<void()>& body) {
  CLI::App app(description);
  add_flags(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help
    return app.exit(asked);
  } catch (const CLI::Error& error) {
    return report_usage(fmt::format("{}: {} (--help lists the flags)", app.get_name().empty() ? argv[0] : app.get_name(),
                                    error.what()));
  }
  try {
    body();
    return 0;
  } catch (const UsageError& error) {
    std::fflush(stdout);
    return report_usage(std::string("error: ") + error.what());
  } catch (const std::bad_alloc&) {
    return report(binade::Error("out of memory: try a smaller --batch or model"), 1);
  } catch (const std::exception& error) {
    return report(error, 1);
  }
}

namespace {
constexpr const char* rewrite = "\r\x1b[2K";  // back to the start of the terminal's line, and clear it
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Progress::Progress(std::string what, std::string unit, std::int64_t first_step, std::int64_t steps)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      first_(first_step),
      steps_(steps),
      terminal_(isatty(STDOUT_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_ - std::chrono::hours(1)) {}

void Progress::update(const Now& now) {
  const double quiet = seconds_since(last_);
  const bool ends = now.step == first_ || now.step == steps_ - 1;
  if (!ends && quiet < (terminal_ ? 0.2 : 10.0)) return;
  last_ = std::chrono::steady_clock::now();
  std::string text =
      fmt::format("{}  step {}/{}  loss {:.4f}  lr {:.2e}", what_, now.step + 1, steps_, now.loss, now.lr);
  if (now.items_per_s > 0) text += fmt::format("  {:.0f} {}", now.items_per_s, unit_);
  if (now.loss_scale > 0) text += fmt::format("  scale {:.0f} skipped {}", now.loss_scale, now.skipped);
  text += "  " + binade::bytes_text(binade::memory_stats(now.device).peak_total);
  if (now.step == first_)
    start_ = last_;  // the first step is no measure
  else
    text += fmt::format("  {:.0f} s left", seconds_since(start_) / static_cast<double>(now.step - first_) *
                                               static_cast<double>(steps_ - 1 - now.step));
  const char* before = terminal_ ? rewrite : "";
  fmt::print("{}{}{}", before, text, terminal_ ? "" : "\n");
  std::fflush(stdout);
}

void Progress::line(const std::string& text) {
  fmt::print("{}{}\n", terminal_ ? rewrite : "", text);
  std::fflush(stdout);
}

void Progress::finish() {
  if (terminal_) fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace example
