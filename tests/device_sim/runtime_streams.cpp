// Streams and events.
#include "findings.h"
#include "runtime.h"
#include "settings.h"

using simt::Call;
using simt::Event;
using simt::EventMark;
using simt::runtime;
using simt::Stream;

namespace {

Event* find_event(const Call& call, cudaEvent_t handle) {
  auto* event = reinterpret_cast<Event*>(handle);
  if (runtime().events.count(event)) return event;
  call.refuse(cudaErrorInvalidResourceHandle, "bad-handle", "not an event, or destroyed");
  return nullptr;
}

cudaError_t create_stream(Call& call, cudaStream_t* stream, unsigned flags, int priority) {
  if (call.failed()) return call.error();
  if (flags != cudaStreamNonBlocking) {
    return call.refuse(cudaErrorInvalidValue, "legacy-stream",
                       "without cudaStreamNonBlocking it would wait for the default stream");
  }
  *stream = reinterpret_cast<cudaStream_t>(runtime().add_stream(flags, priority));
  return cudaSuccess;
}

cudaError_t refuse_capture(const Call& call, Stream& stream) {
  stream.capture->invalid = true;
  return call.refuse(cudaErrorStreamCaptureUnsupported, "capture", "the host cannot wait for a stream being captured");
}

// Whether the stream's next operation would wait for another process, or is running already.
bool waits(Call& call, Stream& stream) {
  if (stream.running) return true;
  const simt::Operation& next = stream.queue.front();
  if (!next.attempt) return false;
  const simt::MemoryWindow window;
  simt::OperationContext context{call.lock, stream.device, next.clock, simt::epochs().begin(next.stamp, next.name)};
  return !next.attempt(context);
}

// Lets one more operation run, so that polling comes to an end. Never waits for other processes.
cudaError_t query(Call& call, Stream& stream, std::uint64_t position, const simt::Clock& clock, double seconds) {
  if (stream.executed < position) {
    if (waits(call, stream)) return cudaErrorNotReady;
    const cudaError_t error = runtime().run_until(stream, stream.executed + 1, call.lock);
    return error != cudaSuccess ? call.result(error) : cudaErrorNotReady;
  }
  runtime().host_waits_for(clock, seconds);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  Call call("cudaStreamCreate");
  return create_stream(call, stream, cudaStreamDefault, 0);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Call call("cudaStreamCreateWithFlags");
  return create_stream(call, stream, flags, 0);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  Call call("cudaStreamCreateWithPriority");
  return create_stream(call, stream, flags, priority);
}

// Work that is queued still runs when something waits for it.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Call call("cudaStreamDestroy");
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (stream->capture) return refuse_capture(call, *stream);
  stream->destroyed = true;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Call call("cudaStreamSynchronize");
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (stream->capture) return refuse_capture(call, *stream);
  ++runtime().counted.host_syncs;
  if (const cudaError_t error = runtime().run_until(*stream, stream->queued, call.lock); error != cudaSuccess) {
    return call.result(error);
  }
  runtime().host_waits_for(stream->clock, stream->seconds);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Call call("cudaStreamQuery");
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (stream->capture) return refuse_capture(call, *stream);
  return query(call, *stream, stream->queued, stream->clock, stream->seconds);
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  Call call("cudaStreamGetPriority");
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  *priority = stream->priority;
  return cudaSuccess;
}
cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  Call call("cudaStreamGetFlags");
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  *flags = stream->flags;
  return cudaSuccess;
}
cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  Call call("cudaStreamGetDevice");
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  *device = stream->device;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  Call call("cudaDeviceSynchronize", Call::InCapture::forbidden);
  if (call.failed()) return call.error();
  ++runtime().counted.host_syncs;
  return call.result(runtime().drain(simt::current_device(), call.lock));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  Call call("cudaLaunchHostFunc");
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  const auto run = [function, data, stream](simt::OperationContext& context) {
    runtime().host_waits_for(context.clock, stream->seconds);  // what the function may read
    const simt::ClosedMemory closed;
    context.lock.unlock();
    function(data);
    context.lock.lock();
    return cudaSuccess;
  };
  return call.result(runtime().push(*stream, {.name = "cudaLaunchHostFunc", .run = run}, call.lock));
}

