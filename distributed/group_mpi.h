// The group of processes that MPI's launcher started.
#pragma once
#include <memory>
#include <string>

#include "binade/distributed/launch.h"
#include "binade/distributed/process_group.h"

namespace binade::dist {

// Loads the MPI plugin (libbinade_mpi.so beside libbinade, or the file BINADE_MPI_PLUGIN names) and initialises MPI.
std::shared_ptr<ProcessGroup> mpi_group(const Launch& launch, GroupOptions options);

}  // namespace binade::dist
