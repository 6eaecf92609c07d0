#include "binade/cuda/runtime/watch.h"

#include <cstdlib>
#include <string>
#include <string_view>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define BINADE_HAS_NVTX 1
#else
#define BINADE_HAS_NVTX 0
#endif

#include "binade/core/autograd/module_path.h"
#include "binade/core/backend/kernel_slot.h"
#include "binade/cuda/runtime/check.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

namespace {

bool asked(const char* variable) {
  const char* value = std::getenv(variable);
  return value && std::string_view(value) == "1";
}

thread_local std::string_view running;  // the operation's kernel slot

// "matmul in h.0.attn.qkv"
std::string operation() {
  const std::string module = module_path();
  return std::string(running.empty() ? "an operation" : running) + (module.empty() ? "" : " in " + module);
}

void wait(cudaStream_t stream, std::string_view what) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cuda_check(cudaStreamIsCapturing(stream, &capture), "capture status");
  if (capture != cudaStreamCaptureStatusNone) return;
  cuda_check(cudaStreamSynchronize(stream), what);
}

class Watch final : public KernelObserver {
 public:
  Watch(bool sync, bool nvtx) : sync_(sync), nvtx_(nvtx) {}
  void before_kernel(std::string_view name, Device device) override {
    if (device.type != DeviceType::cuda) return;
    running = name;
#if BINADE_HAS_NVTX
    if (nvtx_) nvtxRangePushA(operation().c_str());
#endif
  }
  void after_kernel(Device device) override {
    if (device.type != DeviceType::cuda) return;
#if BINADE_HAS_NVTX
    if (nvtx_) nvtxRangePop();
#endif
    running = {};
  }
  // What libraries launched; our own kernels are waited for one by one.
  void on_kernel(std::string_view, Device device, double) override {
    if (sync_ && device.type == DeviceType::cuda) wait(stream_of(device), operation());
  }

 private:
  bool sync_, nvtx_;
};

}  // namespace

bool syncs_each_launch() {
  static const bool on = asked("BINADE_CUDA_SYNC");
  return on;
}

void check_finished(const void* kernel, cudaStream_t stream) {
  const char* name = nullptr;
  if (cudaFuncGetName(&name, kernel) != cudaSuccess || !name) name = "?";
  wait(stream, std::string("kernel ") + name + " of " + operation());
}

void install_watch() {
  const bool sync = syncs_each_launch(), nvtx = BINADE_HAS_NVTX && asked("BINADE_NVTX");
  if (kernel_observer || !(sync || nvtx)) return;
  static Watch watch(sync, nvtx);
  kernel_observer = &watch;
}

}  // namespace binade::cuda
