// Every planted mistake of host code is found. Where the mistake ends the process, a child process makes it.
#include "planted_host.h"
#include "right_kernels.h"

namespace binade::test {

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

#if BINADE_SIM_CHECKED
// The same between kernels, whose accesses only the checker knows.
TEST_F(PlantedHost, KernelOrderReadAfterWrite) {
  simt::settings().lazy = false;
  const Stream a, b;
  const Buffer<float> x(std::vector<float>(100, 1), a), y(100), z(100);
  copy_words(x.data, y.data, 100, a);
  EXPECT_ANY_THROW(copy_words(y.data, z.data, 100, b));
  expect_found("stream-order");
}

TEST_F(PlantedHost, KernelOrderWriteAfterRead) {
  simt::settings().lazy = false;
  const Stream a, b;
  const Buffer<float> x(std::vector<float>(100, 1), a), y(100), z(std::vector<float>(100, 1), a);
  must(a.synchronize());
  copy_words(x.data, y.data, 100, a);
  EXPECT_ANY_THROW(copy_words(z.data, x.data, 100, b));
  expect_found("stream-order");
}

TEST_F(PlantedHost, KernelOrderIsSatisfiedByAnEvent) {
  const Stream a, b;
  const Event written;
  const Buffer<float> x(std::vector<float>(100, 1), a), y(100), z(100);
  copy_words(x.data, y.data, 100, a);
  must(cudaEventRecord(written, a));
  must(cudaStreamWaitEvent(b, written, 0));
  copy_words(y.data, z.data, 100, b);
  EXPECT_EQ(z.read(b), std::vector<float>(100, 1));
}
#endif

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

}  // namespace binade::test
