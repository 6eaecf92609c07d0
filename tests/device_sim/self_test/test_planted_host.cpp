// Every planted mistake of host code is found. Where the mistake ends the process, a child process makes it.
#include <cstdlib>

#include "device.h"
#include "right_kernels.h"

namespace binade::test {

namespace {

class PlantedHost : public DeviceSim {
 protected:
  // The findings so far are exactly of these kinds.
  void expect_found(const std::string& expected) { EXPECT_EQ(kinds(simt::take_findings()), expected); }
};
using PlantedHostDeathTest = PlantedHost;

template <class Body>
void run_and_exit(const Body& body) {
  body();
  std::exit(0);
}
// Runs the statements and ends normally; what is at fault decides the exit code.
#define EXPECT_FOUND_AT_EXIT(text, ...) \
  EXPECT_EXIT((run_and_exit([&] { __VA_ARGS__; })), testing::ExitedWithCode(simt::finding_exit_code), text)

}  // namespace

// ---- order between streams

TEST_F(PlantedHost, CopyWithoutWaitingForTheOtherStream) {
  const Stream a, b;
  const Buffer<float> device(std::vector<float>(100, 0), a);
  must(a.synchronize());
  const Pinned<float> source(100, 1), target(100, 0);
  must(cudaMemcpyAsync(device.data, source.data, 400, cudaMemcpyHostToDevice, a));
  must(cudaMemcpyAsync(target.data, device.data, 400, cudaMemcpyDeviceToHost, b));
  must(a.synchronize());
  EXPECT_EQ(b.synchronize(), cudaErrorLaunchFailure);
  expect_found("stream-order");
}

TEST_F(PlantedHost, LazyQueuesShowStaleDataEvenUnchecked) {
  simt::settings().check = false;
  const Stream a, b;
  const Buffer<float> device(std::vector<float>(100, 0), a);
  must(a.synchronize());
  must(cudaMemsetAsync(device.data, 0xff, 400, a));
  EXPECT_EQ(device.read(b)[0], 0) << "the fill on the other stream has not run";
  must(a.synchronize());
}

TEST_F(PlantedHost, EventRecordedTooEarly) {
  const Stream a, b;
  const Event event;
  const Buffer<float> device(100);
  must(cudaEventRecord(event, a));
  must(cudaMemsetAsync(device.data, 0, 400, a));
  must(cudaStreamWaitEvent(b, event, 0));
  must(cudaMemsetAsync(device.data, 1, 400, b));
  must(a.synchronize());
  EXPECT_EQ(b.synchronize(), cudaErrorLaunchFailure);
  expect_found("stream-order");
}

TEST_F(PlantedHost, UseBeforeTheAllocationIsOrdered) {
  const Stream a, b;
  void* block = nullptr;
  must(cudaMallocAsync(&block, 400, a));
  must(cudaMemsetAsync(block, 0, 400, b));
  EXPECT_EQ(b.synchronize(), cudaErrorLaunchFailure);
  expect_found("stream-order");
}

TEST_F(PlantedHost, FreeWhileAnotherStreamUsesIt) {
  const Stream a, b;
  const Event allocated;
  void* block = nullptr;
  must(cudaMallocAsync(&block, 400, a));
  must(cudaEventRecord(allocated, a));
  must(cudaStreamWaitEvent(b, allocated, 0));
  must(cudaMemsetAsync(block, 1, 400, b));
  must(cudaFreeAsync(block, a));
  must(a.synchronize());  // lazy: the free runs first
  EXPECT_EQ(b.synchronize(), cudaErrorLaunchFailure);
  expect_found("use-after-free");
}

TEST_F(PlantedHost, FreeNotOrderedAfterUse) {
  simt::settings().lazy = false;
  const Stream a, b;
  const Event allocated;
  void* block = nullptr;
  must(cudaMallocAsync(&block, 400, a));
  must(cudaEventRecord(allocated, a));
  must(cudaStreamWaitEvent(b, allocated, 0));
  must(cudaMemsetAsync(block, 0, 400, b));
  EXPECT_EQ(cudaFreeAsync(block, a), cudaErrorLaunchFailure) << "eager: the use ran first, by luck";
  expect_found("stream-order");
}

TEST_F(PlantedHost, OverwriteWhileAnotherStreamReads) {
  simt::settings().lazy = false;
  const Stream a, b;
  const Pinned<float> target(100);
  const Buffer<float> device(std::vector<float>(100, 0), a);
  must(a.synchronize());
  must(cudaMemcpyAsync(target.data, device.data, 400, cudaMemcpyDeviceToHost, b));
  EXPECT_EQ(cudaMemsetAsync(device.data, 1, 400, a), cudaErrorLaunchFailure);
  expect_found("stream-order");
}

TEST_F(PlantedHost, WriterWaitsForOneOfTwoReaders) {
  simt::settings().lazy = false;
  const Stream a, b, writer;
  const Event a_read;
  const Pinned<float> one(100), two(100);
  const Buffer<float> device(std::vector<float>(100, 0), a);
  must(a.synchronize());
  must(cudaMemcpyAsync(one.data, device.data, 400, cudaMemcpyDeviceToHost, b));
  must(cudaMemcpyAsync(two.data, device.data, 400, cudaMemcpyDeviceToHost, a));
  must(cudaEventRecord(a_read, a));
  must(cudaStreamWaitEvent(writer, a_read, 0));
  EXPECT_EQ(cudaMemsetAsync(device.data, 1, 400, writer), cudaErrorLaunchFailure);
  expect_found("stream-order");
}

// ---- memory

TEST_F(PlantedHost, UseAfterFree) {
  const Stream stream;
  void* block = nullptr;
  must(cudaMalloc(&block, 400));
  must(cudaFree(block));
  EXPECT_EQ(cudaMemsetAsync(block, 0, 400, stream), cudaErrorInvalidValue);
  expect_found("use-after-free");
}

TEST_F(PlantedHost, UseAfterStreamOrderedFree) {
  const Stream stream;
  void* block = nullptr;
  must(cudaMallocAsync(&block, 400, stream));
  must(cudaFreeAsync(block, stream));
  must(cudaMemsetAsync(block, 0, 400, stream));
  EXPECT_EQ(stream.synchronize(), cudaErrorLaunchFailure);
  expect_found("use-after-free");
}

TEST_F(PlantedHost, FreedTwice) {
  const Stream stream;
  void *block = nullptr, *queued = nullptr;
  must(cudaMalloc(&block, 400));
  must(cudaFree(block));
  EXPECT_EQ(cudaFree(block), cudaErrorInvalidValue);
  must(cudaMallocAsync(&queued, 400, stream));
  must(cudaFreeAsync(queued, stream));
  EXPECT_EQ(cudaFreeAsync(queued, stream), cudaErrorInvalidValue);
  must(stream.synchronize());
  expect_found("use-after-free use-after-free");
}

TEST_F(PlantedHost, FreeOfTheMiddleAndOfHostMemory) {
  const Buffer<float> device(100);
  std::vector<float> host(10);
  EXPECT_EQ(cudaFree(device.data + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(host.data()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(host.data()), cudaErrorInvalidValue);
  expect_found("bad-pointer bad-pointer bad-pointer");
}

TEST_F(PlantedHost, CopyPastTheEnd) {
  const Stream stream;
  const Buffer<float> device(100);
  const std::vector<float> host(101);
  EXPECT_EQ(cudaMemcpyAsync(device.data, host.data(), 404, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(device.data + 1, 0, 400, stream), cudaErrorInvalidValue);
  expect_found("out-of-bounds out-of-bounds");
}

TEST_F(PlantedHost, CopyOfWhatNothingWrote) {
  const Stream stream;
  const Buffer<float> device(100);
  std::vector<float> host(100);
  must(cudaMemsetAsync(device.data, 0, 396, stream));
  EXPECT_EQ(cudaMemcpyAsync(host.data(), device.data, 400, cudaMemcpyDeviceToHost, stream), cudaErrorLaunchFailure);
  expect_found("uninitialised-read");
}

TEST_F(PlantedHost, UninitialisedThroughACopyOnTheDevice) {
  const Stream stream;
  const Buffer<float> device(100), copy(100);
  std::vector<float> host(100);
  must(cudaMemcpyAsync(copy.data, device.data, 400, cudaMemcpyDeviceToDevice, stream));
  must(stream.synchronize());
  EXPECT_EQ(cudaMemcpyAsync(host.data(), copy.data, 400, cudaMemcpyDeviceToHost, stream), cudaErrorLaunchFailure);
  expect_found("uninitialised-read");
}

TEST_F(PlantedHostDeathTest, HostReadsAndWritesDeviceMemory) {
  EXPECT_FOUND_AT_EXIT("host-access: the host dereferences device memory: byte 12 of a 400-byte allocation", {
        const Stream stream;
        const Buffer<float> device(std::vector<float>(100, 1), stream);
        must(stream.synchronize());
        std::printf("%g\n", static_cast<double>(device.data[3]));
      });
  EXPECT_FOUND_AT_EXIT("host-access", {
        const Buffer<float> device(100);
        device.data[0] = 1;
      });
}

// ---- page-locked and pageable memory

TEST_F(PlantedHostDeathTest, ReadBackWithoutWaiting) {
  EXPECT_FOUND_AT_EXIT("pinned-in-flight: the host uses byte 0 of 400 page-locked bytes.*has yet to write", {
        const Stream stream;
        const Buffer<float> device(std::vector<float>(100, 1), stream);
        const Pinned<float> target(100);
        must(cudaMemcpyAsync(target.data, device.data, 400, cudaMemcpyDeviceToHost, stream));
        std::printf("%g\n", static_cast<double>(target.data[0]));
      });
}

TEST_F(PlantedHostDeathTest, SourceChangedWhileInFlight) {
  EXPECT_FOUND_AT_EXIT("has yet to read", {
        const Stream stream;
        const Buffer<float> device(100);
        const Pinned<float> source(100, 1);
        must(cudaMemcpyAsync(device.data, source.data, 400, cudaMemcpyHostToDevice, stream));
        std::printf("%g\n", static_cast<double>(source.data[0]));  // reading is fine
        source.data[0] = 2;
      });
}

TEST_F(PlantedHostDeathTest, WaitingForTheWrongStream) {
  EXPECT_FOUND_AT_EXIT("pinned-in-flight", {
        const Stream a, b;
        const Buffer<float> device(std::vector<float>(100, 1), a);
        const Pinned<float> target(100);
        must(cudaMemcpyAsync(target.data, device.data, 400, cudaMemcpyDeviceToHost, a));
        must(b.synchronize());
        std::printf("%g\n", static_cast<double>(target.data[0]));
      });
}

TEST_F(PlantedHost, PageLockedMemoryFreedInFlight) {
  const Stream stream;
  const Buffer<float> device(100);
  float* source = nullptr;
  must(cudaMallocHost(reinterpret_cast<void**>(&source), 400));
  must(cudaMemcpyAsync(device.data, source, 400, cudaMemcpyHostToDevice, stream));
  must(cudaFreeHost(source));
  EXPECT_EQ(stream.synchronize(), cudaErrorInvalidValue);
  expect_found("pinned-in-flight");
}

TEST_F(PlantedHost, SlotsSmallerThanAPageShowStaleData) {
  const Stream stream;
  const Buffer<float> device(std::vector<float>(1, 5), stream);
  const Pinned<float> slots(64, 0);
  must(cudaMemcpyAsync(slots.data + 3, device.data, 4, cudaMemcpyDeviceToHost, stream));
  EXPECT_EQ(slots.data[3], 0) << "read too early";
  must(stream.synchronize());
  EXPECT_EQ(slots.data[3], 5);
}

TEST_F(PlantedHost, CopyOfTheWrongKind) {
  const Stream stream;
  const Buffer<float> device(10);
  std::vector<float> host(10), other(10);
  EXPECT_EQ(cudaMemcpyAsync(host.data(), device.data, 40, cudaMemcpyHostToDevice, stream), cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemcpyAsync(host.data(), other.data(), 40, cudaMemcpyDefault, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(host.data(), 0, 40, stream), cudaErrorInvalidValue);
  expect_found("bad-argument bad-argument bad-pointer");
}

TEST_F(PlantedHost, PageableCopyInACapturedStream) {
  const Stream stream;
  const Buffer<float> device(10);
  std::vector<float> host(10);
  for (const bool to_device : {true, false}) {
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    EXPECT_EQ(to_device ? cudaMemcpyAsync(device.data, host.data(), 40, cudaMemcpyHostToDevice, stream)
                        : cudaMemcpyAsync(host.data(), device.data, 40, cudaMemcpyDeviceToHost, stream),
              cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  }
  expect_found("pageable-copy pageable-copy");
}

TEST_F(PlantedHost, PageableReadBackIsAHiddenSynchronisation) {
  const Stream stream;
  const Buffer<float> device(std::vector<float>(10, 1), stream);
  simt::reset_counters();
  device.read(stream);
  EXPECT_EQ(simt::counters().host_syncs, 1U);
  EXPECT_EQ(simt::counters().pageable_copies, 1U);
}

// ---- streams, devices, handles

TEST_F(PlantedHost, DefaultStream) {
  const Buffer<float> device(10);
  std::vector<float> host(10);
  EXPECT_NE(cudaMemsetAsync(device.data, 0, 40, nullptr), cudaSuccess);
  EXPECT_NE(cudaMemsetAsync(device.data, 0, 40, cudaStreamPerThread), cudaSuccess);
  EXPECT_NE(cudaMemcpy(device.data, host.data(), 40, cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_NE(cudaMemset(device.data, 0, 40), cudaSuccess);
  EXPECT_NE(cudaStreamSynchronize(nullptr), cudaSuccess);
  cudaStream_t blocking = nullptr;
  EXPECT_NE(cudaStreamCreate(&blocking), cudaSuccess);
  EXPECT_ANY_THROW(copy_words(device.data, device.data, 1, nullptr));
  expect_found("legacy-stream legacy-stream legacy-stream legacy-stream legacy-stream legacy-stream legacy-stream");
}

TEST_F(PlantedHost, WrongDevice) {
  const Stream stream;
  const Buffer<float> device(std::vector<float>(10, 1), stream);
  must(cudaSetDevice(1));
  const Event other;
  EXPECT_ANY_THROW(copy_words(device.data, device.data, 1, stream)) << "a stream of device 0 while device 1 is current";
  EXPECT_NE(cudaEventRecord(other, stream), cudaSuccess);
  EXPECT_NE(cudaMemcpyPeerAsync(device.data, 1, device.data, 0, 4, stream), cudaSuccess);
  must(cudaSetDevice(0));
  expect_found("wrong-device wrong-device wrong-device");
}

TEST_F(PlantedHost, DestroyedHandles) {
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaEventCreate(&event));
  must(cudaEventDestroy(event));
  EXPECT_NE(cudaEventSynchronize(event), cudaSuccess);
  EXPECT_NE(cudaEventDestroy(event), cudaSuccess);
  must(cudaStreamDestroy(stream));
  EXPECT_NE(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_NE(cudaStreamDestroy(stream), cudaSuccess);
  expect_found("bad-handle bad-handle bad-handle bad-handle");
}

// ---- graphs

namespace {
cudaGraphExec_t end_capture(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&exec, graph, 0));
  must(cudaGraphDestroy(graph));
  return exec;
}
}  // namespace

TEST_F(PlantedHost, GraphBranchWithoutADependency) {
  for (const bool lazy : {true, false}) {
    SetUp();
    simt::settings().lazy = lazy;
    const Stream a, b;
    const Event fork, join;
    const Buffer<float> x(100), y(100);
    must(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    must(cudaEventRecord(fork, a));
    must(cudaMemsetAsync(x.data, 0, 400, a));  // belongs before the fork
    must(cudaStreamWaitEvent(b, fork, 0));
    must(cudaMemcpyAsync(y.data, x.data, 400, cudaMemcpyDeviceToDevice, b));
    must(cudaEventRecord(join, b));
    must(cudaStreamWaitEvent(a, join, 0));
    const cudaGraphExec_t exec = end_capture(a);
    const cudaError_t launched = cudaGraphLaunch(exec, a);
    EXPECT_EQ(lazy ? a.synchronize() : launched, cudaErrorLaunchFailure);
    expect_found("stream-order");
  }
}

TEST_F(PlantedHost, GraphBranchNeverJoined) {
  const Stream a, b;
  const Event fork;
  const Buffer<float> x(100);
  must(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
  must(cudaEventRecord(fork, a));
  must(cudaStreamWaitEvent(b, fork, 0));
  must(cudaMemsetAsync(x.data, 0, 400, b));
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureUnjoined);
  expect_found("capture");
}

TEST_F(PlantedHost, NotAllowedWhileCapturing) {
  const Stream stream, other;
  const Event outside, event;
  must(cudaEventRecord(outside, other));
  void* block = nullptr;
  const auto refused = [&](cudaError_t expected, const auto& call) {
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    EXPECT_EQ(call(), expected);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    expect_found("capture");
  };
  constexpr cudaError_t unsupported = cudaErrorStreamCaptureUnsupported;
  refused(unsupported, [&] { return cudaStreamSynchronize(stream); });
  refused(unsupported, [&] { return cudaDeviceSynchronize(); });
  refused(unsupported, [&] { return cudaStreamQuery(stream); });
  refused(unsupported, [&] { return cudaEventQuery(outside); });
  refused(unsupported, [&] { return cudaEventSynchronize(outside); });
  refused(unsupported, [&] { return cudaMalloc(&block, 16); });
  refused(unsupported, [&] { return cudaMallocAsync(&block, 16, stream); });
  refused(unsupported, [&] { return cudaMallocHost(&block, 16); });
  refused(cudaErrorStreamCaptureIsolation, [&] { return cudaStreamWaitEvent(stream, outside, 0); });
  must(other.synchronize());
}

TEST_F(PlantedHost, GraphUsesFreedMemory) {
  const Stream stream;
  void* block = nullptr;
  must(cudaMalloc(&block, 400));
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  must(cudaMemsetAsync(block, 0, 400, stream));
  const cudaGraphExec_t exec = end_capture(stream);
  must(cudaGraphLaunch(exec, stream));
  must(stream.synchronize());
  must(cudaFree(block));
  must(cudaGraphLaunch(exec, stream));
  EXPECT_EQ(stream.synchronize(), cudaErrorLaunchFailure);
  expect_found("use-after-free");
}

TEST_F(PlantedHost, GraphNotOrderedWithAnotherStream) {
  const Stream a, b;
  const Buffer<float> x(100);
  must(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
  must(cudaMemsetAsync(x.data, 0, 400, a));
  const cudaGraphExec_t exec = end_capture(a);
  must(cudaGraphLaunch(exec, a));
  must(cudaMemsetAsync(x.data, 1, 400, b));
  EXPECT_TRUE((a.synchronize() == cudaErrorLaunchFailure) != (b.synchronize() == cudaErrorLaunchFailure));
  expect_found("stream-order");
}

TEST_F(PlantedHostDeathTest, PageLockedSourceOfAGraphChangedInFlight) {
  EXPECT_FOUND_AT_EXIT("has yet to read", {
        const Stream stream;
        const Buffer<float> device(1024);
        const Pinned<float> source(1024, 1);
        must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        must(cudaMemcpyAsync(device.data, source.data, 4096, cudaMemcpyHostToDevice, stream));
        const cudaGraphExec_t exec = end_capture(stream);
        must(cudaGraphLaunch(exec, stream));
        source.data[0] = 2;
      });
}

TEST_F(PlantedHost, DestroyedGraph) {
  const Stream stream;
  const Buffer<float> x(100);
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  must(cudaMemsetAsync(x.data, 0, 400, stream));
  const cudaGraphExec_t exec = end_capture(stream);
  must(cudaGraphExecDestroy(exec));
  EXPECT_NE(cudaGraphLaunch(exec, stream), cudaSuccess);
  expect_found("bad-handle");
}

// ---- what is left at exit

TEST_F(PlantedHostDeathTest, Leaks) {
  void* p = nullptr;
  cudaEvent_t event = nullptr;
  cudaStream_t stream = nullptr;
  EXPECT_FOUND_AT_EXIT("leak: byte 0 of a 12345-byte allocation \\(cudaMalloc #", cudaMalloc(&p, 12345));
  EXPECT_FOUND_AT_EXIT("leak: 1 page-locked blocks", cudaMallocHost(&p, 100));
  EXPECT_FOUND_AT_EXIT("leak: 1 events", cudaEventCreate(&event));
  EXPECT_FOUND_AT_EXIT("leak: stream #", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  EXPECT_FOUND_AT_EXIT("leak: 1 graphs", {
        const Stream captured;
        cudaGraph_t graph = nullptr;
        must(cudaStreamBeginCapture(captured, cudaStreamCaptureModeGlobal));
        must(cudaStreamEndCapture(captured, &graph));
      });
}

TEST_F(PlantedHostDeathTest, WorkThatNothingWaitedFor) {
  EXPECT_FOUND_AT_EXIT("unsynchronised: stream #.*: 2 operations that nothing waited for", {
        void* block = nullptr;
        const Stream stream;
        must(cudaMallocAsync(&block, 400, stream));
        must(cudaMemsetAsync(block, 0, 400, stream));
      });
}

TEST_F(PlantedHostDeathTest, AFindingNobodyTookFailsTheProcess) {
  EXPECT_FOUND_AT_EXIT("legacy-stream", cudaMemset(nullptr, 0, 4));
}

TEST_F(PlantedHostDeathTest, ACleanProcessEndsNormally) {
  EXPECT_EXIT(
      {
        {
          const Stream stream;
          const Buffer<float> device(std::vector<float>(100, 1), stream);
          must(stream.synchronize());
        }
        std::exit(0);
      },
      testing::ExitedWithCode(0), "^$");
}

TEST_F(PlantedHostDeathTest, UnknownSettingsEndTheProcess) {
  const auto with = [](const char* name, const char* value) {
    setenv(name, value, 1);
    simt::settings_from_environment();
    std::exit(0);
  };
  EXPECT_EXIT(with("BINADE_SIM_ORDER", "sideways"), testing::ExitedWithCode(2), "BINADE_SIM_ORDER: unknown value");
  EXPECT_EXIT(with("BINADE_SIM_DEVICES", "9"), testing::ExitedWithCode(2), "BINADE_SIM_DEVICES");
  EXPECT_EXIT(with("BINADE_SIM_CHECK", "yes"), testing::ExitedWithCode(2), "BINADE_SIM_CHECK");
  EXPECT_EXIT(with("BINADE_SIM_ORDER", "reverse"), testing::ExitedWithCode(0), "");
}

}  // namespace binade::test
