// Training steps against their floor, the time of their matrix products alone. Step and floor alternate in one process;
// docs/performance.md says how to read the result.
#include <binade/binade.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "train/clock.h"
#include "train/floor.h"
#include "train/heap.h"
#include "train/neighbour.h"
#include "train/pairs.h"
#include "train/profile.h"
#include "train/step.h"
#include "train/tiny_op.h"

namespace {

using nlohmann::json;

struct Options {
  bench::Case shape;
  std::string precisions = "fp32", json_file, device = "cpu";
  int pairs = 8;
  std::int64_t count = 1000;  // of tiny operations
  bool neighbour = false, serve = false;
};

constexpr double mib = 1048576.0;

// ---- what one case reports -------------------------------------------------------------------------------------------

// One step in its steady state: what it allocates, and what memory it needs at its peak, by tag. What parallel tasks hold
// at once depends on how they overlap, so the caches may still grow in a step after the first ones; not in five running.
json memory_of(bench::Step& step, binade::Device device) {
  binade::MemoryStats before, after;
  std::uint64_t heap = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    binade::reset_peak_memory(device);
    before = binade::memory_stats(device);
    const std::uint64_t heap_before = bench::heap_allocations();
    step();
    heap = bench::heap_allocations() - heap_before;
    after = binade::memory_stats(device);
    if (after.system_allocations == before.system_allocations) break;
  }
  json by_tag = json::object();
  fmt::print("  peak {:.1f} MiB:", static_cast<double>(after.peak_total) / mib);
  for (int t = 0; t < binade::memory_tags; ++t) {
    const std::size_t bytes = after.at_peak[static_cast<std::size_t>(t)];
    by_tag[std::string(name(static_cast<binade::MemoryTag>(t)))] = bytes;
    fmt::print(" {} {:.1f}", name(static_cast<binade::MemoryTag>(t)), static_cast<double>(bytes) / mib);
  }
  const std::uint64_t system = after.system_allocations - before.system_allocations;
  fmt::print("\n  a steady step asks the system for memory {} times, the heap {} times\n", system, heap);
  return {{"peak_bytes", after.peak_total},
          {"peak_bytes_by_tag", by_tag},
          {"system_allocations_per_step", system},
          {"heap_allocations_per_step", heap}};
}

// triad: bytes per second, or 0 where it was not measured
json table(const std::map<std::string, bench::Entry>& entries, double seconds, double triad, bool print) {
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [name, entry] : entries) order.emplace_back(entry.seconds, name);
  std::ranges::sort(order, std::greater());
  json rows = json::object();
  for (const auto& [own, name] : order) {
    const bench::Entry& entry = entries.at(name);
    json& row = rows[name] = {{"share", own / seconds}, {"calls", entry.calls}};
    if (entry.bytes > 0 && triad > 0) row["share_of_triad"] = entry.rate() / triad;
    if (!print || own < 0.001 * seconds) continue;
    fmt::print("  {:<30} {:5.1f} %", name, 100 * own / seconds);
    if (entry.bytes > 0) fmt::print("  {:6.1f} GB/s", 1e-9 * entry.rate());
    if (entry.bytes > 0 && triad > 0) fmt::print(", {:.0f} % of triad", 100 * entry.rate() / triad);
    fmt::print("\n");
  }
  return rows;
}

json measure(const Options& o, const std::string& precision) {
  bench::Case shape = o.shape;
  shape.precision = precision;
  const bool cpu = shape.device == binade::Device{};
  bench::Step step(shape);
  for (int i = 0; i < 3; ++i) step();  // makes the primitives, the optimizer's state, and the blocks of memory
  std::optional<bench::Floor> products(shape);
  bench::Floor& floor = *products;
  floor();

  const bench::Pairs pairs = bench::measure_pairs([&] { return floor(); }, [&] { return step(); }, o.pairs);
  const double step_s = bench::median(pairs.b), floor_s = bench::median(pairs.a);
  const std::vector<double> ratios = pairs.ratios();
  const auto items = static_cast<double>(step.items);
  fmt::print("{} {} batch {}{}: step {:.2f} ms, floor {:.2f} ms, step/floor {:.3f} [{:.3f}, {:.3f}], {:.0f} {}/s\n",
             shape.model, precision, shape.batch, shape.model == "mlp" ? "" : fmt::format(" x {}", shape.time),
             1e3 * step_s, 1e3 * floor_s, bench::median(ratios), bench::quantile(ratios, 0.25),
             bench::quantile(ratios, 0.75), items / step_s, shape.model == "mlp" ? "images" : "tokens");
  fmt::print("  {} pairs, {} disturbed{}; floor: {} products of {}, {:.0f} GFLOP/s\n", pairs.a.size(), pairs.disturbed,
             pairs.quiet ? " and dropped" : ", kept because too few were quiet: do not trust this", floor.products(),
             floor.operand_dtype(), 1e-9 * floor.flops() / floor_s);

  const double triad = cpu ? bench::measure_triad() : 0;
  const bench::Profile profile = bench::profile(
      [&] { return step(); }, std::max(1, static_cast<int>(0.2 / std::max(step_s, 1e-6))), shape.device.type);
  if (cpu) {
    fmt::print("  triad {:.1f} GB/s; share of the step:\n", 1e-9 * triad);
  } else {
    fmt::print("  share of the time from the first kernel to the last, by events of {}:\n",
               binade::device_description(shape.device));
  }
  const json families = table(profile.families, profile.seconds, triad, true);
  json record = {{"model", shape.model},
                 {"precision", precision},
                 {"batch", shape.batch},
                 {"seq", shape.time},
                 {"threads", bench::thread_count()},
                 {"cpu", binade::device_description({})},
                 {"device", binade::device_description(shape.device)},
                 {"tokens_per_s", items / step_s},  // images, for the mlp
                 {"step_ms", 1e3 * step_s},
                 {"floor_ms", 1e3 * floor_s},
                 {"step_over_floor", bench::median(ratios)},
                 {"step_over_floor_quartiles", {bench::quantile(ratios, 0.25), bench::quantile(ratios, 0.75)}},
                 {"pairs", pairs.a.size()},
                 {"disturbed_pairs", pairs.disturbed},
                 {"quiet", pairs.quiet},
                 {"floor_products", floor.products()},
                 {"floor_dtype", floor.operand_dtype()},
                 {"floor_gflops", 1e-9 * floor.flops() / floor_s},
                 {"loss", step.loss()},
                 {"triad_gb_per_s", cpu ? json(1e-9 * triad) : json()},
                 {"families", families},
                 {"kernels", table(profile.kernels, profile.seconds, triad, false)}};
  products.reset();  // on a GPU its operands are tensors as the step's
  record.update(memory_of(step, shape.device));
  if (o.neighbour) {
    const auto disturbed = [&] {
      const bench::Neighbour neighbour;
      step();  // until the neighbour has started
      return step();
    };
    const bench::Pairs with = bench::measure_pairs([&] { return step(); }, disturbed, o.pairs, 1.0);
    record["neighbour_ratio"] = bench::median(with.ratios());
    fmt::print("  with another process on one processor a step takes {:.2f} times as long\n", bench::median(with.ratios()));
  }
  return record;
}

