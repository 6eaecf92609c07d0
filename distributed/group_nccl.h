// The group of processes that train on a CUDA device each.
#pragma once
#include <memory>

#include "binade/distributed/launch.h"
#include "binade/distributed/process_group.h"

namespace binade::dist {

// Joins the ranks' devices through the CUDA backend's DeviceCommunicator. Started by an MPI launcher, ranks also tell each
// other by MPI which collectives they call; otherwise they meet at the launcher's master address, by NCCL alone.
std::shared_ptr<ProcessGroup> nccl_group(const Launch& launch, GroupOptions options);

}  // namespace binade::dist
