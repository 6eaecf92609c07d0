// Copies and fills.
#include <cstring>
#include <memory>

#include "durations.h"
#include "findings.h"
#include "runtime.h"

using simt::Access;
using simt::address_of;
using simt::Call;
using simt::OperationContext;
using simt::pinned_memory;
using simt::runtime;
using simt::Stream;

namespace {

// Whether the range lies in live device memory when the call is made.
bool live_range(const Call& call, const void* p, std::size_t bytes) {
  const simt::Address a = address_of(p);
  const simt::Allocation* owner = simt::device_memory().find(a);
  if (owner && a + bytes <= owner->address + owner->bytes) return true;
  const bool freed = !owner && simt::device_memory().recently_freed(a);
  call.refuse(cudaErrorInvalidValue, freed ? "use-after-free" : "out-of-bounds",
              std::to_string(bytes) + " bytes at " + simt::device_memory().describe(a));
  return false;
}

cudaError_t on_device(OperationContext& context, void* to, const void* from, std::size_t bytes) {
  constexpr const char* name = "cudaMemcpyAsync on the device";
  if (!simt::check_range(context.any_device(name), from, bytes, Access::read, true) ||
      !simt::check_range(context.any_device(name), to, bytes, Access::write, true)) {
    return cudaErrorLaunchFailure;
  }
  std::memmove(to, from, bytes);
  simt::copy_state(address_of(to), address_of(from), bytes);
  return cudaSuccess;
}
cudaError_t to_device(OperationContext& context, void* to, const void* from, std::size_t bytes) {
  if (!simt::check_range(context.any_device("cudaMemcpyAsync to the device"), to, bytes, Access::write)) {
    return cudaErrorLaunchFailure;
  }
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t to_host(OperationContext& context, void* to, const void* from, std::size_t bytes) {
  if (!simt::check_range(context.any_device("cudaMemcpyAsync to the host"), from, bytes, Access::read)) {
    return cudaErrorLaunchFailure;
  }
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
bool still_pinned(const void* p, std::size_t bytes) {  // a free in between was reported
  return pinned_memory().contains(address_of(p), bytes);
}

cudaMemcpyKind kind_of(bool device_to, bool device_from) {
  return device_to ? device_from ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice
                   : device_from ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
}

cudaError_t forbid_pageable(const Call& call, Stream& stream) {
  stream.capture->invalid = true;
  return call.refuse(cudaErrorStreamCaptureUnsupported, "pageable-copy", "pageable host memory in a captured stream");
}

cudaError_t copy(Call& call, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t handle) {
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return cudaSuccess;
  const bool device_to = simt::is_device_address(address_of(to)), device_from = simt::is_device_address(address_of(from));
  const cudaMemcpyKind actual = kind_of(device_to, device_from);
  if (kind != cudaMemcpyDefault && kind != actual) {
    return call.refuse(cudaErrorInvalidMemcpyDirection, "bad-argument", "the kind of copy does not fit the pointers");
  }
  if ((device_to && !live_range(call, to, bytes)) || (device_from && !live_range(call, from, bytes))) {
    return cudaErrorInvalidValue;
  }
  simt::Counters& counted = runtime().counted;
  ++counted.copies;
  if (actual == cudaMemcpyDeviceToDevice) {
    counted.bytes_on_device += bytes;
    const auto run = [=](OperationContext& context) { return on_device(context, to, from, bytes); };
    return call.result(runtime().push(*stream, {.name = "cudaMemcpyAsync on the device", .run = run,
                                                .seconds = simt::device_copy_seconds(bytes)}, call.lock));
  }
  if (actual == cudaMemcpyHostToDevice) {
    counted.bytes_to_device += bytes;
    if (pinned_memory().contains(address_of(from), bytes)) {
      const auto run = [=](OperationContext& context) {
        return still_pinned(from, bytes) ? to_device(context, to, from, bytes) : cudaErrorInvalidValue;
      };
      return call.result(runtime().push(
          *stream, {.name = "cudaMemcpyAsync to the device", .run = run, .seconds = simt::host_copy_seconds(bytes),
                    .host = {from, bytes, false}}, call.lock));
    }
    if (stream->capture) return forbid_pageable(call, *stream);
    ++counted.pageable_copies;  // staged while the call lasts: the host may change its memory afterwards
    const auto staged = std::make_shared<std::unique_ptr<std::byte[]>>(new std::byte[bytes]);
    std::memcpy(staged->get(), from, bytes);
    const auto run = [=](OperationContext& context) { return to_device(context, to, staged->get(), bytes); };
    return call.result(runtime().push(*stream, {.name = "cudaMemcpyAsync to the device", .run = run,
                                                .seconds = simt::host_copy_seconds(bytes)}, call.lock));
  }
  if (actual == cudaMemcpyDeviceToHost) {
    counted.bytes_to_host += bytes;
    if (pinned_memory().contains(address_of(to), bytes)) {
      const auto run = [=](OperationContext& context) {
        return still_pinned(to, bytes) ? to_host(context, to, from, bytes) : cudaErrorInvalidValue;
      };
      return call.result(runtime().push(
          *stream, {.name = "cudaMemcpyAsync to the host", .run = run, .seconds = simt::host_copy_seconds(bytes),
                    .host = {to, bytes, true}}, call.lock));
    }
    if (stream->capture) return forbid_pageable(call, *stream);
    ++counted.pageable_copies;
    ++counted.host_syncs;  // returns when the copy is done
    const auto run = [=](OperationContext& context) { return to_host(context, to, from, bytes); };
    cudaError_t error = runtime().push(*stream, {.name = "cudaMemcpyAsync to the host", .run = run,
                                                 .seconds = simt::host_copy_seconds(bytes)}, call.lock);
    if (error == cudaSuccess) error = runtime().run_until(*stream, stream->queued, call.lock);
    if (error == cudaSuccess) runtime().host_waits_for(stream->clock, stream->seconds);
    return call.result(error);
  }
  return call.refuse(cudaErrorInvalidValue, "bad-argument", "a copy from host to host");
}

}  // namespace

extern "C" {

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  Call call("cudaMemcpyAsync");
  return copy(call, to, from, bytes, kind, stream);
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes, cudaStream_t stream) {
  Call call("cudaMemcpyPeerAsync");
  if (simt::device_of(to) != to_device || simt::device_of(from) != from_device) {
    return call.refuse(cudaErrorInvalidValue, "wrong-device", "the pointers lie on other devices");
  }
  return copy(call, to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t handle) {
  Call call("cudaMemsetAsync");
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return cudaSuccess;
  if (!simt::is_device_address(address_of(to))) {
    return call.refuse(cudaErrorInvalidValue, "bad-pointer", "not device memory");
  }
  if (!live_range(call, to, bytes)) return cudaErrorInvalidValue;
  ++runtime().counted.memsets;
  const auto run = [=](OperationContext& context) {
    if (!simt::check_range(context.any_device("cudaMemsetAsync"), to, bytes, Access::write)) return cudaErrorLaunchFailure;
    std::memset(to, value, bytes);
    return cudaSuccess;
  };
  return call.result(runtime().push(*stream, {.name = "cudaMemsetAsync", .run = run, .seconds = simt::fill_seconds}, call.lock));
}

// The forms without a stream use the default one.
cudaError_t cudaMemcpy(void*, const void*, size_t, cudaMemcpyKind) {
  Call call("cudaMemcpy");
  return call.refuse(cudaErrorInvalidValue, "legacy-stream", "uses the default stream; copy with cudaMemcpyAsync");
}
cudaError_t cudaMemset(void*, int, size_t) {
  Call call("cudaMemset");
  return call.refuse(cudaErrorInvalidValue, "legacy-stream", "uses the default stream; fill with cudaMemsetAsync");
}

}  // extern "C"