// ---- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  Call call("cudaEventCreateWithFlags");
  if (call.failed()) return call.error();
  auto* made = new Event;
  made->flags = flags;
  made->device = simt::current_device();
  runtime().events.insert(made);
  *event = reinterpret_cast<cudaEvent_t>(made);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  Call call("cudaEventDestroy");
  Event* event = find_event(call, handle);
  if (!event) return cudaErrorInvalidResourceHandle;
  runtime().events.erase(event);
  runtime().retire(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event_handle, cudaStream_t stream_handle) {
  Call call("cudaEventRecord");
  if (call.failed() || call.left_out()) return call.error();
  Event* event = find_event(call, event_handle);
  Stream* stream = call.stream(stream_handle);
  if (!event || !stream) return call.result(cudaErrorInvalidResourceHandle);
  if (event->device != stream->device) {
    return call.refuse(cudaErrorInvalidResourceHandle, "wrong-device",
                       "an event of device " + std::to_string(event->device) + ", a stream of device " +
                           std::to_string(stream->device));
  }
  ++runtime().counted.event_records;
  if (stream->capture) {
    event->capture = stream->capture;
    event->nodes = stream->tail;
    return cudaSuccess;
  }
  event->capture = nullptr;
  auto mark = std::make_shared<EventMark>();
  event->mark = mark;
  const cudaError_t error = runtime().push(*stream, {.name = "cudaEventRecord", .run = [mark, stream](simt::OperationContext&) {
                                             mark->seconds = stream->seconds;
                                             return cudaSuccess;
                                           }}, call.lock);
  mark->stream = stream;
  mark->position = stream->queued;
  mark->clock = stream->clock;
  return call.result(error);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t event_handle, unsigned) {
  Call call("cudaStreamWaitEvent");
  if (call.failed() || call.left_out()) return call.error();
  Event* event = find_event(call, event_handle);
  Stream* stream = call.stream(stream_handle);
  if (!event || !stream) return call.result(cudaErrorInvalidResourceHandle);
  ++runtime().counted.stream_waits;
  if (event->capture) {  // the stream joins the capture the event was recorded in
    if (!stream->capture) {
      stream->capture = event->capture;
      stream->branch = event->capture->graph.branches++;
      stream->tail.clear();
      event->capture->members.push_back(stream);
    } else if (stream->capture != event->capture) {
      return call.refuse(cudaErrorStreamCaptureMerge, "capture", "the event belongs to another capture");
    }
    stream->tail.insert(stream->tail.end(), event->nodes.begin(), event->nodes.end());
    return cudaSuccess;
  }
  if (stream->capture) {
    stream->capture->invalid = true;
    return call.refuse(cudaErrorStreamCaptureIsolation, "capture",
                       "the event was recorded outside the capture the stream is in");
  }
  const auto mark = event->mark;
  if (!mark) return cudaSuccess;  // never recorded: nothing to wait for
  const auto run = [mark, stream](simt::OperationContext& context) {
    const cudaError_t error = runtime().run_until(*mark->stream, mark->position, context.lock);
    stream->seconds = std::max(stream->seconds, mark->seconds);
    return error;
  };
  return call.result(runtime().push(*stream, {.name = "cudaStreamWaitEvent", .run = run}, call.lock, &mark->clock));
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  Call call("cudaEventSynchronize", Call::InCapture::forbidden);
  if (call.failed()) return call.error();
  Event* event = find_event(call, handle);
  if (!event) return cudaErrorInvalidResourceHandle;
  const auto mark = event->mark;
  if (!mark) return cudaSuccess;
  ++runtime().counted.host_syncs;
  if (const cudaError_t error = runtime().run_until(*mark->stream, mark->position, call.lock); error != cudaSuccess) {
    return call.result(error);
  }
  runtime().host_waits_for(mark->clock, mark->seconds);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  Call call("cudaEventQuery", Call::InCapture::forbidden);
  if (call.failed()) return call.error();
  Event* event = find_event(call, handle);
  if (!event) return cudaErrorInvalidResourceHandle;
  const auto mark = event->mark;
  return mark ? query(call, *mark->stream, mark->position, mark->clock, mark->seconds) : cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start_handle, cudaEvent_t end_handle) {
  Call call("cudaEventElapsedTime");
  if (call.failed()) return call.error();
  const Event* start = find_event(call, start_handle);
  const Event* end = find_event(call, end_handle);
  if (!start || !end) return cudaErrorInvalidResourceHandle;
  if (!start->mark || !end->mark || (start->flags | end->flags) & cudaEventDisableTiming) {
    return call.refuse(cudaErrorInvalidResourceHandle, "bad-argument", "events without timing, or not recorded");
  }
  for (const Event* e : {start, end}) {
    if (e->mark->stream->executed < e->mark->position) return call.result(cudaErrorNotReady);
  }
  *milliseconds = static_cast<float>((end->mark->seconds - start->mark->seconds) * 1000);
  return cudaSuccess;
}

}  // extern "C"
