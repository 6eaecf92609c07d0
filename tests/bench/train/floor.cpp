#include "floor.h"

#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <utility>

#include "binade/core/backend/kernels.h"
#include "clock.h"

namespace bench {

using namespace binade;
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

memory::data_type onednn_type(DType dtype) { return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32; }

DType low_dtype(const Case& c) {
  const bool cpu = c.device == Device{};
  if (c.precision == "fp32" || (cpu && (c.precision == "fp16" || !multiplies_bf16()))) return DType::f32;
  return c.precision == "fp16" ? DType::f16 : DType::bf16;
}

}  // namespace

struct Floor::Operand {  // rows x columns, stored as such or transposed
  std::int64_t rows, columns;
  bool transposed = false;
  DType dtype = DType::f32;
  memory on_cpu(std::int64_t matrices) const {
    const memory::data_type type = onednn_type(dtype);
    const memory::dims strides = transposed ? memory::dims{rows * columns, 1, rows} : memory::dims{rows * columns, columns, 1};
    memory::desc layout({matrices, rows, columns}, type, strides);
    if (matrices == 1) layout = memory::desc({rows, columns}, type, {strides[1], strides[2]});
    return filled(layout, type);
  }
  Tensor on(Device device, std::int64_t matrices) const {
    Shape shape = transposed ? Shape{columns, rows} : Shape{rows, columns};
    if (matrices > 1) shape = {matrices, shape[0], shape[1]};
    const Tensor x = (rand(shape, {.device = device}) - 0.5).to(dtype);
    return transposed ? x.transpose(-2, -1) : x;
  }
};

// c [m, n] = a [m, k] b [k, n], for `matrices` of each. Memory of its own: the weights of a layer are not in cache.
struct Floor::Product {
  virtual ~Product() = default;
  virtual void run() const = 0;
  std::int64_t times = 1;
};

namespace {

struct OneDnnProduct : Floor::Product {
  OneDnnProduct(const memory& a, const memory& b, const memory& c) {
#if DNNL_VERSION_MAJOR >= 3
    primitive_ = dnnl::matmul(dnnl::matmul::primitive_desc(engine(), a.get_desc(), b.get_desc(), c.get_desc()));
#else
    primitive_ = dnnl::matmul(dnnl::matmul::primitive_desc({a.get_desc(), b.get_desc(), c.get_desc()}, engine()));
#endif
    arguments_ = {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}};
  }
  void run() const override {
    static dnnl::stream stream(engine());
    primitive_.execute(stream, arguments_);
    stream.wait();
  }

 private:
  dnnl::matmul primitive_;
  std::unordered_map<int, memory> arguments_;
};

struct DeviceProduct : Floor::Product {
  DeviceProduct(Tensor a, Tensor b, Tensor c) : a_(std::move(a)), b_(std::move(b)), c_(std::move(c)) {}
  void run() const override { kernel::matmul(a_, b_, {}, c_, {}); }

 private:
  Tensor a_, b_, c_;
};

}  // namespace

void Floor::add(std::int64_t matrices, const Operand& a, const Operand& b, const Operand& c) {
  if (device_ == Device{}) {
    list_.push_back(std::make_unique<OneDnnProduct>(a.on_cpu(matrices), b.on_cpu(matrices), c.on_cpu(matrices)));
  } else {
    list_.push_back(std::make_unique<DeviceProduct>(a.on(device_, matrices), b.on(device_, matrices),
                                                    c.on(device_, matrices)));
  }
}

Floor::Floor(const Case& c) : device_(c.device), low_(low_dtype(c)) {
  if (const Dimensions* d = dimensions_of(c)) {
    const std::int64_t rows = c.batch * c.time, n = d->channels;
    for (std::int64_t layer = 0; layer < d->layers; ++layer) {
      add_linear(rows, n, 3 * n, true);
      add_linear(rows, n, n, true);
      add_linear(rows, n, 4 * n, true);
      add_linear(rows, 4 * n, n, true);
    }
    // As linear_cross_entropy has it on a GPU: whole vectors of 16 bytes.
    const std::int64_t fill = device_ == Device{} ? 1 : 16 / size_of(low_);
    add_linear(rows, n, (d->vocabulary + fill - 1) / fill * fill, true);
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
  add(1, {rows, in, false, low_}, {in, out, true, low_}, {rows, out, false, low_});                       // x weight^T
  if (input_gradient) add(1, {rows, out, false, low_}, {out, in, false, low_}, {rows, in, false, low_});  // dy weight
  add(1, {out, rows, true, low_}, {rows, in, false, low_}, {out, in});                                    // dy^T x
  flops_ += (input_gradient ? 6.0 : 4.0) * static_cast<double>(rows * in * out);
}

void Floor::add_attention(std::int64_t matrices, std::int64_t time, std::int64_t width) {
  const Operand rows{time, width, false, low_}, columns{width, time, true, low_};
  const Operand square{time, time, false, low_}, turned{time, time, true, low_};
  add(matrices, rows, columns, square);  // q k^T
  add(matrices, square, rows, rows);     // p v
  add(matrices, rows, columns, square);  // do v^T
  add(matrices, turned, rows, rows);     // p^T do
  add(matrices, square, rows, rows);     // ds k
  add(matrices, turned, rows, rows);     // ds^T q
  flops_ += 12.0 * static_cast<double>(matrices * time * time * width);
}

double Floor::operator()() {
  const double start = now();
  for (const auto& product : list_)
    for (std::int64_t i = 0; i < product->times; ++i) product->run();
  synchronize(device_);
  return now() - start;
}

}  // namespace bench
