// libbinade_mpi.so: MPI's nonblocking messages as a table of functions. Any MPI-3.
#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <thread>

#include "binade/distributed/mpi/functions.h"

namespace {

bool ours = false;  // MPI was initialised here

const char* initialize(int* rank, int* size) {
  int already = 0, level = MPI_THREAD_SINGLE;
  MPI_Initialized(&already);
  if (already) {  // the program uses MPI itself: then from several threads
    MPI_Query_thread(&level);
    if (level < MPI_THREAD_MULTIPLE) return "the program initialised MPI without MPI_THREAD_MULTIPLE";
  } else if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS || level < MPI_THREAD_FUNNELED) {
    return "MPI_Init_thread failed";
  }
  ours = !already;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  MPI_Comm_size(MPI_COMM_WORLD, size);
  return nullptr;
}

void library(char* text, std::size_t size) {
  char all[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(all, &length);
  const std::size_t line = std::strcspn(all, "\n,");
  std::snprintf(text, size, "%.*s", static_cast<int>(line), all);
  for (char* c = text; *c; ++c) *c = *c == '\t' ? ' ' : *c;
}

void* send(const void* data, std::size_t bytes, int peer, int tag) {
  auto* request = new (std::nothrow) MPI_Request;
  if (request && MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, peer, tag, MPI_COMM_WORLD, request) == MPI_SUCCESS)
    return request;
  delete request;
  return nullptr;
}

void* receive(void* data, std::size_t bytes, int peer, int tag) {
  auto* request = new (std::nothrow) MPI_Request;
  if (request && MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, peer, tag, MPI_COMM_WORLD, request) == MPI_SUCCESS)
    return request;
  delete request;
  return nullptr;
}

int test(void* message) {
  auto* request = static_cast<MPI_Request*>(message);
  int done = 0;
  const bool ok = MPI_Test(request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS;
  if (ok && !done) return 0;
  delete request;
  return ok ? 1 : -1;
}

// MPICH before 4.2 on UCX waits for ever in MPI_Finalize when a rank begins it while another still listens for messages:
// that one confirms the first's end, which then waits in a barrier where it can confirm nothing (pmodels/mpich #6596). All
// ranks have said farewell when this is called; in a moment none listens any more, and what they send each other in
// MPI_Finalize is read there. On two hosts 6 of 300 jobs hung without this, none of 588 with it.
void let_the_others_stop_listening() {
  char all[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(all, &length);
  if (std::strstr(all, "MPICH") && std::strstr(all, "ch4:ucx")) std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

void finalize() {
  if (ours) {
    let_the_others_stop_listening();
    MPI_Finalize();
  }
  ours = false;
}

void abort_job() { MPI_Abort(MPI_COMM_WORLD, 1); }

constexpr binade::dist::MpiFunctions functions{
    .initialize = initialize, .library = library, .send = send, .receive = receive, .test = test, .finalize = finalize,
    .abort = abort_job};

}  // namespace

extern "C" const binade::dist::MpiFunctions* binade_mpi_functions() { return &functions; }
