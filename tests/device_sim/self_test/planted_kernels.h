// Kernels with one mistake each, for the checker to find; the comment says the mistake.
#pragma once
#include <cuda_runtime_api.h>

namespace binade::test {

enum class Planted {
  write_past_end,            // out[n]
  write_before_start,        // out[-1]
  read_past_end,             // in[n]
  half_past_end,             // a 16-byte read of which the last 4 bytes lie outside
  uninitialised_global,      // reads what nothing wrote
  uninitialised_shared,      //
  shared_past_end,           // shared[64] of 64
  dynamic_shared_past_end,   //
  shared_race_read_write,    // reads a neighbour's word without a barrier
  shared_race_write_write,   // two threads write one word
  shared_race_second_round,  // a loop that lacks the barrier after the read
  global_race_in_block,      // neighbours through global memory, no barrier
  block_race,                // all blocks write one word
  block_race_read,           // a block reads what another wrote
  atomic_and_plain,          // one block adds atomically, another stores
  missing_fence,             // last block done without __threadfence
  missing_syncwarp,          // lanes read before the writer is known to be done
  shuffle_is_no_barrier,     // a shuffle where __syncwarp belongs
  divergent_barrier,         // one thread goes past __syncthreads
  barrier_after_exit,        // threads have returned before a barrier
  two_barriers,              // halves of the block wait at different ones
  divergent_shuffle,         // odd lanes only, with the full mask
  shuffle_outside_mask,      // a lane outside the mask is the source
  caller_outside_mask,       //
  shuffle_after_exit,        // the mask names lanes that have returned
  different_masks,           // lanes of one rendezvous with different masks
  misaligned_vector,         // float4 at 4 bytes past a multiple of 16
  misaligned_pair,           // a bfloat162 at an odd element
  host_heap,                 // reads ordinary host memory
  host_write,                // writes it
  null_pointer,              //
  host_global,               // reads a variable of the program
  other_device,              // memory of another device
  misaligned_atomic,         //
  atomic_past_end,           //
};
// in, out: n floats each.
void run_planted(Planted what, const float* in, float* out, int n, cudaStream_t stream);

}  // namespace binade::test
