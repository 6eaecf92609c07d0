// A clean simulated device for every test: a stream, and buffers that copy to and from it.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "binade/tests/device_sim/simulator.h"

namespace binade::test {

inline void must(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

struct Stream {
  Stream() { must(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(handle); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return handle; }
  cudaError_t synchronize() const { return cudaStreamSynchronize(handle); }
  cudaStream_t handle = nullptr;
};

struct Event {
  Event() { must(cudaEventCreateWithFlags(&handle, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(handle); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return handle; }
  cudaEvent_t handle = nullptr;
};

template <class T>
struct Buffer {  // device memory
  explicit Buffer(std::size_t n) : size(n) { must(cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(T))); }
  Buffer(const std::vector<T>& values, cudaStream_t stream) : Buffer(values.size()) {
    must(cudaMemcpyAsync(data, values.data(), size * sizeof(T), cudaMemcpyHostToDevice, stream));
  }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::vector<T> read(cudaStream_t stream) const {  // pageable: waits
    std::vector<T> values(size);
    must(cudaMemcpyAsync(values.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost, stream));
    return values;
  }
  T* data = nullptr;
  std::size_t size;
};

template <class T>
struct Pinned {  // page-locked host memory
  explicit Pinned(std::size_t n, T value = {}) : size(n) {
    must(cudaMallocHost(reinterpret_cast<void**>(&data), n * sizeof(T)));
    for (std::size_t i = 0; i < n; ++i) data[i] = value;
  }
  ~Pinned() { cudaFreeHost(data); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  std::size_t bytes() const { return size * sizeof(T); }
  T* data = nullptr;
  std::size_t size;
};

inline std::string kinds(const std::vector<simt::Finding>& findings) {
  std::string all;
  for (const simt::Finding& f : findings) all += (all.empty() ? "" : " ") + f.kind;
  return all;
}

class DeviceSim : public testing::Test {
 protected:
  void SetUp() override { simt::reset_simulator(); }
  void TearDown() override {
    EXPECT_EQ(kinds(simt::take_findings()), "") << "findings that the test did not expect";
    simt::reset_simulator();
  }
};

}  // namespace binade::test
