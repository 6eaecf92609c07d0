// A bad index found by a kernel. Kernels cannot throw, and a training step must not wait for them: the first one is
// noted in device memory and thrown as an Error at the next synchronisation (item(), to_vector(), synchronize()).
#pragma once
#include <cstdint>

namespace binade::cuda {

enum class IndexUser : int {
  embedding,
  cross_entropy,
  gather,
  scatter_add,
  query_lengths,
  key_lengths,
  self_attention_lengths
};

struct IndexFault {
  int raised;
  IndexUser user;
  std::int64_t position, value,
      limit;  // element `position` of the index was `value`, not in [0, limit) (lengths: limit])
};

}  // namespace binade::cuda
