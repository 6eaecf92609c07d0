// The group of processes that MPI's launcher started.
#pragma once
#include <memory>
#include <string>

#include "binade/distributed/launch.h"
#include "binade/distributed/process_group.h"

namespace binade::dist {

class MpiProcessGroup : public ProcessGroup {
 public:
  // Tells the other ranks that this one calls a collective which is carried out elsewhere (NCCL). Done when all ranks
  // have said the same; fails as a collective of this group does: for a rank that is late, has gone, or calls another.
  [[nodiscard]] virtual Work announce(Collective collective) = 0;

 protected:
  using ProcessGroup::ProcessGroup;
};

// Loads the MPI plugin (libbinade_mpi.so beside libbinade, or the file BINADE_MPI_PLUGIN names) and initialises MPI.
std::shared_ptr<MpiProcessGroup> mpi_group(const Launch& launch, GroupOptions options);

}  // namespace binade::dist
