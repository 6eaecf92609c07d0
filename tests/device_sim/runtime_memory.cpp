// Device memory, memory pools and page-locked memory.
#include <cstring>

#include "findings.h"
#include "runtime.h"
#include "settings.h"

using simt::Allocation;
using simt::Call;
using simt::device_memory;
using simt::MemoryPool;
using simt::runtime;
using simt::Stream;

namespace {

MemoryPool* find_pool(cudaMemPool_t handle) {
  auto* pool = reinterpret_cast<MemoryPool*>(handle);
  for (MemoryPool& own : runtime().default_pools) {
    if (&own == pool) return pool;
  }
  return runtime().pools.count(pool) ? pool : nullptr;
}
cudaMemPool_t handle_of(MemoryPool* pool) { return reinterpret_cast<cudaMemPool_t>(pool); }

// Frees that are queued make room first, as stream order would have.
const Allocation* allocate(Call& call, int device, std::size_t bytes, const char* api, MemoryPool* pool, simt::Stamp birth) {
  const Allocation* made = device_memory().allocate(device, bytes, api, pool, birth);
  if (made || runtime().drain(device, call.lock) != cudaSuccess) return made;
  return device_memory().allocate(device, bytes, api, pool, birth);
}

void account(MemoryPool* pool, std::size_t bytes, bool taken) {
  if (!pool) return;
  pool->used = taken ? pool->used + bytes : pool->used - bytes;
  pool->used_high = std::max(pool->used_high, pool->used);
}

cudaError_t allocate_in_order(Call& call, const char* api, void** p, std::size_t bytes, MemoryPool* pool, cudaStream_t handle) {
  *p = nullptr;
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (stream->capture) {
    stream->capture->invalid = true;
    return call.refuse(cudaErrorStreamCaptureUnsupported, "capture", "allocations are not captured in this project");
  }
  if (!pool) pool = runtime().current_pools[static_cast<std::size_t>(stream->device)];
  if (bytes == 0) return cudaSuccess;
  const cudaError_t error = runtime().push(
      *stream, {.name = api, .run = [](simt::OperationContext&) { return cudaSuccess; }}, call.lock);
  if (error != cudaSuccess) return call.result(error);
  const simt::Stamp birth{stream->lane, stream->queued};
  const Allocation* made = allocate(call, pool->device, bytes, api, pool, birth);
  if (!made) return call.result(cudaErrorMemoryAllocation);
  account(pool, bytes, true);
  ++runtime().counted.allocations;
  *p = reinterpret_cast<void*>(made->address);
  return cudaSuccess;
}

Allocation* find_for_free(const Call& call, void* p) {
  Allocation* a = device_memory().find(simt::address_of(p));
  if (!a || a->address != simt::address_of(p)) {
    const bool freed = device_memory().recently_freed(simt::address_of(p));
    call.refuse(cudaErrorInvalidValue, freed ? "use-after-free" : "bad-pointer",
                simt::is_device_address(simt::address_of(p)) ? device_memory().describe(simt::address_of(p))
                                                              : "not device memory");
    return nullptr;
  }
  if (a->freeing) {
    call.refuse(cudaErrorInvalidValue, "use-after-free", "freed twice: " + device_memory().describe(a->address));
    return nullptr;
  }
  return a;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** p, size_t bytes) {
  Call call("cudaMalloc", Call::InCapture::forbidden);
  if (call.failed()) return call.error();
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  const Allocation* made = allocate(call, simt::current_device(), bytes, "cudaMalloc", nullptr, {});
  if (!made) return call.result(cudaErrorMemoryAllocation);
  ++runtime().counted.allocations;
  *p = reinterpret_cast<void*>(made->address);
  return cudaSuccess;
}

// Waits for the device first, as the real one does.
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  Call call("cudaFree", Call::InCapture::forbidden);
  if (call.failed()) return call.error();
  Allocation* a = find_for_free(call, p);
  if (!a) return cudaErrorInvalidValue;
  ++runtime().counted.host_syncs;
  ++runtime().counted.frees;
  const cudaError_t error = runtime().drain(a->device, call.lock);
  account(static_cast<MemoryPool*>(a->pool), a->bytes, false);
  device_memory().release(simt::address_of(p));
  return call.result(error);
}

cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  Call call("cudaMallocAsync");
  return allocate_in_order(call, "cudaMallocAsync", p, bytes, nullptr, stream);
}

cudaError_t cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  Call call("cudaMallocFromPoolAsync");
  MemoryPool* found = find_pool(pool);
  if (!found) return call.refuse(cudaErrorInvalidValue, "bad-handle", "not a memory pool");
  return allocate_in_order(call, "cudaMallocFromPoolAsync", p, bytes, found, stream);
}

