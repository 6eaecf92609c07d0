#include "binade/core/autograd/rounded_copy.h"

#include <mutex>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/memory.h"

namespace binade {

namespace {

std::mutex& mutex() {  // threads that share a model read its copies
  static std::mutex all;
  return all;
}

bool is_current(const TensorImpl& leaf) {
  const RoundedCopy* copy = leaf.rounded.get();
  return copy && copy->version == leaf.storage->version && copy->replays == cuda::replayed_steps();
}

bool may_change_unseen(const TensorImpl& leaf) { return leaf.storage->exposed || cuda::recording_step(); }

}  // namespace

Tensor rounded_copy(const Tensor& x, DType dtype) {
  TensorImpl& leaf = *x.impl();
  if (may_change_unseen(leaf)) return {};
  const std::lock_guard lock(mutex());
  if (!is_current(leaf) || leaf.rounded->values.dtype() != dtype) {
    const MemoryTagScope tag(MemoryTag::parameters);
    leaf.rounded.reset();  // its memory may serve the new one
    leaf.rounded = std::make_shared<RoundedCopy>(
        RoundedCopy{cast_values(x, dtype), leaf.storage->version, cuda::replayed_steps()});
  }
  leaf.rounded->read = true;
  return leaf.rounded->values;
}

Tensor rounded_copy_to_update(const Tensor& x) {
  TensorImpl& leaf = *x.impl();
  const std::lock_guard lock(mutex());
  if (!leaf.rounded) return {};
  RoundedCopy& copy = *leaf.rounded;
  const bool only_here = copy.values.shared_impl().use_count() == 1 && copy.values.impl()->storage.use_count() == 1;
  if (!is_current(leaf) || may_change_unseen(leaf) || !copy.read || !only_here) {
    leaf.rounded.reset();
    return {};
  }
  copy.read = false;
  return copy.values;
}

void rounded_copy_updated(const Tensor& x) {
  const std::lock_guard lock(mutex());
  if (const auto& copy = x.impl()->rounded) copy->version = x.impl()->storage->version;
}

}  // namespace binade
