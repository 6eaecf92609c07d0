#include "binade/ops/rotary_tables.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <mutex>
#include <vector>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/memory.h"

namespace binade {

namespace {

constexpr std::size_t kept_tables = 16;  // a model asks for one; one that generates, for the positions it goes through

struct Kept {
  RotaryTable table;
  std::pair<Tensor, Tensor> values;
};

std::pair<Tensor, Tensor> computed(const RotaryTable& t) {
  std::vector<double> cosines(static_cast<std::size_t>(t.time * t.pairs)), sines(cosines.size());
  for (std::int64_t i = 0; i < t.pairs; ++i) {
    const double frequency = std::pow(t.base, -static_cast<double>(i) / static_cast<double>(t.pairs));
    for (std::int64_t position = 0; position < t.time; ++position) {
      const double angle = static_cast<double>(t.start + position) * frequency;
      cosines[static_cast<std::size_t>(position * t.pairs + i)] = std::cos(angle);
      sines[static_cast<std::size_t>(position * t.pairs + i)] = std::sin(angle);
    }
  }
  const MemoryTagScope tag(MemoryTag::data);
  const TensorOptions options{.dtype = t.dtype, .device = t.device};
  return {from_vector(cosines, {t.time, t.pairs}, options), from_vector(sines, {t.time, t.pairs}, options)};
}

}  // namespace

std::pair<Tensor, Tensor> rotary_tables(const RotaryTable& wanted) {
  // Never destroyed: a device's driver may be gone before static destructors run.
  static auto* recent = new std::list<Kept>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const auto found = std::ranges::find(*recent, wanted, &Kept::table);
  if (found != recent->end()) {
    recent->splice(recent->begin(), *recent, found);
  } else {
    recent->push_front({wanted, computed(wanted)});
    if (recent->size() > kept_tables) recent->pop_back();
  }
  const std::pair<Tensor, Tensor> values = recent->front().values;
  if (cuda::recording_here()) {
    cuda::keep_for_replays(values.first);
    cuda::keep_for_replays(values.second);
  }
  return values;
}

}  // namespace binade
