// What ranks do in the jobs that launched.cpp starts: train for a while, then something happens to rank 1.
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "binade/core/backend/graphed_step.h"
#include "binade/distributed/data_parallel.h"
#include "binade/ops/nn/nn.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/test_device.h"
#include "binade/tests/distributed/ranks.h"

namespace binade::test {

namespace {

constexpr auto timeout = std::chrono::milliseconds(2000);

void exchange_until(const std::string& scenario) {
  if (scenario == "asynchronous error" && dist::read_launch().rank == 1)
    setenv("BINADE_SIM_FAIL", "ncclAsyncError:4:6", 1);  // of the simulated device: ncclRemoteError in the fourth exchange
  const auto group = dist::init({.timeout = timeout, .device = test_device()});
  const Tensor x = ones({1000}, {.device = group->device()});
  for (int step = 1; step <= 6; ++step) {
    if (step == 4 && group->rank() == 1) {
      std::this_thread::sleep_for(timeout / 8);  // on a device the others may still hear of step 3
      if (scenario == "killed") std::raise(SIGKILL);
      if (scenario == "stopped") std::raise(SIGSTOP);
      if (scenario == "throws") fail({"the data are damaged"});
      if (scenario == "leaves") return;
      if (scenario == "exits") std::_Exit(3);
      if (scenario == "cuts the link") check(std::system("ip link set dev net0 down") == 0, "the link cannot be cut");
      if (scenario == "late") std::this_thread::sleep_for(2 * timeout);
      if (scenario == "other collective") group->barrier().wait();
      if (scenario == "other size") group->all_reduce(zeros({3}, {.device = group->device()})).wait();
    }
    group->all_reduce(x).wait();
    // Reading waits for the device, where there is one: wait() did not. It must not take what is no result.
    check(x.at(0) == std::pow(group->size(), step), "a result that is none was taken: ", x.at(0));
  }
  // Where nothing happens, rank 0 goes last and the others wait for it.
  if (group->rank() == 0) std::printf("all %d ranks are done\n", group->size());
}

// Rank 1 dies while gradients are under way.
void train_until(const std::string& scenario) {
  const auto group = dist::init({.timeout = timeout, .device = test_device()});
  nn::Sequential model(nn::Linear(64, 256), nn::ReLU(), nn::Linear(256, 8));
  model.to(group->device());
  bool ends = false;
  const Tensors parameters = model.parameters();
  for (std::size_t i = 2; i < 4; ++i) {  // the last layer's, the first to get gradients; before DataParallel's own hooks:
    Tensor last = parameters[i];         // no bucket is full yet, none of this step's collectives has begun
    last.register_hook([&](const Tensor&) -> Tensor {
      if (!ends) return {};
      if (scenario == "killed in backward") std::raise(SIGKILL);
      if (scenario == "stopped in backward") std::raise(SIGSTOP);
      fail({"backward broke"});
    });
  }
  const dist::DataParallel parallel(model, {.group = group, .first_bucket_bytes = 1024, .bucket_bytes = 4096});
  for (int step = 1; step <= 6; ++step) {
    ends = step == 4 && group->rank() == 1;
    mean(model(randn({16, 64}).to(group->device()))).backward();
    model.zero_grad();
  }
}

// The first calls of a GraphedStep run eagerly, then one is recorded.
void record_a_step() {
  const auto group = dist::init({.timeout = timeout, .device = test_device()});
  nn::Linear model(8, 8);
  model.to(group->device());
  const dist::DataParallel parallel(model, {.group = group});
  cuda::GraphedStep step([&](const Tensors& in) -> Tensors {
    mean(model(in[0])).backward();
    model.zero_grad();
    return {};
  }, {.device = group->device()});
  for (int i = 1; i <= 3; ++i) {
    std::fprintf(stderr, "step %d\n", i);
    step({ones({4, 8}, {.device = group->device()})});
  }
}

void ask_library_sums_for_the_same_bits() {
  const auto group = dist::init({.timeout = timeout, .device = test_device(), .library_sums = true});
  nn::Linear model(8, 8);
  model.to(group->device());
  const dist::DataParallel sums(model, {.group = group});
  std::fprintf(stderr, "without micro_batches: taken\n");
  const dist::DataParallel parallel(model, {.group = group, .micro_batches = 8});
}

}  // namespace

int run_scenario(const std::string& name) {
  try {
    if (name.ends_with("in backward")) train_until(name);
    else if (name == "recorded step") record_a_step();
    else if (name == "library sums with micro_batches") ask_library_sums_for_the_same_bits();
    else exchange_until(name);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}

}  // namespace binade::test
