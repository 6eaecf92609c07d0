// Copies to the device run on a stream of their own, beside the kernels, and events keep both streams apart: leaving out
// any of them is found. Times are those of the simulated device's clock.
#include <gtest/gtest.h>

#include <cstdlib>

#include "binade/core/backend/plugin.h"
#include "binade/tests/cuda/child.h"
#include "binade/tests/cuda/simulated.h"
#include "binade/tests/cuda/traced.h"
#include "binade/tests/device_sim/durations.h"

namespace binade::test {

namespace {

constexpr std::int64_t slot_floats = 1 << 18, slots = 16;  // of the transfers' memory

class CopyStream : public SimulatedDevice {};

// The compute stream has work queued while the host brings the next batch: the batch crosses the bus meanwhile, and only
// its way from the landing place to the tensor is on the compute stream.
TEST_F(CopyStream, ABatchArrivesWhileKernelsRun) {
  const Tensor x = ones({100}, {.device = gpu}), batch = ones({3 * slot_floats + 5});
  x + x;
  batch.to(gpu);
  synchronize(gpu);
  const DeviceBackend& backend = required_cuda_backend();
  constexpr int kernels = 400;
  backend.mark(0);
  for (int i = 0; i < kernels; ++i) x + x;
  const Tensor there = batch.to(gpu);
  backend.mark(0);
  const double seconds = backend.take_marks(0).at(1);
  const double compute = kernels * simt::kernel_seconds, crossing = 3 * simt::host_copy_seconds(4 * slot_floats);
  ASSERT_GT(compute, crossing) << "the kernels hide the copy";
  EXPECT_NEAR(seconds, compute + 3 * simt::device_copy_seconds(4 * slot_floats) + simt::device_copy_seconds(20), 1e-8);
  expect_same_bits(cpu(there), batch, "what arrived");
}

TEST_F(CopyStream, SmallCopiesTakeOneCall) {
  const auto copies = [&](std::int64_t floats) {
    const Tensor x = ones({floats});
    const std::uint64_t before = simulator->counters().copies;
    const Tensor there = x.to(gpu);
    return simulator->counters().copies - before;
  };
  EXPECT_EQ(copies(1), 1U);
  EXPECT_EQ(copies(16 << 10), 1U);
  EXPECT_EQ(copies((16 << 10) + 1), 2U);
}

// A tensor that is overwritten by the host while kernels still read its old values: order is kept.
TEST_F(CopyStream, TargetsAreWrittenInComputeOrder) {
  Tensor x = zeros({slot_floats}, {.device = gpu});
  std::vector<Tensor> read;
  for (int i = 1; i <= 20; ++i) {
    x.copy_(full({slot_floats}, i));
    read.push_back(x + x);
  }
  for (int i = 1; i <= 20; ++i) EXPECT_EQ(read[static_cast<std::size_t>(i - 1)].at(slot_floats - 1), 2 * i);
}

// Three times all slots, the second time with a call left out: the device says which order is missing.
TEST(CopyStreamChild, FillsEverySlotThreeTimes) {
  const char* planted = std::getenv("BINADE_TEST_PLANTED");  // function:n
  if (!std::getenv(child_variable) || !cuda_available()) GTEST_SKIP() << "run by CopyStream";
  const Device gpu{DeviceType::cuda, 0};
  const Tensor x = randint(0, 1 << 30, {slots * slot_floats}, {.dtype = DType::i32});
  const std::string text = planted ? planted : "";
  const std::size_t colon = text.find(':');
  std::vector<Tensor> there;
  for (int i = 0; i < 3; ++i) {
    if (i == 1 && planted) find_simulator()->fail_call(text.substr(0, colon).c_str(), std::stoi(text.substr(colon + 1)), 0);
    there.push_back(x.to(gpu));
  }
  for (const Tensor& y : there) EXPECT_EQ(y.to_vector<std::int32_t>(), x.to_vector<std::int32_t>());
}

// Of each slot: the copy stream waits for the slot, and records that it arrived; the compute stream waits for that, and
// records that it has taken it.
TEST_F(CopyStream, AMissingEventIsFound) {
  const Child right = run_child("", "CopyStreamChild.*");
  EXPECT_EQ(right.exit_code, 0) << right.output;
  for (const char* planted : {"cudaStreamWaitEvent:1", "cudaStreamWaitEvent:2", "cudaEventRecord:1", "cudaEventRecord:2",
                              "cudaStreamWaitEvent:31", "cudaStreamWaitEvent:32", "cudaEventRecord:31", "cudaEventRecord:32"}) {
    const Child wrong = run_child(std::string("BINADE_TEST_PLANTED=") + planted, "CopyStreamChild.*");
    EXPECT_NE(wrong.exit_code, 0) << planted;
    // Where the host's accesses are watched too, they may come first: it writes into a slot that is still being copied.
    const bool found = contains(wrong.output, "stream-order:") || contains(wrong.output, "pinned-in-flight:");
    EXPECT_TRUE(found) << planted << ": " << wrong.output;
  }
}

}  // namespace

}  // namespace binade::test
