// What the MPI plugin offers: messages of bytes between ranks, and nothing else. libbinade_mpi.so is the only file that
// is linked with MPI; it is loaded when a launcher started several processes. It needs no symbol of libbinade.
#pragma once
#include <cstddef>

namespace binade::dist {

inline constexpr int mpi_functions_version = 2;

// All are called from one thread. None throws.
struct MpiFunctions {
  int version = mpi_functions_version;
  // Null, or why MPI cannot be used. Rank and size of MPI_COMM_WORLD.
  const char* (*initialize)(int* rank, int* size);
  void (*library)(char* text, std::size_t size);  // "MPICH Version: 4.0.2"
  // Starts a message of at most 2^30 bytes; null on failure. Messages of one tag between two ranks keep their order.
  void* (*send)(const void* data, std::size_t bytes, int peer, int tag);
  void* (*receive)(void* data, std::size_t bytes, int peer, int tag);
  int (*test)(void* message);  // 1: done and forgotten, 0: under way, -1: failed and forgotten
  void (*finalize)();          // waits for all ranks
  void (*abort)();             // asks the launcher to end the job; may not return
};

using MpiEntry = const MpiFunctions* (*)();
inline constexpr const char* mpi_entry = "binade_mpi_functions";

}  // namespace binade::dist
