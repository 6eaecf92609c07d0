// Every planted mistake of host code with graphs is found, and so is everything left at exit.
#include <cstdlib>

#include "planted_host.h"

namespace binade::test {

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
