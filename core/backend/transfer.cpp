#include "binade/core/backend/transfer.h"

#include <optional>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/backend/plugin.h"

namespace binade {

namespace {

// Contiguous memory of `like`'s shape on a device, for the time of one transfer.
struct Staged {
  std::optional<Scratch> memory;
  TensorView view;
  Staged(const TensorView& like, DType dtype, Device device) : view(like) {
    memory.emplace(static_cast<std::size_t>(like.numel() * size_of(dtype)), device);
    view.data = memory->as<std::byte>();
    view.strides = contiguous_strides(like.shape);
    view.dtype = dtype;
    view.device = device;
  }
};

}  // namespace

void transfer(const TensorView& source, const TensorView& target) {
  if (source.numel() == 0) return;
  if (source.device == target.device) return kernel::copy(source, target);
  load_backend(source.device.type);
  load_backend(target.device.type);
  std::optional<Staged> packed, landed;
  if (source.dtype != target.dtype || !source.is_contiguous()) {
    packed.emplace(source, target.dtype, source.device);
    kernel::copy(source, packed->view);
  }
  if (!target.is_contiguous()) landed.emplace(target, target.dtype, target.device);
  const TensorView& from = packed ? packed->view : source;
  const TensorView& to = landed ? landed->view : target;
  required_cuda_backend().copy(to.data, to.device, from.data, from.device,
                               static_cast<std::size_t>(from.numel() * size_of(from.dtype)));
  if (landed) kernel::copy(landed->view, target);
}

}  // namespace binade
