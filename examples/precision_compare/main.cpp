// Trains the same model from the same weights on the same batches in each requested precision, and shows what the
// precision changed: loss, speed, memory, and a verdict with its reason.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <csignal>

#include "binade/ops/compare/report.h"
#include "common/models.h"
#include "common/parallel.h"
#include "common/program.h"
#include "precision_compare/tasks.h"

using namespace example;
using namespace binade;

namespace {

struct Options {
  std::string model = "mlp", size = "tiny", modes = "fp32,bf16,fp16", case_name, device = "auto", json, html;
  std::uint64_t seed = 42;
  std::int64_t seeds = 1, steps = 300, batch = 0;
  double lr = 0;
  bool list_cases = false, precision_table = false, no_observe = false;
  CLI::Option *modes_given = nullptr, *seeds_given = nullptr, *steps_given = nullptr;
};

void add_flags(CLI::App& app, Options& o) {
  app.add_option("--model", o.model, "What to train")->check(CLI::IsMember({"mlp", "gpt"}))->capture_default_str();
  app.add_option("--size", o.size, "tiny or small")->check(CLI::IsMember({"tiny", "small"}))->capture_default_str();
  o.modes_given = app.add_option("--modes", o.modes,
                                 "Comma-separated precisions, or all: fp32, tf32, bf16, fp16, fp16-noscale, bf16-pure, "
                                 "bf16-sr, fp8-delayed, fp8-current, mxfp8")
                      ->capture_default_str();
  app.add_option("--case", o.case_name, "A built-in setting in place of --model; --list-cases shows them");
  app.add_flag("--list-cases", o.list_cases, "Print the built-in settings and end");
  app.add_flag("--precision-table", o.precision_table, "Print what autocast does to each operation and end");
  app.add_option("--seed", o.seed, "The first seed")->check(CLI::NonNegativeNumber)->capture_default_str();
  o.seeds_given = app.add_option("--seeds", o.seeds, "How many seeds, counting up; a verdict needs 3")
                      ->check(CLI::PositiveNumber)
                      ->capture_default_str();
  o.steps_given = app.add_option("--steps", o.steps, "Training steps per run")
                      ->check(CLI::PositiveNumber)
                      ->capture_default_str();
  app.add_option("--batch", o.batch, "Samples per step (default: by model and size)")->check(CLI::PositiveNumber);
  add_learning_rate(app, o.lr, "Peak learning rate (default: by model and size)");
  app.add_option("--device", o.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_flag("--no-observe", o.no_observe, "Do not look at the numerics of the first fp32 run");
  app.add_option("--json", o.json, "Write the results to this file");
  app.add_option("--html", o.html, "Write a report with loss curves to this file");
}

std::vector<compare::Mode> modes_of(const Options& o) {
  try {
    return compare::modes(o.modes);
  } catch (const Error& error) {
    throw UsageError(std::string("--modes: ") + error.what());
  }
}

std::int64_t batch_of(const Options& o) {
  if (!o.case_name.empty()) return find_case(o.case_name).batch;
  return o.batch ? o.batch : o.model == "gpt" ? gpt_size(o.size).batch : 128;
}

// What to train, and how, from the flags.
std::pair<TaskFactory, compare::Options> chosen(const Options& o, Device device, const Group& group) {
  if (!o.case_name.empty()) {
    const Case& c = find_case(o.case_name);
    fmt::print("case {}: {}\n", c.name, c.about);
    compare::Options options = case_options(c);
    if (o.modes_given->count() > 0) options.modes = modes_of(o);
    if (o.seeds_given->count() > 0) options.seeds = o.seeds;
    if (o.steps_given->count() > 0) options.steps = o.steps;
    options.unit = "images";
    return {mlp_task(c.shape, c.batch, device, group), std::move(options)};
  }
  const bool gpt = o.model == "gpt";
  compare::Options options;
  options.modes = modes_of(o);
  options.seeds = o.seeds;
  options.steps = o.steps;
  options.model = o.model;
  options.size = o.size;
  options.unit = gpt ? "tokens" : "images";
  options.batch = batch_of(o);
  options.lr = o.lr > 0 ? o.lr : gpt ? gpt_size(o.size).lr : 2e-3;
  const std::int64_t hidden = o.size == "tiny" ? 64 : 256;
  return {gpt ? gpt_task(o.size, options.batch, device, group)
              : mlp_task({.hidden = {hidden, hidden}}, options.batch, device, group),
          std::move(options)};
}

volatile std::sig_atomic_t interrupted = 0;
extern "C" void on_interrupt(int) {
  interrupted = 1;
  std::signal(SIGINT, SIG_DFL);  // a second Ctrl-C ends the program at once
}

class Display {  // one progress line per run
 public:
  Display(std::string unit, Device device) : unit_(std::move(unit)), device_(device) {}
  ~Display() { end_run(); }
  Display(const Display&) = delete;
  Display& operator=(const Display&) = delete;

  void show(const compare::Progress& p) {
    if (p.step == 0) {
      end_run();
      progress_.emplace(fmt::format("[{}/{}] {} seed {}", p.run + 1, p.runs, p.mode, p.seed), unit_ + "/s", 0, p.steps);
    }
    progress_->update({.step = p.step, .loss = p.loss, .lr = p.lr, .loss_scale = p.loss_scale, .skipped = p.skipped,
                       .items_per_s = p.items_per_s, .device = device_});
  }
  void end_run() {
    if (progress_) progress_->finish();
    progress_.reset();
  }

 private:
  std::string unit_;
  Device device_;
  std::optional<Progress> progress_;
};

void compare_precisions(const Options& o) {
  if (o.precision_table) {
    fmt::print("{}", precision_table());
    return;
  }
  if (o.list_cases) {
    for (const Case& c : cases()) fmt::print("{:<9} {} ({})\n", c.name, c.about, c.modes);
    return;
  }
  check_writable(o.json, "--json");
  check_writable(o.html, "--html");
  if (o.case_name.empty()) modes_of(o);  // before anything is loaded
  const Group group = join_group(batch_of(o), o.device);
  const Device device = group->device();
  auto [factory, options] = chosen(o, device, group);
  options.first_seed = o.seed;
  options.observe = !o.no_observe;
  options.device = device_description(device);
  Display display(options.unit, device);
  options.on_step = [&](const compare::Progress& p) { display.show(p); };
  options.on_numerics = [&](const std::string& text) {
    display.end_run();
    fmt::print("\nseen in fp32, before the other modes:\n{}\n", text);
  };
  options.stop = [group] { return dist::mean_over_ranks(*group, interrupted) > 0; };  // all stop at the same step
  if (group->size() > 1) {
    options.mean_loss = [group](double loss) { return dist::mean_over_ranks(*group, loss); };
    // A rank sees the numerics of its own samples only, and an autopsy must end at the same step everywhere.
    options.observe = false;
  }
  std::signal(SIGINT, on_interrupt);

  const compare::Comparison result = compare::run(factory, options);
  display.end_run();
  fmt::print("{}", compare::table(result));
  if (group->rank() > 0) return;
  if (!o.json.empty()) compare::write_json(result, o.json), fmt::print("wrote {}\n", o.json);
  if (!o.html.empty()) compare::write_html(result, o.html), fmt::print("wrote {}\n", o.html);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  return run_program(
      argc, argv, "Trains one model in several precisions and compares loss, speed and memory.",
      [&](CLI::App& app) { add_flags(app, options); }, [&] { compare_precisions(options); });
}
