// TensorView: what a kernel sees. Memory and layout, no ownership, no autograd. An absent view has no data.
#pragma once
#include <cstddef>
#include <utility>

#include "binade/core/base/device.h"
#include "binade/core/base/dtype.h"
#include "binade/core/base/shape.h"

namespace binade {

struct TensorView {
  std::byte* data = nullptr;
  Shape shape;
  Strides strides;  // in elements
  DType dtype = DType::f32;
  Device device;

  explicit operator bool() const { return data != nullptr; }
  int dim() const { return shape.size(); }
  std::int64_t size(int d) const { return shape[d < 0 ? d + shape.size() : d]; }
  std::int64_t stride(int d) const { return strides[d < 0 ? d + strides.size() : d]; }
  std::int64_t numel() const { return shape.numel(); }
  bool is_contiguous() const {
    std::int64_t expected = 1;
    for (int i = shape.size() - 1; i >= 0; --i) {
      if (shape[i] != 1 && strides[i] != expected) return false;
      expected *= shape[i] > 1 ? shape[i] : 1;
    }
    return true;
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

// The same memory with the last two dimensions exchanged.
inline TensorView transposed(TensorView x) {
  const int last = x.dim() - 1;
  std::swap(x.shape[last - 1], x.shape[last]);
  std::swap(x.strides[last - 1], x.strides[last]);
  return x;
}

}  // namespace binade
