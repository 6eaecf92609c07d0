// The functions of NCCL that binade calls, as one table: the library is opened at first use, not linked. The simulated
// device of the tests fills the same table.
#pragma once
#include <nccl.h>

namespace binade::cuda {

struct NcclFunctions {
  decltype(&::ncclGetUniqueId) unique_id;
  decltype(&::ncclCommInitRankConfig) init;
  decltype(&::ncclCommFinalize) finalize;
  decltype(&::ncclCommDestroy) destroy;
  decltype(&::ncclCommAbort) abort;
  decltype(&::ncclCommGetAsyncError) async_error;
  decltype(&::ncclGetErrorString) error_string;
  decltype(&::ncclGetLastError) last_error;
  decltype(&::ncclGroupStart) group_start;
  decltype(&::ncclGroupEnd) group_end;
  decltype(&::ncclBroadcast) broadcast;
  decltype(&::ncclAllReduce) all_reduce;
  decltype(&::ncclReduceScatter) reduce_scatter;
  decltype(&::ncclAllGather) all_gather;
  decltype(&::ncclSend) send;
  decltype(&::ncclRecv) receive;
};

const NcclFunctions& nccl();  // throws naming the package where the library is missing

}  // namespace binade::cuda
