// The functions of nccl.h that this project calls, as strict as the documentation of communicators that do not block: a
// call may leave its communicator in progress, and only then is its work not on the stream yet.
#include <cstring>
#include <map>
#include <random>

#include "binade/core/base/scalar.h"
#include "findings.h"
#include "nccl_transport.h"

using simt::Call;
using simt::runtime;
using simt::Stream;
using simt::nccl::Comm;
using simt::nccl::Exchange;
using simt::nccl::Header;
using simt::nccl::Transfer;

struct ncclComm {
  std::shared_ptr<Comm> comm;
};

namespace {

std::map<ncclComm*, std::unique_ptr<ncclComm>>& communicators() {  // under the runtime's lock
  static auto* all = new std::map<ncclComm*, std::unique_ptr<ncclComm>>;
  return *all;
}

std::shared_ptr<Comm> find(const Call& call, ncclComm_t handle) {
  const auto found = communicators().find(handle);
  if (found != communicators().end()) return found->second->comm;
  call.refuse(cudaErrorInvalidResourceHandle, "bad-handle", "not a communicator, or destroyed");
  return nullptr;
}

std::byte* bytes_at(const void* p) { return static_cast<std::byte*>(const_cast<void*>(p)); }

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclFloat64: case ncclInt64: case ncclUint64: return 8;
    case ncclFloat32: case ncclInt32: case ncclUint32: return 4;
    case ncclFloat16: case ncclBfloat16: return 2;
    default: return 1;
  }
}

// ---- sums, in float (double, 64-bit integers) in the order of ranks

template <class T>
void add_up(const std::vector<const std::byte*>& parts, void* out, std::size_t count, bool average) {
  using A = std::conditional_t<std::is_same_v<T, double>, double, std::conditional_t<std::is_integral_v<T>, std::int64_t, float>>;
  for (std::size_t i = 0; i < count; ++i) {
    A sum = 0;
    for (const std::byte* part : parts) {
      T x;
      std::memcpy(&x, part + i * sizeof(T), sizeof(T));
      sum += binade::convert<A>(x);
    }
    if (average) sum /= static_cast<A>(parts.size());
    const T rounded = binade::convert<T>(sum);
    std::memcpy(static_cast<std::byte*>(out) + i * sizeof(T), &rounded, sizeof(T));
  }
}
bool add_up(ncclDataType_t type, const std::vector<const std::byte*>& parts, void* out, std::size_t count, bool average) {
  switch (type) {
    case ncclFloat64: add_up<double>(parts, out, count, average); return true;
    case ncclFloat32: add_up<float>(parts, out, count, average); return true;
    case ncclFloat16: add_up<binade::Half>(parts, out, count, average); return true;
    case ncclBfloat16: add_up<binade::BFloat16>(parts, out, count, average); return true;
    case ncclInt64: add_up<std::int64_t>(parts, out, count, average); return true;
    case ncclInt32: add_up<std::int32_t>(parts, out, count, average); return true;
    case ncclUint8: add_up<std::uint8_t>(parts, out, count, average); return true;
    default: return false;
  }
}

// ---- calls into groups and onto streams

struct Pending {
  std::shared_ptr<Exchange> exchange;
  Stream* stream;
};
thread_local int group_depth = 0;
thread_local std::vector<Pending> group_calls;

ncclResult_t give_to_stream(const Call& call, const Pending& p, simt::Lock& lock) {
  Comm& comm = *p.exchange->comm();
  ++runtime().counted.launches;
  ++runtime().counted.library_launches;
  const bool connects = comm.calls == 0 || comm.calls % 4 == 1;  // sometimes, so that no caller can count on either
  ++comm.calls;
  if (!connects) {
    const cudaError_t error = runtime().push(*p.stream, p.exchange->operation(), lock);
    return call.result(error) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
  }
  comm.settling = 3;
  comm.deferred = [p](simt::Lock& held) { runtime().push(*p.stream, p.exchange->operation(), held); };
  return ncclInProgress;
}

