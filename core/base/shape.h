// Shapes and strides: up to eight dimensions, held inline so that making one never allocates.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "binade/core/base/error.h"

namespace binade {

class Shape {
 public:
  static constexpr int max_dims = 8;
  constexpr Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims) : size_(static_cast<int>(dims.size())) {
    check(dims.size() <= max_dims, "shape: at most 8 dimensions, got ", static_cast<long>(dims.size()));
    std::copy(dims.begin(), dims.end(), dims_);
  }
  constexpr int size() const { return size_; }  // number of dimensions
  constexpr bool empty() const { return size_ == 0; }
  constexpr std::int64_t& operator[](int i) { return dims_[i]; }
  constexpr std::int64_t operator[](int i) const { return dims_[i]; }
  constexpr std::int64_t back() const { return dims_[size_ - 1]; }
  constexpr std::int64_t& back() { return dims_[size_ - 1]; }
  constexpr const std::int64_t* begin() const { return dims_; }
  constexpr const std::int64_t* end() const { return dims_ + size_; }
  constexpr std::int64_t* begin() { return dims_; }
  constexpr std::int64_t* end() { return dims_ + size_; }
  void push_back(std::int64_t d) {
    check(size_ < max_dims, "shape: at most 8 dimensions");
    dims_[size_++] = d;
  }
  void insert(int at, std::int64_t d);
  void erase(int at);
  constexpr std::int64_t numel() const {  // product; 1 for a zero-dim tensor
    std::int64_t n = 1;
    for (std::int64_t d : *this) n *= d;
    return n;
  }
  friend constexpr bool operator==(const Shape& a, const Shape& b) {
    return a.size_ == b.size_ && std::equal(a.begin(), a.end(), b.begin());
  }

 private:
  std::int64_t dims_[max_dims] = {};
  int size_ = 0;
};
using Strides = Shape;  // in elements

std::string to_text(const Shape& shape);  // "[8, 3]"

Strides contiguous_strides(const Shape& shape);  // row-major
// NumPy broadcasting; the error names `what` and both shapes.
Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view what);
// -dims <= dim < dims -> 0 <= dim; throws naming `what` otherwise.
int wrap_dim(std::int64_t dim, int dims, std::string_view what);

}  // namespace binade