cudaError_t cudaFreeAsync(void* p, cudaStream_t handle) {
  if (!p) return cudaSuccess;
  Call call("cudaFreeAsync");
  if (call.failed()) return call.error();
  Stream* stream = call.stream(handle);
  if (!stream) return call.result(cudaErrorInvalidResourceHandle);
  if (stream->capture) {
    stream->capture->invalid = true;
    return call.refuse(cudaErrorStreamCaptureUnsupported, "capture", "frees are not captured in this project");
  }
  Allocation* a = find_for_free(call, p);
  if (!a) return cudaErrorInvalidValue;
  a->freeing = true;
  ++runtime().counted.frees;
  const auto run = [address = a->address, bytes = a->bytes, pool = static_cast<MemoryPool*>(a->pool)](
                       simt::OperationContext& context) {
    const bool ordered = simt::check_range(context.any_device("cudaFreeAsync"), reinterpret_cast<void*>(address), bytes,
                                           simt::Access::write, true);
    account(pool, bytes, false);
    device_memory().release(address);
    return ordered ? cudaSuccess : cudaErrorLaunchFailure;
  };
  return call.result(runtime().push(*stream, {.name = "cudaFreeAsync", .run = run}, call.lock));
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Call call("cudaMemGetInfo");
  if (call.failed()) return call.error();
  *total = simt::settings().memory;
  *free = *total - device_memory().used(simt::current_device());
  return cudaSuccess;
}

// ---- pools

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  Call call("cudaDeviceGetDefaultMemPool");
  if (call.failed()) return call.error();
  if (device < 0 || device >= simt::settings().devices) return call.result(cudaErrorInvalidDevice);
  *pool = handle_of(&runtime().default_pools[static_cast<std::size_t>(device)]);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) {
  Call call("cudaDeviceGetMemPool");
  if (call.failed()) return call.error();
  if (device < 0 || device >= simt::settings().devices) return call.result(cudaErrorInvalidDevice);
  *pool = handle_of(runtime().current_pools[static_cast<std::size_t>(device)]);
  return cudaSuccess;
}
cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t pool) {
  Call call("cudaDeviceSetMemPool");
  if (call.failed()) return call.error();
  MemoryPool* found = find_pool(pool);
  if (!found || found->device != device) return call.result(cudaErrorInvalidValue);
  runtime().current_pools[static_cast<std::size_t>(device)] = found;
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  Call call("cudaMemPoolCreate");
  if (call.failed()) return call.error();
  auto* made = new MemoryPool{.device = properties->location.id};
  runtime().pools.insert(made);
  *pool = handle_of(made);
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  Call call("cudaMemPoolDestroy");
  MemoryPool* found = find_pool(pool);
  if (!found || !runtime().pools.count(found)) return call.result(cudaErrorInvalidValue);
  if (found->used) return call.refuse(cudaErrorInvalidValue, "leak", std::to_string(found->used) + " bytes are in use");
  runtime().pools.erase(found);
  delete found;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  Call call("cudaMemPoolTrimTo");
  return find_pool(pool) ? cudaSuccess : call.result(cudaErrorInvalidValue);
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  Call call("cudaMemPoolSetAttribute");
  MemoryPool* found = find_pool(pool);
  if (!found) return call.result(cudaErrorInvalidValue);
  if (attribute == cudaMemPoolAttrReleaseThreshold) std::memcpy(&found->release_threshold, value, 8);
  if (attribute == cudaMemPoolAttrUsedMemHigh) found->used_high = found->used;
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  Call call("cudaMemPoolGetAttribute");
  MemoryPool* found = find_pool(pool);
  if (!found) return call.result(cudaErrorInvalidValue);
  switch (attribute) {
    case cudaMemPoolAttrReleaseThreshold: std::memcpy(value, &found->release_threshold, 8); return cudaSuccess;
    case cudaMemPoolAttrUsedMemCurrent:
    case cudaMemPoolAttrReservedMemCurrent: std::memcpy(value, &found->used, 8); return cudaSuccess;
    case cudaMemPoolAttrUsedMemHigh:
    case cudaMemPoolAttrReservedMemHigh: std::memcpy(value, &found->used_high, 8); return cudaSuccess;
    default: return call.result(cudaErrorNotSupported);
  }
}

// ---- page-locked memory

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  Call call("cudaHostAlloc", Call::InCapture::forbidden);
  if (call.failed()) return call.error();
  *p = bytes ? simt::pinned_memory().allocate(bytes) : nullptr;
  ++runtime().counted.pinned_allocations;
  return bytes && !*p ? call.result(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocDefault); }
cudaError_t cudaFreeHost(void* p) {
  if (!p) return cudaSuccess;
  Call call("cudaFreeHost", Call::InCapture::forbidden);
  if (call.failed()) return call.error();
  if (!simt::pinned_memory().release(p)) {
    return call.refuse(cudaErrorInvalidValue, "bad-pointer", "not page-locked memory");
  }
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  Call call("cudaPointerGetAttributes");
  if (call.failed()) return call.error();
  *attributes = {};
  const simt::Address a = simt::address_of(p);
  attributes->type = cudaMemoryTypeUnregistered;
  attributes->device = -2;
  if (device_memory().find(a)) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->device = simt::device_of(a);
    attributes->devicePointer = const_cast<void*>(p);
  } else if (simt::pinned_memory().contains(a)) {
    attributes->type = cudaMemoryTypeHost;
    attributes->device = simt::current_device();
    attributes->devicePointer = attributes->hostPointer = const_cast<void*>(p);
  } else {
    attributes->hostPointer = const_cast<void*>(p);
  }
  return cudaSuccess;
}

}  // extern "C"