ncclResult_t end_group(const Call& call, simt::Lock& lock) {
  std::vector<Pending> merged;  // point-to-point calls of a communicator happen at once
  for (Pending& p : group_calls) {
    const auto same = [&](const Pending& m) { return m.exchange->comm() == p.exchange->comm(); };
    const auto found = std::find_if(merged.begin(), merged.end(), same);
    if (found == merged.end()) merged.push_back(p);
    else found->exchange->transfers.insert(found->exchange->transfers.end(), p.exchange->transfers.begin(), p.exchange->transfers.end());
  }
  group_calls.clear();
  ncclResult_t result = ncclSuccess;
  for (const Pending& p : merged)
    if (const ncclResult_t one = give_to_stream(call, p, lock); one != ncclSuccess) result = one;
  return result;
}

// Checks what all calls have in common; null after reporting.
struct Start {
  Start(const char* function, ncclComm_t handle, cudaStream_t stream_handle) : call(function), name(function) {
    if (call.failed()) return;
    comm = find(call, handle);
    if (!comm) return;
    stream = call.stream(stream_handle);
    const char* problem = !comm->joined || comm->settling > 0 ? "the communicator is still in progress"
                          : comm->finalizing                  ? "the communicator is finalized"
                          : !stream                           ? "no stream"
                          : comm->device != simt::current_device() || stream->device != comm->device
                              ? "communicator, stream and current device differ"
                              : nullptr;
    if (!problem) return;
    call.refuse(cudaErrorInvalidValue, "bad-argument", problem);
    comm = nullptr;
  }
  explicit operator bool() const { return comm != nullptr; }
  std::shared_ptr<Exchange> exchange() const { return std::make_shared<Exchange>(comm, name); }
  ncclResult_t failed() const { return call.failed() ? ncclUnhandledCudaError : ncclInvalidArgument; }
  ncclResult_t finish(std::shared_ptr<Exchange> exchange) {
    group_calls.push_back({std::move(exchange), stream});
    return group_depth > 0 ? ncclSuccess : end_group(call, call.lock);
  }
  Call call;
  const char* name;
  std::shared_ptr<Comm> comm;
  Stream* stream = nullptr;
};

ncclResult_t poll_join(Comm& comm) {
  if (!comm.segment) {
    comm.segment = simt::nccl::attach(comm.id, comm.rank, comm.size);
    if (!comm.segment) return ncclInProgress;
    comm.segment->devices[comm.rank] = comm.device;
    ++comm.segment->attached;
  }
  if (comm.segment->attached < comm.size) return ncclInProgress;
  if (comm.rank == 0) simt::nccl::hide(comm.id);
  for (int a = 0; a < comm.size; ++a) {
    for (int b = 0; b < a; ++b) {
      if (comm.segment->devices[a] != comm.segment->devices[b]) continue;
      comm.last_error = "Duplicate GPU detected : rank " + std::to_string(b) + " and rank " + std::to_string(a) +
                        " both on simulated device " + std::to_string(comm.segment->devices[a]);
      comm.async_error = ncclInvalidUsage;
      return ncclInvalidUsage;
    }
  }
  comm.joined = true;
  return ncclSuccess;
}

}  // namespace

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error (simulated)";
    case ncclSystemError: return "unhandled system error (simulated)";
    case ncclInternalError: return "internal error (simulated)";
    case ncclInvalidArgument: return "invalid argument (simulated)";
    case ncclInvalidUsage: return "invalid usage (simulated)";
    case ncclRemoteError: return "remote process exited or there was a network error (simulated)";
    case ncclInProgress: return "NCCL operation in progress (simulated)";
    default: return "unknown result code (simulated)";
  }
}

const char* ncclGetLastError(ncclComm_t handle) {
  const simt::Lock lock(runtime().mutex);
  const auto found = communicators().find(handle);
  return found == communicators().end() ? "" : found->second->comm->last_error.c_str();
}

