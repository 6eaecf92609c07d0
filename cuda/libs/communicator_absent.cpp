// Compiled instead of communicator_nccl.cpp where the build found no nccl.h.
#include "binade/core/base/error.h"
#include "binade/cuda/runtime/communicator.h"

namespace binade::cuda {

std::unique_ptr<DeviceCommunicator> make_communicator(const CommunicatorOptions&) {
  fail({"NCCL: this build of binade is without it: install its header nccl.h (Debian and Ubuntu: libnccl-dev, PyPI: "
        "nvidia-nccl-cu13, or scripts/install_deps.sh --cuda) and build again"});
}

}  // namespace binade::cuda
