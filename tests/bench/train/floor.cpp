#include "floor.h"

#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "clock.h"

namespace bench {

using dnnl::memory;

namespace {

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

bool multiplies_bf16() {
  constexpr int wanted = dnnl_cpu_isa_avx512_core_bf16;
  return (static_cast<int>(dnnl_get_effective_cpu_isa()) & wanted) == wanted;
}

memory filled(const memory::desc& layout, memory::data_type type) {  // values in [-0.5, 0.5): no subnormals
  memory m(layout, engine());
  const std::size_t width = type == memory::data_type::bf16 ? 2 : 4, count = layout.get_size() / width;
  auto* bytes = static_cast<std::byte*>(m.get_data_handle());
  for (std::size_t i = 0; i < count; ++i) {
    const float value = static_cast<float>((i * 2654435761U >> 16) & 1023) / 1024.0F - 0.5F;
    std::byte raw[4];
    std::memcpy(raw, &value, 4);
    std::memcpy(bytes + i * width, raw + 4 - width, width);  // little endian: the upper half of a float is a bf16
  }
  return m;
}

struct Operand {  // rows x columns, stored as such or transposed
  std::int64_t rows, columns;
  bool transposed = false;
  memory::data_type type = memory::data_type::f32;
  memory make(std::int64_t matrices) const {
    const memory::dims strides = transposed ? memory::dims{rows * columns, 1, rows} : memory::dims{rows * columns, columns, 1};
    memory::desc layout({matrices, rows, columns}, type, strides);
    if (matrices == 1) layout = memory::desc({rows, columns}, type, {strides[1], strides[2]});
    return filled(layout, type);
  }
};

}  // namespace

struct Floor::Product {
  std::int64_t times = 1;
  dnnl::matmul primitive;
  std::unordered_map<int, memory> arguments;

  // c [m, n] = a [m, k] b [k, n], for `matrices` of each. Memory of its own: the weights of a layer are not in cache.
  Product(std::int64_t matrices, const Operand& a, const Operand& b, const Operand& c) {
    const memory am = a.make(matrices), bm = b.make(matrices), cm = c.make(matrices);
#if DNNL_VERSION_MAJOR >= 3
    primitive = dnnl::matmul(dnnl::matmul::primitive_desc(engine(), am.get_desc(), bm.get_desc(), cm.get_desc()));
#else
    primitive = dnnl::matmul(dnnl::matmul::primitive_desc({am.get_desc(), bm.get_desc(), cm.get_desc()}, engine()));
#endif
    arguments = {{DNNL_ARG_SRC, am}, {DNNL_ARG_WEIGHTS, bm}, {DNNL_ARG_DST, cm}};
  }
};

Floor::Floor(const Case& c) : bf16_(c.precision != "fp32" && c.precision != "fp16" && multiplies_bf16()) {
  if (const Dimensions* d = dimensions_of(c)) {
    const std::int64_t rows = c.batch * c.time, n = d->channels;
    for (std::int64_t layer = 0; layer < d->layers; ++layer) {
      add_linear(rows, n, 3 * n, true);
      add_linear(rows, n, n, true);
      add_linear(rows, n, 4 * n, true);
      add_linear(rows, 4 * n, n, true);
    }
    add_linear(rows, n, d->vocabulary, true);
    add_attention(c.batch * d->heads, c.time, n / d->heads);
    for (auto product = list_.end() - 6; product != list_.end(); ++product) (*product)->times = d->layers;
    flops_ += static_cast<double>(d->layers - 1) * 12.0 * static_cast<double>(c.batch * c.time * c.time * n);
    products_ = list_.size() + 6 * static_cast<std::size_t>(d->layers - 1);
  } else {
    add_linear(c.batch, mlp_sizes[0], mlp_sizes[1], false);
    add_linear(c.batch, mlp_sizes[1], mlp_sizes[2], true);
    products_ = list_.size();
  }
}
Floor::~Floor() = default;

void Floor::add_linear(std::int64_t rows, std::int64_t in, std::int64_t out, bool input_gradient) {
  const auto low = bf16_ ? memory::data_type::bf16 : memory::data_type::f32;
  const auto add = [&](Operand a, Operand b, Operand y) { list_.push_back(std::make_unique<Product>(1, a, b, y)); };
  add({rows, in, false, low}, {in, out, true, low}, {rows, out, false, low});                       // x weight^T
  if (input_gradient) add({rows, out, false, low}, {out, in, false, low}, {rows, in, false, low});  // dy weight
  add({out, rows, true, low}, {rows, in, false, low}, {out, in, false});                            // dy^T x
  flops_ += (input_gradient ? 6.0 : 4.0) * static_cast<double>(rows * in * out);
}

void Floor::add_attention(std::int64_t matrices, std::int64_t time, std::int64_t width) {
  const auto low = bf16_ ? memory::data_type::bf16 : memory::data_type::f32;
  const Operand rows{time, width, false, low}, columns{width, time, true, low};
  const Operand square{time, time, false, low}, turned{time, time, true, low};
  const auto add = [&](Operand a, Operand b, Operand y) { list_.push_back(std::make_unique<Product>(matrices, a, b, y)); };
  add(rows, columns, square);  // q k^T
  add(square, rows, rows);     // p v
  add(rows, columns, square);  // do v^T
  add(turned, rows, rows);     // p^T do
  add(square, rows, rows);     // ds k
  add(turned, rows, rows);     // ds^T q
  flops_ += 12.0 * static_cast<double>(matrices * time * time * width);
}

double Floor::operator()() {
  static dnnl::stream stream(engine());
  const double start = now();
  for (const auto& product : list_)
    for (std::int64_t i = 0; i < product->times; ++i) {
      product->primitive.execute(stream, product->arguments);
      stream.wait();
    }
  return now() - start;
}

}  // namespace bench