// With NCCL_COMM_ID all ranks get the same without talking to each other.
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const Call call("ncclGetUniqueId");
  if (call.failed()) return ncclUnhandledCudaError;
  std::memset(id->internal, 0, sizeof id->internal);
  if (const char* address = std::getenv("NCCL_COMM_ID")) {
    std::strncpy(id->internal, address, sizeof id->internal - 1);
    return std::strchr(address, ':') ? ncclSuccess : ncclInvalidArgument;
  }
  std::random_device random;
  for (char& c : id->internal) c = static_cast<char>(random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* handle, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  const Call call("ncclCommInitRankConfig");
  *handle = nullptr;
  if (call.failed()) return ncclUnhandledCudaError;
  if (!config || config->blocking != 0) {
    call.refuse(cudaErrorInvalidValue, "bad-argument", "communicators of this project do not block");
    return ncclInvalidArgument;
  }
  if (rank < 0 || rank >= size || size > simt::nccl::most_ranks) return ncclInvalidArgument;
  auto made = std::make_unique<ncclComm>();
  made->comm = std::make_shared<Comm>();
  made->comm->id = id;
  made->comm->rank = rank;
  made->comm->size = size;
  made->comm->device = simt::current_device();
  *handle = made.get();
  communicators().emplace(made.get(), std::move(made));
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* state) {
  Call call("ncclCommGetAsyncError");
  const std::shared_ptr<Comm> comm = find(call, handle);
  if (!comm) return ncclInvalidArgument;
  if (comm->async_error != ncclSuccess) {
    *state = static_cast<ncclResult_t>(comm->async_error.load());
  } else if (!comm->joined) {
    *state = poll_join(*comm);
  } else if (comm->settling > 0) {
    if (--comm->settling == 0) std::exchange(comm->deferred, nullptr)(call.lock);
    *state = comm->settling > 0 ? ncclInProgress : ncclSuccess;
  } else if (comm->finalizing) {
    *state = comm->segment->finalized < comm->size ? ncclInProgress : ncclSuccess;
  } else {
    *state = ncclSuccess;
  }
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
  const Call call("ncclCommFinalize");
  const std::shared_ptr<Comm> comm = find(call, handle);
  if (!comm || !comm->joined || comm->finalizing) return ncclInvalidArgument;
  comm->finalizing = true;
  ++comm->segment->finalized;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  const Call call("ncclCommDestroy");
  const std::shared_ptr<Comm> comm = find(call, handle);
  if (!comm) return ncclInvalidArgument;
  if (!comm->finalizing) {
    call.refuse(cudaErrorInvalidValue, "bad-argument", "the communicator was not finalized");
    return ncclInvalidUsage;
  }
  communicators().erase(handle);
  return ncclSuccess;
}