json measure_tiny_ops(const Options& o) {
  std::vector<double> forward, backward;
  bench::TinyOps ops = bench::tiny_ops(o.count);
  for (int i = 0; i < 5 * o.pairs; ++i) {
    ops = bench::tiny_ops(o.count);
    forward.push_back(ops.forward_ns);
    backward.push_back(ops.backward_ns);
  }
  const double f = bench::median(forward), b = bench::median(backward);
  fmt::print("tiny-op: {} adds of 10 elements: {:.0f} ns each with gradient (forward {:.0f}, backward {:.0f}), {:.1f} heap "
             "allocations\n",
             o.count, f + b, f, b, ops.heap_allocations);
  return {{"model", "tiny-op"}, {"count", o.count}, {"ns_per_operation", f + b}, {"forward_ns", f}, {"backward_ns", b},
          {"heap_allocations_per_operation", ops.heap_allocations}};
}

// ---- for scripts/bench_peers.py --------------------------------------------------------------------------------------

// Says "ready"; then every line of the input is a number of steps, answered by the seconds they took.
void serve(const Options& o) {
  bench::Case shape = o.shape;
  shape.precision = o.precisions;
  std::optional<bench::Step> step;
  if (shape.model != "tiny-op") step.emplace(shape);
  const auto once = [&] {
    if (step) return (*step)();
    const bench::TinyOps ops = bench::tiny_ops(o.count);
    return 1e-9 * static_cast<double>(o.count) * (ops.forward_ns + ops.backward_ns);
  };
  for (int i = 0; i < 3; ++i) once();
  std::cout << "ready" << std::endl;
  for (int steps = 0; std::cin >> steps;) {
    double seconds = 0;
    for (int i = 0; i < steps; ++i) seconds += once();
    std::cout << fmt::format("{:.9f}", seconds) << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("Times training steps against their matrix products alone.");
  app.add_option("--model", o.shape.model, "mlp, char (6 layers, 384 wide), gpt2 (124M) or tiny-op")->capture_default_str();
  app.add_option("--batch", o.shape.batch, "Samples per step")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--seq", o.shape.time, "Tokens per sample")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--precision", o.precisions, "Comma-separated: fp32, bf16, fp16, fp8, fp8_current")->capture_default_str();
  app.add_option("--pairs", o.pairs, "Quiet pairs of floor and step")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--count", o.count, "Of tiny operations")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--device", o.device, "cpu, cuda or cuda:N; kernels of a GPU are timed by its events")->capture_default_str();
  app.add_flag("--checkpointing", o.shape.activation_checkpointing, "Compute the GPTs' blocks again in backward: less memory");
  app.add_option("--loss-chunk", o.shape.loss_chunk, "Tokens whose logits the GPTs' loss holds at a time; 0: all")
      ->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_flag("--neighbour", o.neighbour, "Also time steps while another process takes one processor");
  CLI::Option* const graph = app.add_flag("--graph", o.shape.graphed, "With --serve: the step as a CUDA graph");
  graph->needs(app.add_flag("--serve", o.serve, "Run as many steps as each line of the input says, answer their seconds"));
  app.add_option("--json", o.json_file, "Write the records to this file");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    o.shape.device = binade::device_from_name(o.device);
    if (o.serve) {
      serve(o);
      return 0;
    }
    json records = json::array();
    std::stringstream list(o.shape.model == "tiny-op" ? "fp32" : o.precisions);
    for (std::string precision; std::getline(list, precision, ',');)
      records.push_back(o.shape.model == "tiny-op" ? measure_tiny_ops(o) : measure(o, precision));
    if (!o.json_file.empty()) {
      std::ofstream file(o.json_file);
      file << records.dump(1) << '\n';
      binade::check(file.good(), "--json: cannot write ", o.json_file);
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
