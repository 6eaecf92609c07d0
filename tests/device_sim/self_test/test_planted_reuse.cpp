// Every planted mistake of host code that uses something again is found: blocks of a caching allocator, events, streams.
#include <map>

#include "planted_host.h"
#include "right_kernels.h"

namespace binade::test {

namespace {

// Keeps freed blocks. A block goes to whoever asks next, who waits for the event recorded when it was given back:
// that is what the planted ones leave out or do too early.
class CachingAllocator {
 public:
  enum class Mistake { none, no_event, recorded_at_allocation };
  explicit CachingAllocator(Mistake mistake) : mistake_(mistake) { must(cudaMalloc(&block_, bytes)); }
  ~CachingAllocator() { cudaFree(block_); }

  float* take(cudaStream_t stream) {
    if (used_ && mistake_ != Mistake::no_event) must(cudaStreamWaitEvent(stream, free_, 0));
    if (mistake_ == Mistake::recorded_at_allocation) must(cudaEventRecord(free_, stream));
    return static_cast<float*>(block_);
  }
  void give_back(cudaStream_t stream) {
    used_ = true;
    if (mistake_ == Mistake::none) must(cudaEventRecord(free_, stream));
  }
  static constexpr std::size_t bytes = 400;

 private:
  Mistake mistake_;
  void* block_ = nullptr;
  bool used_ = false;
  Event free_;
};
using Mistake = CachingAllocator::Mistake;

// Whatever fails, fails the second user, in the queue or in the call itself.
bool fails(cudaError_t called, const Stream& a, const Stream& b) {
  const bool first = a.synchronize() != cudaSuccess, second = b.synchronize() != cudaSuccess;
  return called != cudaSuccess || first || second;
}

}  // namespace

class PlantedReuse : public PlantedHost, public testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    PlantedHost::SetUp();
    simt::settings().lazy = GetParam();
  }
};
INSTANTIATE_TEST_SUITE_P(All, PlantedReuse, testing::Bool(),
                         [](const auto& p) { return std::string(p.param ? "lazy" : "eager"); });

TEST_P(PlantedReuse, BlockWrittenAgainOnAnotherStream) {
  for (const Mistake mistake : {Mistake::none, Mistake::no_event, Mistake::recorded_at_allocation}) {
    SetUp();
    CachingAllocator cache(mistake);
    const Stream a, b;
    must(cudaMemsetAsync(cache.take(a), 0, CachingAllocator::bytes, a));
    cache.give_back(a);
    const cudaError_t called = cudaMemsetAsync(cache.take(b), 1, CachingAllocator::bytes, b);
    EXPECT_EQ(fails(called, a, b), mistake != Mistake::none);
    expect_found(mistake == Mistake::none ? "" : "stream-order");
  }
}

TEST_P(PlantedReuse, BlockStillReadByAnotherStream) {
  for (const Mistake mistake : {Mistake::none, Mistake::no_event}) {
    SetUp();
    CachingAllocator cache(mistake);
    const Stream a, b;
    const Pinned<float> target(100);
    must(cudaMemsetAsync(cache.take(a), 0, CachingAllocator::bytes, a));
    must(a.synchronize());
    must(cudaMemcpyAsync(target.data, cache.take(a), CachingAllocator::bytes, cudaMemcpyDeviceToHost, a));
    cache.give_back(a);
    const cudaError_t called = cudaMemsetAsync(cache.take(b), 1, CachingAllocator::bytes, b);
    EXPECT_EQ(fails(called, a, b), mistake != Mistake::none);
    expect_found(mistake == Mistake::none ? "" : "stream-order");
  }
}

TEST_P(PlantedReuse, SameStreamNeedsNoEvent) {
  CachingAllocator cache(Mistake::no_event);
  const Stream a;
  for (int value = 0; value < 3; ++value) {
    must(cudaMemsetAsync(cache.take(a), value, CachingAllocator::bytes, a));
    cache.give_back(a);
  }
  must(a.synchronize());
}

// An event of a pool is recorded again before the one who waits has asked: the wait is for the wrong work.
TEST_P(PlantedReuse, EventOfAnotherStreamsWork) {
  const Stream a, b, c;
  const Event pooled;
  const Buffer<float> x(100), other(100);
  must(cudaMemsetAsync(x.data, 0, 400, a));
  must(cudaEventRecord(pooled, a));
  must(cudaMemsetAsync(other.data, 0, 400, c));
  must(cudaEventRecord(pooled, c));
  must(cudaStreamWaitEvent(b, pooled, 0));
  const cudaError_t called = cudaMemsetAsync(x.data, 1, 400, b);
  EXPECT_TRUE(fails(called, a, b));
  expect_found("stream-order");
}

