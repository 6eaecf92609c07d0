#include "binade/core/base/random.h"

#include <mutex>

namespace binade {

namespace {
std::mutex mutex;
PhiloxState stream;  // the documented global: seed and position of the random stream
}  // namespace

void manual_seed(std::uint64_t seed) { set_random_state({seed, 0}); }

PhiloxState next_draw() {
  const std::lock_guard lock(mutex);
  PhiloxState draw = stream;
  ++stream.offset;
  return draw;
}

PhiloxState random_state() {
  const std::lock_guard lock(mutex);
  return stream;
}

void set_random_state(PhiloxState state) {
  const std::lock_guard lock(mutex);
  stream = state;
}

}  // namespace binade
