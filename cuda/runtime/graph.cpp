// A step is captured from the device's compute stream. Capture is relaxed: memory still comes from the driver, on a
// stream beside it. How far the random stream has advanced lies in device memory, which a replay sets first.
#include "binade/cuda/runtime/graph.h"

#include <memory>

#include "binade/core/base/error.h"
#include "binade/cuda/runtime/check.h"
#include "binade/cuda/runtime/context.h"
#include "binade/cuda/runtime/gpu.h"

namespace binade::cuda {

namespace {

struct StepGraph {
  cudaGraphExec_t executable = nullptr;
  PhiloxState* advance = nullptr;
};

// Ends the capture of the device's stream, well or not, and gives back the place of its advance.
PhiloxState* end(int device, cudaGraph_t* graph, cudaError_t* status) {
  auto* advance = const_cast<PhiloxState*>(draw_advance_of(gpu(device)));
  *status = cudaStreamEndCapture(stream_of(gpu(device)), graph);
  set_draw_advance(gpu(device), nullptr);
  return advance;
}

}  // namespace

void begin_capture(int device) {
  check(!draw_advance_of(gpu(device)), "GraphedStep: a step is being captured on this device already");
  std::byte* advance = allocate_block(sizeof(PhiloxState), gpu(device));
  check(advance != nullptr, "GraphedStep: out of memory");
  const cudaError_t status = cudaStreamBeginCapture(stream_of(gpu(device)), cudaStreamCaptureModeRelaxed);
  if (status != cudaSuccess) cudaFreeAsync(advance, stream_of(gpu(device)));
  cuda_check(status, "begin a capture");
  set_draw_advance(gpu(device), reinterpret_cast<const PhiloxState*>(advance));
}

void* end_capture(int device) {
  auto step = std::make_unique<StepGraph>();
  cudaGraph_t graph = nullptr;
  cudaError_t status = cudaSuccess;
  step->advance = end(device, &graph, &status);
  if (status == cudaSuccess) {
    status = cudaGraphInstantiate(&step->executable, graph, 0);
    cudaGraphDestroy(graph);
  }
  if (status != cudaSuccess) cudaFreeAsync(step->advance, stream_of(gpu(device)));
  cuda_check(status, "capture a step");
  return step.release();
}

void abandon_capture(int device) noexcept {
  try {
    cudaGraph_t graph = nullptr;
    cudaError_t status = cudaSuccess;
    PhiloxState* advance = end(device, &graph, &status);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();  // that of a capture that became invalid
    cudaFreeAsync(advance, stream_of(gpu(device)));
  } catch (const std::exception&) {  // the error that ended the step is thrown
  }
}

void replay(void* graph, int device, PhiloxState advance) {
  const auto* step = static_cast<const StepGraph*>(graph);
  store_draw_advance(step->advance, advance, gpu(device));
  cuda_check(cudaGraphLaunch(step->executable, stream_of(gpu(device))), "launch a captured step");
}

void destroy_graph(void* graph, int device) noexcept {
  const std::unique_ptr<StepGraph> step(static_cast<StepGraph*>(graph));
  try {
    cudaStreamSynchronize(stream_of(gpu(device)));
    cudaGraphExecDestroy(step->executable);
    cudaFreeAsync(step->advance, stream_of(gpu(device)));
  } catch (const std::exception&) {  // at exit the driver may be gone
  }
}

}  // namespace binade::cuda