// A handle that was destroyed stays destroyed, although new objects are made meanwhile.
TEST_P(PlantedReuse, HandlesDestroyedAndMadeAnew) {
  const Buffer<float> x(100);
  cudaStream_t old_stream = nullptr;
  cudaEvent_t old_event = nullptr;
  cudaGraphExec_t old_graph = nullptr;
  const auto captured = [&](cudaStream_t stream) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    must(cudaMemsetAsync(x.data, 0, 400, stream));
    must(cudaStreamEndCapture(stream, &graph));
    must(cudaGraphInstantiate(&exec, graph, 0));
    must(cudaGraphDestroy(graph));
    return exec;
  };
  must(cudaEventCreateWithFlags(&old_event, cudaEventDisableTiming));
  must(cudaEventDestroy(old_event));
  const Event event;
  must(cudaStreamCreateWithFlags(&old_stream, cudaStreamNonBlocking));
  must(cudaStreamDestroy(old_stream));
  const Stream stream;
  old_graph = captured(stream);
  must(cudaGraphExecDestroy(old_graph));
  const cudaGraphExec_t graph = captured(stream);
  EXPECT_NE(event.handle, old_event);
  EXPECT_NE(stream.handle, old_stream);
  EXPECT_NE(graph, old_graph);
  EXPECT_NE(cudaMemsetAsync(x.data, 0, 400, old_stream), cudaSuccess);
  EXPECT_NE(cudaEventRecord(old_event, stream), cudaSuccess);
  EXPECT_NE(cudaStreamWaitEvent(stream, old_event, 0), cudaSuccess);
  EXPECT_NE(cudaGraphLaunch(old_graph, stream), cudaSuccess);
  expect_found("bad-handle bad-handle bad-handle bad-handle");
  must(cudaGraphExecDestroy(graph));
}

// Work of a stream that was destroyed is not waited for by what comes after on another.
TEST_P(PlantedReuse, DestroyedStreamsWorkIsNotOrdered) {
  const Stream b;
  const Buffer<float> x(100);
  cudaStream_t old = nullptr;
  must(cudaStreamCreateWithFlags(&old, cudaStreamNonBlocking));
  must(cudaMemsetAsync(x.data, 0, 400, old));
  must(cudaStreamDestroy(old));
  const cudaError_t called = cudaMemsetAsync(x.data, 1, 400, b);
  EXPECT_TRUE(called != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess);
  expect_found("stream-order");
}

#if BINADE_SIM_CHECKED
// The same between kernels, whose accesses only the checker knows.
TEST_P(PlantedReuse, BlockUsedByAKernelOfAnotherStream) {
  for (const Mistake mistake : {Mistake::none, Mistake::no_event}) {
    SetUp();
    const Stream a, b;
    const Buffer<float> x(std::vector<float>(100, 1), a), y(std::vector<float>(100, 2), a);
    must(a.synchronize());
    CachingAllocator cache(mistake);
    copy_words(x.data, cache.take(a), 100, a);
    cache.give_back(a);
    bool thrown = false;
    try {
      copy_words(y.data, cache.take(b), 100, b);
    } catch (const std::exception&) {
      thrown = true;
    }
    EXPECT_EQ(fails(thrown ? cudaErrorLaunchFailure : cudaSuccess, a, b), mistake != Mistake::none);
    expect_found(mistake == Mistake::none ? "" : "stream-order");
  }
}

// Two kernels of a graph on branches that nothing joins before the second reads what the first wrote.
TEST_P(PlantedReuse, GraphKernelWithoutADependency) {
  for (const bool joined : {true, false}) {
    SetUp();
    const Stream a, b;
    const Event fork, written, join;
    const Buffer<float> x(std::vector<float>(100, 1), a), y(100), z(100);
    must(a.synchronize());
    must(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    must(cudaEventRecord(fork, a));
    must(cudaStreamWaitEvent(b, fork, 0));
    copy_words(x.data, y.data, 100, a);
    must(cudaEventRecord(written, a));
    if (joined) must(cudaStreamWaitEvent(b, written, 0));
    copy_words(y.data, z.data, 100, b);
    must(cudaEventRecord(join, b));
    must(cudaStreamWaitEvent(a, join, 0));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    must(cudaStreamEndCapture(a, &graph));
    must(cudaGraphInstantiate(&exec, graph, 0));
    must(cudaGraphDestroy(graph));
    const cudaError_t launched = cudaGraphLaunch(exec, a);
    EXPECT_EQ(fails(launched, a, b), !joined);
    if (joined) must(cudaGraphExecDestroy(exec));
    const std::string found = kinds(simt::take_findings());
    EXPECT_EQ(found, joined ? "" : found == "uninitialised-read" ? "uninitialised-read" : "stream-order");
  }
}
#endif

}  // namespace binade::test
