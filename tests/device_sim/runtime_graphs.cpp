// Stream capture and graphs. A launch runs the nodes in an order their dependencies allow, and under lazy queues in the
// one furthest from the order of capture: a dependency that is missing shows.
#include <algorithm>
#include <set>

#include "findings.h"
#include "runtime.h"
#include "settings.h"

using simt::Call;
using simt::Graph;
using simt::GraphExec;
using simt::GraphNode;
using simt::runtime;
using simt::Stream;

namespace {

std::vector<std::size_t> launch_order(const Graph& graph, bool reversed) {
  std::vector<std::size_t> waiting(graph.nodes.size()), order;
  std::vector<std::vector<std::size_t>> next(graph.nodes.size());
  std::set<std::size_t> ready;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    waiting[i] = graph.nodes[i].after.size();
    for (const std::size_t earlier : graph.nodes[i].after) next[earlier].push_back(i);
    if (!waiting[i]) ready.insert(i);
  }
  while (!ready.empty()) {
    const std::size_t node = reversed ? *ready.rbegin() : *ready.begin();
    ready.erase(node);
    order.push_back(node);
    for (const std::size_t later : next[node]) {
      if (--waiting[later] == 0) ready.insert(later);
    }
  }
  return order;
}

// Whether every node comes before one of `ends`.
bool all_joined(const Graph& graph, const std::vector<std::size_t>& ends) {
  std::vector<bool> joined(graph.nodes.size());
  for (const std::size_t end : ends) joined[end] = true;
  for (std::size_t i = graph.nodes.size(); i-- > 0;) {
    if (!joined[i]) return false;  // a node comes after earlier ones only
    for (const std::size_t earlier : graph.nodes[i].after) joined[earlier] = true;
  }
  return true;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  Call call("cudaStreamBeginCapture");
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (stream->capture) return call.refuse(cudaErrorIllegalState, "capture", "the stream is being captured already");
  auto capture = std::make_shared<simt::Capture>();
  capture->origin = stream;
  capture->members = {stream};
  capture->mode = mode;
  capture->id = ++runtime().capture_ids;
  capture->graph.branches = 1;
  stream->capture = capture;
  stream->branch = 0;
  stream->tail.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Call call("cudaStreamEndCapture");
  *graph = nullptr;
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  const auto capture = stream->capture;
  if (!capture) return call.refuse(cudaErrorIllegalState, "capture", "the stream is not being captured");
  if (capture->origin != stream) {
    return call.refuse(cudaErrorStreamCaptureUnmatched, "capture", "the capture began on another stream");
  }
  const std::vector<std::size_t> ends = stream->tail;
  for (Stream* member : capture->members) {
    member->capture = nullptr;
    member->tail.clear();
  }
  if (capture->invalid) return call.result(cudaErrorStreamCaptureInvalidated);
  if (!all_joined(capture->graph, ends)) {
    return call.refuse(cudaErrorStreamCaptureUnjoined, "capture",
                       "another stream's captured work does not come before the end on the first stream");
  }
  auto* made = new Graph(std::move(capture->graph));
  runtime().graphs.insert(made);
  *graph = reinterpret_cast<cudaGraph_t>(made);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  Call call("cudaStreamIsCapturing");
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  *status = !stream->capture           ? cudaStreamCaptureStatusNone
            : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t*, const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  if (const cudaError_t error = cudaStreamIsCapturing(handle, status); error != cudaSuccess) return error;
  Call call("cudaStreamGetCaptureInfo");
  const Stream* stream = call.stream(handle);
  if (id) *id = stream && stream->capture ? stream->capture->id : 0;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t handle, unsigned long long) {
  Call call("cudaGraphInstantiate");
  if (call.failed()) return call.error();
  auto* graph = reinterpret_cast<Graph*>(handle);
  if (!runtime().graphs.count(graph)) return call.refuse(cudaErrorInvalidValue, "bad-handle", "not a graph");
  auto* made = new GraphExec{*graph, {}, {}};
  for (std::size_t i = 0; i < graph->branches; ++i) made->last.push_back({runtime().new_lane(), 0});
  runtime().graph_execs.insert(made);
  *exec = reinterpret_cast<cudaGraphExec_t>(made);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(exec, graph, flags);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t* nodes, size_t* count) {
  Call call("cudaGraphGetNodes");
  auto* graph = reinterpret_cast<Graph*>(handle);
  if (!runtime().graphs.count(graph)) return call.refuse(cudaErrorInvalidValue, "bad-handle", "not a graph");
  if (nodes) return call.result(cudaErrorNotSupported);
  *count = graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t handle, cudaStream_t stream) {
  Call call("cudaGraphUpload");
  const bool known = runtime().graph_execs.count(reinterpret_cast<GraphExec*>(handle)) && call.stream(stream);
  return known ? cudaSuccess : call.result(cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
  Call call("cudaGraphLaunch");
  if (call.failed()) return call.error();
  auto* exec = reinterpret_cast<GraphExec*>(handle);
  if (!runtime().graph_execs.count(exec)) {
    return call.refuse(cudaErrorInvalidValue, "bad-handle", "not an executable graph, or destroyed");
  }
  Stream* stream = call.stream(stream_handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (stream->capture) return call.refuse(cudaErrorNotSupported, "capture", "graphs are not nested in this project");
  ++runtime().counted.graph_launches;
  // Clocks now, as for any operation: what the launch comes after, then node after node.
  simt::Clock before = stream->clock;
  before.join(runtime().host);
  before.join(exec->clock);
  auto nodes = std::make_shared<std::vector<GraphNode>>(exec->graph.nodes);
  for (GraphNode& node : *nodes) {
    simt::Operation& operation = node.operation;
    operation.clock = before;
    for (const std::size_t earlier : node.after) operation.clock.join((*nodes)[earlier].operation.clock);
    simt::Stamp& last = exec->last[node.branch];
    ++last.count;
    operation.stamp = last;
    operation.clock.set(operation.stamp);
    const simt::HostRange& h = operation.host;
    if (h.address) simt::pinned_memory().add_pending(h.address, h.bytes, h.device_writes, operation.stamp, operation.name);
  }
  double seconds = 0;  // one after the other
  for (const GraphNode& node : *nodes) {
    exec->clock.join(node.operation.clock);
    seconds += node.operation.seconds;
  }
  const auto run = [nodes, order = launch_order(exec->graph, simt::settings().lazy)](simt::OperationContext& context) {
    for (const std::size_t i : order) {
      const GraphNode& node = (*nodes)[i];
      ++runtime().counted.graph_nodes;
      const cudaError_t error = runtime().run_operation(node.operation, node.device, context.lock);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  };
  return call.result(runtime().push(*stream, {.name = "cudaGraphLaunch", .run = run, .seconds = seconds}, call.lock, &exec->clock));
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
  Call call("cudaGraphDestroy");
  auto* graph = reinterpret_cast<Graph*>(handle);
  if (!runtime().graphs.erase(graph)) return call.refuse(cudaErrorInvalidValue, "bad-handle", "not a graph");
  runtime().retire(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
  Call call("cudaGraphExecDestroy");
  auto* exec = reinterpret_cast<GraphExec*>(handle);
  if (!runtime().graph_execs.erase(exec)) {
    return call.refuse(cudaErrorInvalidValue, "bad-handle", "not an executable graph");
  }
  runtime().retire(exec);
  return cudaSuccess;
}

}  // extern "C"
