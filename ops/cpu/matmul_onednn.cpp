// Two-dimensional f32 and bf16 products by oneDNN, on the calling thread, from a cache of primitives.
#include <oneapi/dnnl/dnnl.hpp>

#include <omp.h>

#include <array>
#include <unordered_map>
#include <vector>

#include "binade/core/base/error.h"
#include "binade/ops/cpu/matmul_block.h"

namespace binade::cpu {

namespace {

using dnnl::memory;

// oneDNN cuts k by the number of threads it sees; one thread makes the order of its sums a function of the shape.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

struct Key {
  std::array<std::int64_t, 10> fields;
  bool operator==(const Key&) const = default;
};
struct KeyHash {
  std::size_t operator()(const Key& key) const {
    std::size_t hash = 0;
    for (const std::int64_t field : key.fields)
      hash = (hash ^ static_cast<std::size_t>(field)) * 0x9E3779B97F4A7C15U + (hash >> 29);
    return hash;
  }
};

struct Product {
  dnnl::matmul primitive;
  memory a, b, bias, c;
  std::vector<dnnl_exec_arg_t> arguments;  // of the C interface, which copies no map at each call
};

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// Strides oneDNN accepts also where a size of 1 leaves a stride meaningless: {leading, 1} or {1, leading}.
std::array<std::int64_t, 2> plain_strides(std::int64_t rows, std::int64_t columns, const MatrixBlock& block) {
  const bool row_major = (block.column_stride == 1 || columns == 1) && (block.row_stride >= columns || rows == 1);
  if (row_major) return {rows == 1 ? columns : block.row_stride, 1};
  return {1, columns == 1 ? rows : block.column_stride};
}

struct Library {  // one per thread: primitives and streams are not shared
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::unordered_map<Key, Product, KeyHash> products;
};

Product make_product(const Library& library, const Key& key) {
  const auto& [m, n, k, a_row, a_column, b_row, b_column, c_row, types, flags] = key.fields;
  const auto dtype_at = [&, t = types](int position) { return type_of(static_cast<DType>((t >> (8 * position)) & 255)); };
  const memory::desc a({m, k}, dtype_at(0), {a_row, a_column}), b({k, n}, dtype_at(0), {b_row, b_column});
  const memory::desc c({m, n}, dtype_at(1), {c_row, 1});
  const bool with_bias = (flags & 1) != 0, accumulate = (flags & 2) != 0;
  const memory::desc bias = with_bias ? memory::desc({1, n}, memory::data_type::f32, {n, 1}) : memory::desc();
  dnnl::primitive_attr attributes;
  if (accumulate) {
    dnnl::post_ops operations;
    operations.append_sum(1.0F);
    attributes.set_post_ops(operations);
  }
  Product product;
#if DNNL_VERSION_MAJOR >= 3
  product.primitive = dnnl::matmul(with_bias ? dnnl::matmul::primitive_desc(library.engine, a, b, bias, c, attributes)
                                             : dnnl::matmul::primitive_desc(library.engine, a, b, c, attributes));
#else
  const dnnl::matmul::desc description =
      with_bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
  product.primitive = dnnl::matmul(dnnl::matmul::primitive_desc(description, attributes, library.engine));
#endif
  product.a = memory(a, library.engine, nullptr);
  product.b = memory(b, library.engine, nullptr);
  product.c = memory(c, library.engine, nullptr);
  product.arguments = {
      {DNNL_ARG_SRC, product.a.get()}, {DNNL_ARG_WEIGHTS, product.b.get()}, {DNNL_ARG_DST, product.c.get()}};
  if (with_bias) {
    product.bias = memory(bias, library.engine, nullptr);
    product.arguments.push_back({DNNL_ARG_BIAS, product.bias.get()});
  }
  return product;
}

}  // namespace

DType product_dtype(DType operand) {
  static const bool has_bf16 = (static_cast<int>(dnnl_get_effective_cpu_isa()) & dnnl_cpu_isa_avx512_core_bf16) ==
                               dnnl_cpu_isa_avx512_core_bf16;
  const bool fits = operand == DType::bf16 || operand == DType::f8e4m3 || operand == DType::f8e5m2;
  if (fits && has_bf16) return DType::bf16;
  return sum_dtype(operand);
}

void multiply_block_onednn(std::int64_t m, std::int64_t n, std::int64_t k, MatrixBlock a, MatrixBlock b,
                           const void* bias, MatrixBlock c, bool accumulate) {
  constexpr std::size_t cache_limit = 2048;  // shapes; training repeats few, a loop over lengths must not fill memory
  thread_local Library library;
  const OneThread one_thread;
  const auto a_strides = plain_strides(m, k, a), b_strides = plain_strides(k, n, b);
  const Key key{{m, n, k, a_strides[0], a_strides[1], b_strides[0], b_strides[1], m == 1 ? n : c.row_stride,
                 static_cast<std::int64_t>(a.dtype) | static_cast<std::int64_t>(c.dtype) << 8,
                 (bias != nullptr ? 1 : 0) | (accumulate ? 2 : 0)}};
  try {
    auto found = library.products.find(key);
    if (found == library.products.end()) {
      if (library.products.size() >= cache_limit) library.products.clear();
      found = library.products.emplace(key, make_product(library, key)).first;
    }
    Product& product = found->second;
    product.a.set_data_handle(const_cast<void*>(a.data));
    product.b.set_data_handle(const_cast<void*>(b.data));
    product.c.set_data_handle(const_cast<void*>(c.data));
    if (bias) product.bias.set_data_handle(const_cast<void*>(bias));
    dnnl::error::wrap_c_api(dnnl_primitive_execute(product.primitive.get(), library.stream.get(),
                                                   static_cast<int>(product.arguments.size()), product.arguments.data()),
                            "a product was not carried out");
    library.stream.wait();
  } catch (const dnnl::error& error) {
    fail({"matmul: oneDNN failed for m ", to_text(m), ", n ", to_text(n), ", k ", to_text(k), ": ", error.what()});
  }
}

}  // namespace binade::cpu
