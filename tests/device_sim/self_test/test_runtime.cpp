// Correct host programs give the right data under lazy and eager queues and raise no alarm; counters, injected failures,
// errors and limits are as CUDA documents them.
#include "device.h"
#include "right_kernels.h"

#include "binade/core/base/error.h"
#include "binade/tests/device_sim/durations.h"

namespace binade::test {

namespace {

class Runtime : public DeviceSim, public testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    DeviceSim::SetUp();
    simt::settings().lazy = GetParam();
  }
};
INSTANTIATE_TEST_SUITE_P(Queues, Runtime, testing::Values(true, false),
                         [](const testing::TestParamInfo<bool>& queues) { return queues.param ? "lazy" : "eager"; });

}  // namespace

TEST_P(Runtime, CopiesAcrossStreamsOrderedByAnEvent) {
  const Stream a, b;
  const Event ready;
  const Pinned<float> source(1000, 7), target(1000, -1);
  const Buffer<float> device(1000);
  must(cudaMemcpyAsync(device.data, source.data, source.bytes(), cudaMemcpyHostToDevice, a));
  must(cudaEventRecord(ready, a));
  must(cudaStreamWaitEvent(b, ready, 0));
  must(cudaMemcpyAsync(target.data, device.data, target.bytes(), cudaMemcpyDeviceToHost, b));
  must(b.synchronize());
  for (std::size_t i = 0; i < 1000; ++i) ASSERT_EQ(target.data[i], 7);
  source.data[0] = 8;  // its copy is done: b waited for it
}

TEST_P(Runtime, PageableSourceMayChangeAfterTheCall) {
  const Stream stream;
  std::vector<float> source(100, 1);
  const Buffer<float> device(100);
  must(cudaMemcpyAsync(device.data, source.data(), 400, cudaMemcpyHostToDevice, stream));
  source.assign(100, 2);
  EXPECT_EQ(device.read(stream), std::vector<float>(100, 1));
  EXPECT_EQ(simt::counters().pageable_copies, 2U);
}

TEST_P(Runtime, StreamOrderedAllocation) {
  const Stream a, b;
  const Event allocated, used;
  float* block = nullptr;
  must(cudaMallocAsync(reinterpret_cast<void**>(&block), 4000, a));
  must(cudaEventRecord(allocated, a));
  must(cudaStreamWaitEvent(b, allocated, 0));
  must(cudaMemsetAsync(block, 0, 4000, b));
  must(cudaEventRecord(used, b));
  must(cudaStreamWaitEvent(a, used, 0));
  must(cudaFreeAsync(block, a));
  must(a.synchronize());
  std::size_t free = 0, total = 0;
  must(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, total);
}

TEST_P(Runtime, QueuedFreesMakeRoom) {
  const Stream stream;
  simt::settings().memory = std::size_t{8} << 20;
  for (int i = 0; i < 10; ++i) {
    void* block = nullptr;
    must(cudaMallocAsync(&block, 5 << 20, stream));
    must(cudaFreeAsync(block, stream));
  }
  void *block = nullptr, *too_much = nullptr;
  must(cudaMallocAsync(&block, 5 << 20, stream));
  EXPECT_EQ(cudaMallocAsync(&too_much, 5 << 20, stream), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  must(cudaFreeAsync(block, stream));
  must(stream.synchronize());
}

TEST_P(Runtime, PollingComesToAnEnd) {
  const Stream stream;
  const Event done;
  const Buffer<float> device(100);
  for (int i = 0; i < 5; ++i) must(cudaMemsetAsync(device.data, i, 400, stream));
  must(cudaEventRecord(done, stream));
  int polls = 0;
  while (cudaEventQuery(done) == cudaErrorNotReady) ++polls;
  EXPECT_EQ(polls > 0, GetParam());
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  EXPECT_EQ(simt::counters().host_syncs, 0U);
}

TEST_P(Runtime, ElapsedTime) {
  const Stream stream;
  cudaEvent_t start = nullptr, end = nullptr;
  must(cudaEventCreate(&start));
  must(cudaEventCreate(&end));
  const Buffer<float> device(1 << 16);
  must(cudaEventRecord(start, stream));
  must(cudaMemsetAsync(device.data, 0, 4 << 16, stream));
  must(cudaEventRecord(end, stream));
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), GetParam() ? cudaErrorNotReady : cudaSuccess);
  must(stream.synchronize());
  must(cudaEventElapsedTime(&milliseconds, start, end));
  EXPECT_NEAR(milliseconds, 1e3 * simt::fill_seconds, 1e-7);
  must(cudaEventDestroy(start));
  must(cudaEventDestroy(end));
}

