#include "binade/core/autograd/rounded_copy.h"

#include <mutex>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"

namespace binade {

namespace {

std::mutex& mutex() {  // threads that share a model read its copies
  static std::mutex all;
  return all;
}

bool is_current(const RoundedCopy* copy, const TensorImpl& leaf) {
  return copy && copy->version == leaf.storage->version && copy->replays == cuda::replayed_steps();
}

bool may_change_unseen(const TensorImpl& leaf) {
  return leaf.storage->exposed || (cuda::recording_step() && !cuda::recording_here());
}

// A recorded step reads the copy in each replay. Each must find the leaf's rounding there: it does where the step's
// own kernels wrote the copy with the leaf and nobody has changed the leaf since; otherwise it is cast anew.
void cast_for_replays(const Tensor& x, const std::shared_ptr<RoundedCopy>& copy) {
  const std::weak_ptr<TensorImpl> weak = x.shared_impl();
  const auto written = std::make_shared<bool>(false);  // by the step, whenever it changes the leaf
  cuda::at_each_replay({.recorded =
                            [weak, copy, written] {
                              const std::shared_ptr<TensorImpl> leaf = weak.lock();
                              *written = leaf && copy->version == leaf->storage->version;
                            },
                        .before =
                            [weak, copy] {
                              const std::shared_ptr<TensorImpl> leaf = weak.lock();
                              const std::lock_guard lock(mutex());
                              if (!leaf || is_current(copy.get(), *leaf)) return;
                              kernel::copy(Tensor(leaf), copy->values);
                              copy->version = leaf->storage->version;
                            },
                        .after =
                            [weak, copy, written] {
                              const std::shared_ptr<TensorImpl> leaf = weak.lock();
                              if (!leaf || !*written) return;
                              const std::lock_guard lock(mutex());
                              copy->replays = cuda::replayed_steps();
                              leaf->rounded = copy;
                            }});
}

}  // namespace

Tensor rounded_copy(const Tensor& x, DType dtype) {
  TensorImpl& leaf = *x.impl();
  if (may_change_unseen(leaf)) return {};
  const std::uint64_t recording = cuda::recording_here();
  const std::lock_guard lock(mutex());
  if (!is_current(leaf.rounded.get(), leaf) || leaf.rounded->values.dtype() != dtype) {
    if (recording) return {};  // a cast that is recorded has run in replays only
    const MemoryTagScope tag(MemoryTag::parameters);
    leaf.rounded.reset();  // its memory may serve the new one
    leaf.rounded = std::make_shared<RoundedCopy>(
        RoundedCopy{cast_values(x, dtype), leaf.storage->version, cuda::replayed_steps()});
  }
  RoundedCopy& copy = *leaf.rounded;
  if (recording && copy.recording != recording) {
    copy.recording = recording;
    cast_for_replays(x, leaf.rounded);
  }
  copy.read = true;
  return copy.values;
}

Tensor rounded_copy_to_update(const Tensor& x) {
  TensorImpl& leaf = *x.impl();
  const std::lock_guard lock(mutex());
  if (!leaf.rounded) return {};
  RoundedCopy& copy = *leaf.rounded;
  const bool only_here = copy.values.shared_impl().use_count() == 1 && copy.values.impl()->storage.use_count() == 1;
  const bool kept = copy.recording == cuda::recording_here() || !cuda::recording_here();  // for the replays
  if (!is_current(&copy, leaf) || may_change_unseen(leaf) || !copy.read || !only_here || !kept) {
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
