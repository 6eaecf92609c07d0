// Tensors as text a person can read.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "binade/core/tensor/tensor.h"

namespace binade {

namespace {

constexpr std::int64_t edge = 3;         // entries shown at each end of a long dimension
constexpr std::int64_t shown_whole = 8;  // dimensions up to this long are shown whole

std::string number(double value, bool floating) {
  char text[32];
  if (!floating) {
    std::snprintf(text, sizeof text, "%.0f", value);
  } else {
    std::snprintf(text, sizeof text, "%.5g", value);
  }
  return text;
}

void print(const Tensor& x, int dim, std::int64_t offset, std::string& out) {
  if (dim == x.dim()) {
    out += number(x.at(offset), is_floating(x.dtype()));
    return;
  }
  std::int64_t inner = 1;
  for (int d = dim + 1; d < x.dim(); ++d) inner *= x.shape()[d];
  const std::int64_t count = x.shape()[dim];
  const bool rows = dim + 1 < x.dim();
  const std::string separator = rows ? ",\n" + std::string(static_cast<std::size_t>(dim) + 1, ' ') : ", ";
  out += '[';
  for (std::int64_t i = 0; i < count; ++i) {
    if (i > 0) out += separator;
    if (count > shown_whole && i == edge) {
      out += "…" + separator;
      i = count - edge;
    }
    print(x, dim + 1, offset + i * inner, out);
  }
  out += ']';
}

}  // namespace

std::string to_string(const Tensor& x) {
  if (!x) return "tensor (undefined)";
  std::string out = "tensor " + to_text(x.shape()) + ' ' + to_text(x.dtype()) + ' ' + to_text(x.device());
  if (x.requires_grad()) out += " requires_grad";
  out += x.dim() > 1 ? '\n' : ' ';
  print(x, 0, 0, out);
  return out;
}

}  // namespace binade
