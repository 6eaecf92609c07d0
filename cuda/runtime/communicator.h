// Ranks that exchange device memory: through NCCL (cuda/libs), or not at all in a build without it.
#pragma once
#include <memory>

#include "binade/core/backend/communicator.h"

namespace binade::cuda {

std::unique_ptr<DeviceCommunicator> make_communicator(const CommunicatorOptions& options);

}  // namespace binade::cuda