// Operations that are queued or running end without a result.
ncclResult_t ncclCommAbort(ncclComm_t handle) {
  const Call call("ncclCommAbort");
  const std::shared_ptr<Comm> comm = find(call, handle);
  if (!comm) return ncclInvalidArgument;
  comm->aborted = true;
  communicators().erase(handle);
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  Call call("ncclGroupEnd");
  if (group_depth == 0) return ncclInvalidUsage;
  if (--group_depth > 0) return ncclSuccess;
  if (call.failed()) {
    group_calls.clear();
    return ncclUnhandledCudaError;
  }
  return end_group(call, call.lock);
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  Start start("ncclSend", comm, stream);
  if (!start) return start.failed();
  const Header header{.kind = simt::nccl::point_to_point, .type = type, .count = count};
  auto exchange = start.exchange();
  exchange->transfers.push_back({.peer = peer, .send = true, .data = bytes_at(from), .bytes = count * size_of(type), .header = header});
  return start.finish(exchange);
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  Start start("ncclRecv", comm, stream);
  if (!start) return start.failed();
  const Header header{.kind = simt::nccl::point_to_point, .type = type, .count = count};
  auto exchange = start.exchange();
  exchange->transfers.push_back({.peer = peer, .send = false, .data = bytes_at(to), .bytes = count * size_of(type), .header = header});
  return start.finish(exchange);
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  Start start("ncclBroadcast", comm, stream);
  if (!start) return start.failed();
  Comm& c = *start.comm;
  const Header header{.kind = simt::nccl::broadcast, .type = type, .root = root, .count = count, .sequence = c.collectives++};
  const std::size_t bytes = count * size_of(type);
  auto exchange = start.exchange();
  for (int r = 0; r < c.size; ++r) {
    if (r == c.rank || (c.rank != root && r != root)) continue;
    const bool send = c.rank == root;
    exchange->transfers.push_back({.peer = r, .send = send, .data = bytes_at(send ? from : to), .bytes = bytes, .header = header});
  }
  if (c.rank == root && from != to) {
    exchange->writes.push_back({to, bytes});
    exchange->finish = [=] { std::memcpy(to, from, bytes); };
  }
  return start.finish(exchange);
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
  Start start("ncclAllGather", comm, stream);
  if (!start) return start.failed();
  Comm& c = *start.comm;
  const Header header{.kind = simt::nccl::all_gather, .type = type, .count = count, .sequence = c.collectives++};
  const std::size_t bytes = count * size_of(type);
  const auto place = [&](int r) { return bytes_at(to) + bytes * static_cast<std::size_t>(r); };
  auto exchange = start.exchange();
  for (int r = 0; r < c.size; ++r) {
    if (r == c.rank) continue;
    exchange->transfers.push_back({.peer = r, .send = true, .data = bytes_at(from), .bytes = bytes, .header = header});
    exchange->transfers.push_back({.peer = r, .send = false, .data = place(r), .bytes = bytes, .header = header});
  }
  if (from != place(c.rank)) {
    exchange->writes.push_back({place(c.rank), bytes});
    exchange->finish = [own = place(c.rank), from, bytes] { std::memcpy(own, from, bytes); };
  }
  return start.finish(exchange);
}

// Every rank sends all that another needs, and adds what it gets: `count` elements from each, from `part(r)` for rank r.
static ncclResult_t reduce(Start& start, const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                           bool scatter) {
  Comm& c = *start.comm;
  if (op != ncclSum && op != ncclAvg) return ncclInvalidArgument;  // what this project uses
  const Header header{.kind = scatter ? simt::nccl::reduce_scatter : simt::nccl::all_reduce, .type = type, .op = op, .count = count,
                      .sequence = c.collectives++};
  const std::size_t bytes = count * size_of(type);
  const auto part = [&](int r) { return bytes_at(from) + (scatter ? bytes * static_cast<std::size_t>(r) : 0); };
  auto exchange = start.exchange();
  exchange->host.resize(static_cast<std::size_t>(c.size));
  std::vector<const std::byte*> parts;
  for (int r = 0; r < c.size; ++r) {
    if (r == c.rank) {
      parts.push_back(part(r));
      continue;
    }
    std::vector<std::byte>& room = exchange->host[static_cast<std::size_t>(r)];
    room.resize(bytes);
    parts.push_back(room.data());
    exchange->transfers.push_back({.peer = r, .send = true, .data = part(r), .bytes = bytes, .header = header});
    exchange->transfers.push_back({.peer = r, .send = false, .data = room.data(), .bytes = bytes, .device = false, .header = header});
  }
  exchange->reads.push_back({part(c.rank), bytes});
  exchange->writes.push_back({to, bytes});
  exchange->finish = [=] { add_up(type, parts, to, count, op == ncclAvg); };
  return start.finish(exchange);
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  Start start("ncclAllReduce", comm, stream);
  return start ? reduce(start, from, to, count, type, op, false) : start.failed();
}
ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                               cudaStream_t stream) {
  Start start("ncclReduceScatter", comm, stream);
  return start ? reduce(start, from, to, count, type, op, true) : start.failed();
}

}  // extern "C"
