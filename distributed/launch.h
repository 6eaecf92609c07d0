// How this process was started, and the group it belongs to.
//   const auto group = dist::init();   // alone without a launcher; with mpirun or srun, one of many
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "binade/distributed/process_group.h"

namespace binade::dist {

struct Launch {
  std::string launcher = {};  // "Open MPI", "MPICH", "torchrun", "Slurm"; empty: none
  int rank = 0, size = 1;
  int local_rank = 0;  // among the processes of this machine: chooses the GPU
  std::string master_address = {};  // torchrun's, or empty
  int master_port = 0;
};

// What launchers set: OMPI_COMM_WORLD_{RANK,SIZE,LOCAL_RANK} (Open MPI), PMI_{RANK,SIZE} and MPI_LOCALRANKID (MPICH),
// RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT (torchrun), SLURM_{PROCID,NTASKS,LOCALID} (srun: in its job
// steps). An MPI launcher comes first, whatever it was started by. Throws Error, in one line, for a variable that is
// missing or no number, for a rank that is not below the size, and for an MPI launcher and torchrun that disagree.
using GetVariable = std::function<const char*(const char* name)>;
Launch read_launch(const GetVariable& get);
Launch read_launch();  // from the environment

// The group of all processes that were started together: by NCCL where options.device, or default_device(), is CUDA, with
// the device of the local rank (group->device()); by MPI otherwise. Once per process. Throws Error where that is not
// possible: no MPI plugin, an MPI that is not the one whose launcher was used, no NCCL, more local ranks than devices.
//
// A process leaves when the last handle on the group goes; leaving waits for the others. When that happens because of an
// exception the others are told, and their collectives throw. Collectives that time out, or fail, throw in wait(); the
// process should end with a code that is not 0, and its launcher ends the others.
std::shared_ptr<ProcessGroup> init(GroupOptions options = {});

}  // namespace binade::dist