// By the simulated clock: streams run beside each other, a wait holds one up, and what the host queues after it has waited
// begins no earlier than that.
TEST_P(Runtime, TimesOfSeveralStreams) {
  const Stream a, b;
  const Event join;
  cudaEvent_t marks[4] = {};
  for (cudaEvent_t& mark : marks) must(cudaEventCreate(&mark));
  const Buffer<float> x(100), y(100);
  must(cudaEventRecord(marks[0], a));
  for (int i = 0; i < 3; ++i) must(cudaMemsetAsync(x.data, i, 400, a));
  must(cudaEventRecord(join, a));
  must(cudaMemsetAsync(y.data, 0, 400, b));
  must(cudaEventRecord(marks[1], b));
  must(cudaStreamWaitEvent(b, join, 0));
  must(cudaMemsetAsync(x.data, 0, 400, b));
  must(cudaEventRecord(marks[2], b));
  must(b.synchronize());
  must(cudaMemsetAsync(y.data, 0, 400, a));
  must(cudaEventRecord(marks[3], a));
  must(a.synchronize());
  const double expected[] = {0, 1, 4, 5};  // fills
  for (int i = 0; i < 4; ++i) {
    float milliseconds = -1;
    must(cudaEventElapsedTime(&milliseconds, marks[0], marks[i]));
    EXPECT_NEAR(milliseconds, expected[i] * 1e3 * simt::fill_seconds, 1e-7) << i;
  }
  for (cudaEvent_t mark : marks) must(cudaEventDestroy(mark));
}

// A call that a test plants as forgotten does nothing.
TEST_P(Runtime, CallsAreLeftOutOnRequest) {
  const Stream a, b;
  const Event written;
  const Buffer<float> x(100);
  for (const char* forgotten : {"cudaEventRecord", "cudaStreamWaitEvent"}) {
    must(cudaMemsetAsync(x.data, 0, 400, a));
    simt::fail_call(forgotten, 1, cudaSuccess);
    const simt::Counters before = simt::counters();
    must(cudaEventRecord(written, a));
    must(cudaStreamWaitEvent(b, written, 0));
    const simt::Counters after = simt::counters();
    EXPECT_EQ(after.event_records - before.event_records + after.stream_waits - before.stream_waits, 1U) << forgotten;
    must(a.synchronize());
  }
}

TEST_P(Runtime, CopiesBetweenDevices) {
  const Stream first;
  const Buffer<float> source(std::vector<float>(50, 4), first);
  const Event written;
  must(cudaEventRecord(written, first));
  must(cudaSetDevice(1));
  {
    const Stream second;
    const Buffer<float> target(50);
    must(cudaStreamWaitEvent(second, written, 0));
    must(cudaMemcpyPeerAsync(target.data, 1, source.data, 0, 200, second));
    EXPECT_EQ(target.read(second), std::vector<float>(50, 4));
  }
  must(cudaSetDevice(0));
}

TEST_P(Runtime, HostFunctionSeesTheDataBeforeIt) {
  const Stream stream;
  const Buffer<float> device(std::vector<float>(10, 6), stream);
  const Pinned<float> target(1024, 0);
  struct Seen {
    const float* data;
    float value;
  } seen{target.data, 0};
  must(cudaMemcpyAsync(target.data, device.data, 40, cudaMemcpyDeviceToHost, stream));
  must(cudaLaunchHostFunc(stream, [](void* p) { static_cast<Seen*>(p)->value = static_cast<Seen*>(p)->data[9]; }, &seen));
  must(stream.synchronize());
  EXPECT_EQ(seen.value, 6);
}

// Two branches that join, replayed twice; the sums show that each replay read what the one before wrote.
TEST_P(Runtime, GraphWithTwoBranches) {
  const Stream a, b;
  const Event fork, join;
  const Buffer<float> x(std::vector<float>(100, 1), a), y(std::vector<float>(100, 2), a), z(std::vector<float>(100, 0), a);
  must(a.synchronize());
  simt::reset_counters();
  must(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
  must(cudaEventRecord(fork, a));
  must(cudaStreamWaitEvent(b, fork, 0));
  axpy(1, x.data, y.data, 100, b);  // y += x
  axpy(1, x.data, z.data, 100, a);  // z += x
  must(cudaEventRecord(join, b));
  must(cudaStreamWaitEvent(a, join, 0));
  axpy(10, y.data, z.data, 100, a);  // z += 10 y
  cudaGraph_t graph = nullptr;
  must(cudaStreamEndCapture(a, &graph));
  std::size_t nodes = 0;
  must(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT_EQ(nodes, 3U);
  EXPECT_EQ(y.read(a)[0], 2) << "captured, not run";
  cudaGraphExec_t exec = nullptr;
  must(cudaGraphInstantiate(&exec, graph, 0));
  must(cudaGraphDestroy(graph));
  const auto launches = simt::counters().launches;
  must(cudaGraphLaunch(exec, a));
  must(cudaGraphLaunch(exec, a));
  EXPECT_EQ(z.read(a), std::vector<float>(100, 1 + 30 + 1 + 40));
  EXPECT_EQ(simt::counters().launches, launches);
  EXPECT_EQ(simt::counters().graph_launches, 2U);
  EXPECT_EQ(simt::counters().graph_nodes, 6U);
  must(cudaGraphExecDestroy(exec));
}

TEST_P(Runtime, GraphCopiesPageLockedMemoryAtEachLaunch) {
  const Stream stream;
  const Pinned<float> source(1024, 1);
  const Buffer<float> device(1024);
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  must(cudaMemcpyAsync(device.data, source.data, source.bytes(), cudaMemcpyHostToDevice, stream));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&exec, graph, 0));
  for (float value : {3.0F, 5.0F}) {
    source.data[0] = value;
    must(cudaGraphLaunch(exec, stream));
    EXPECT_EQ(device.read(stream)[0], value);
  }
  must(cudaGraphDestroy(graph));
  must(cudaGraphExecDestroy(exec));
}

