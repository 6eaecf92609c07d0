#include "binade/core/base/shape.h"

namespace binade {

void Shape::insert(int at, std::int64_t d) {
  check(size_ < max_dims, "shape: at most 8 dimensions");
  std::copy_backward(dims_ + at, dims_ + size_, dims_ + size_ + 1);
  dims_[at] = d;
  ++size_;
}

void Shape::erase(int at) {
  std::copy(dims_ + at + 1, dims_ + size_, dims_ + at);
  --size_;
}

std::string to_text(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Strides contiguous_strides(const Shape& shape) {
  Strides strides = shape;
  std::int64_t stride = 1;
  for (int i = shape.size() - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= std::max<std::int64_t>(shape[i], 1);
  }
  return strides;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view what) {
  Shape out = a.size() >= b.size() ? a : b;
  const Shape& other = a.size() >= b.size() ? b : a;
  const int shift = out.size() - other.size();
  for (int i = 0; i < other.size(); ++i) {
    std::int64_t& d = out[i + shift];
    if (d == 1) d = other[i];
    check(other[i] == d || other[i] == 1, what, ": shapes do not broadcast: ", a, " and ", b);
  }
  return out;
}

int wrap_dim(std::int64_t dim, int dims, std::string_view what) {
  const std::int64_t bound = std::max(dims, 1);
  check(dim >= -bound && dim < bound, what, ": dim ", dim, " out of range for ", dims, " dimensions");
  return static_cast<int>(dim < 0 ? dim + bound : dim);
}

}  // namespace binade
