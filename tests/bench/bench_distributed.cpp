// How much of the communication hides behind backward: a GPT's backward with and without it, and communication alone.
//   mpirun -n 2 bench/bench_distributed
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>

#include "binade/binade.h"

using namespace binade;

namespace {

double median_ms(std::vector<double> times) {
  std::ranges::sort(times);
  return 1000 * times[times.size() / 2];
}
template <class Body>
double seconds_of(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  std::int64_t width = 256, batch = 4, repetitions = 9;
  CLI::App app("Backward with and without communication, in the ranks of an MPI job.");
  app.add_option("--width", width, "Of the model")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--batch", batch, "Samples per rank")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--repetitions", repetitions, "Of each measurement; the median counts")->check(CLI::PositiveNumber)->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const auto group = dist::init();
  manual_seed(1);
  nn::GPT model({.vocab_size = 256, .block_size = 128, .n_layer = 4, .n_head = 4, .n_embd = width});
  const dist::DataParallel parallel(model, {.group = group});
  const Tensor tokens = randint(0, 256, {batch, 128});
  const auto backward = [&] {
    const Tensor loss = model.loss(tokens, tokens);
    group->barrier().wait();
    const double time = seconds_of([&] { loss.backward(); });
    model.zero_grad();
    return time;
  };
  backward();  // builds the buckets
  backward();
  std::int64_t bytes = 0;
  for (const auto& bucket : parallel.buckets()) bytes += bucket.bytes;
  std::vector<double> without, with, alone;
  for (std::int64_t i = 0; i < repetitions; ++i) {
    {
      const auto local = parallel.no_sync();
      without.push_back(backward());
    }
    with.push_back(backward());
    group->barrier().wait();
    alone.push_back(seconds_of([&] {
      std::vector<dist::Work> work;
      for (const auto& bucket : parallel.reducer()->buckets()) work.push_back(group->all_reduce(bucket.gradients, dist::ReduceOp::avg));
      for (const dist::Work& w : work) w.wait();
    }));
  }
  if (group->rank() > 0) return 0;
  const double a = median_ms(without), b = median_ms(with), c = median_ms(alone);
  fmt::print("{} ranks, {:.1f} MB of gradients in {} buckets\n", group->size(), static_cast<double>(bytes) / 1e6, parallel.buckets().size());
  fmt::print("backward {:.1f} ms, with communication {:.1f} ms (ratio {:.2f}), communication alone {:.1f} ms\n", a, b, b / a, c);
}