TEST_P(Runtime, Counters) {
  const Stream stream;
  const Pinned<float> pinned(256);
  simt::reset_counters();
  const Buffer<float> x(std::vector<float>(256, 1), stream), y(std::vector<float>(256, 2), stream);
  axpy(1, x.data, y.data, 256, stream);
  must(cudaMemcpyAsync(x.data, y.data, 512, cudaMemcpyDeviceToDevice, stream));
  must(cudaMemcpyAsync(pinned.data, y.data, 1024, cudaMemcpyDeviceToHost, stream));
  must(cudaMemsetAsync(x.data, 0, 1024, stream));
  EXPECT_EQ(simt::counters().host_syncs, 0U);
  must(stream.synchronize());
  y.read(stream);
  const simt::Counters c = simt::counters();
  EXPECT_EQ(c.launches, 1U);
  EXPECT_EQ(c.host_syncs, 2U);  // the synchronisation and the pageable copy
  EXPECT_EQ(c.copies, 5U);
  EXPECT_EQ(c.bytes_to_device, 2048U);
  EXPECT_EQ(c.bytes_to_host, 2048U);
  EXPECT_EQ(c.bytes_on_device, 512U);
  EXPECT_EQ(c.memsets, 1U);
  EXPECT_EQ(c.allocations, 2U);
#if BINADE_SIM_CHECKED
  EXPECT_EQ(c.kernel_bytes_read, 2048U);
  EXPECT_EQ(c.kernel_bytes_written, 1024U);
#endif
}

TEST_P(Runtime, TheNthCallFails) {
  simt::fail_call("cudaMalloc", 2, cudaErrorMemoryAllocation);
  void* blocks[3] = {};
  EXPECT_EQ(cudaMalloc(&blocks[0], 64), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&blocks[1], 64), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&blocks[2], 64), cudaSuccess);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  must(cudaFree(blocks[0]));
  must(cudaFree(blocks[2]));
}

TEST_P(Runtime, AFailingLaunchThrowsNamingTheKernel) {
  const Stream stream;
  const Buffer<unsigned> out(64);
  for (const dim3 block : {dim3(2048), dim3(0), dim3(1, 1, 65)}) {
    try {
      coordinates(out.data, dim3(1), block, stream);
      ADD_FAILURE() << "launched";
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("coordinates_kernel"), std::string::npos) << text;
      EXPECT_NE(text.find("cudaErrorInvalidConfiguration"), std::string::npos) << text;
      EXPECT_NE(text.find("simulated device"), std::string::npos) << text;
    }
  }
  const Buffer<float> word(1);
  EXPECT_THROW(use_shared(word.data, 228 * 1024, stream), Error);
  simt::fail_call("cudaLaunchKernel", 1, cudaErrorUnknown);
  EXPECT_THROW(use_shared(word.data, 1024, stream), Error);
}

TEST_P(Runtime, DevicesAndTheirProperties) {
  int count = 0, device = -1;
  must(cudaGetDeviceCount(&count));
  EXPECT_EQ(count, 2);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  must(cudaGetDevice(&device));
  EXPECT_EQ(device, 0);
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, 1));
  EXPECT_EQ(properties.major * 10 + properties.minor, 90);
  EXPECT_NE(std::string(properties.name).find("Simulated device"), std::string::npos);
  simt::settings().devices = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  EXPECT_EQ(count, 2) << "untouched";
}

TEST_P(Runtime, MemoryPools) {
  const Stream stream;
  cudaMemPool_t pool = nullptr;
  must(cudaDeviceGetDefaultMemPool(&pool, 0));
  std::uint64_t threshold = UINT64_MAX, read = 0;
  must(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  must(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &read));
  EXPECT_EQ(read, threshold);
  void* block = nullptr;
  must(cudaMallocFromPoolAsync(&block, 100, pool, stream));
  must(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &read));
  EXPECT_EQ(read, 100U);
  must(cudaFreeAsync(block, stream));
  must(stream.synchronize());
  must(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &read));
  EXPECT_EQ(read, 0U);
}

}  // namespace binade::test
