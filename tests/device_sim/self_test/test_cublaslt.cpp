// The cuBLASLt stand-in: every kind of product against a product in double, and every rule it enforces broken once.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <dlfcn.h>

#include <cmath>
#include <functional>
#include <optional>

#include "device.h"

namespace binade::test {

namespace {

struct Matmul {  // column-major, as the library sees it
  std::string name;
  cudaDataType_t a = CUDA_R_32F, b = CUDA_R_32F, c = CUDA_R_32F, d = CUDA_R_32F;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  bool ta = false, tb = false;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  double alpha = 1, beta = 0;
  int batch = 1, m = 24, n = 16, k = 40, padding = 0;
  bool device_scalars = false, shared_a = false;
  double a_scale = 1, b_scale = 1, d_scale = 1;
};

std::size_t size_of(cudaDataType_t type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : type == CUDA_R_16F || type == CUDA_R_16BF ? 2 : 1;
}
double unit_of(cudaDataType_t type) {  // half a unit in the last place, relative
  switch (type) {
    case CUDA_R_64F: return 0x1p-53;
    case CUDA_R_32F: return 0x1p-24;
    case CUDA_R_16F: return 0x1p-11;
    case CUDA_R_16BF: return 0x1p-8;
    case CUDA_R_8F_E4M3: return 0x1p-4;
    default: return 0x1p-3;
  }
}

// Elements of one type in host bytes.
struct Elements {
  Elements(cudaDataType_t t, std::size_t n) : type(t), bytes(n * size_of(t)) {}
  double get(std::size_t i) const {
    const void* p = bytes.data() + i * size_of(type);
    switch (type) {
      case CUDA_R_64F: return *static_cast<const double*>(p);
      case CUDA_R_32F: return *static_cast<const float*>(p);
      case CUDA_R_16F: return __half2float(*static_cast<const __half*>(p));
      case CUDA_R_16BF: return __bfloat162float(*static_cast<const __nv_bfloat16*>(p));
      case CUDA_R_8F_E4M3: return static_cast<float>(*static_cast<const __nv_fp8_e4m3*>(p));
      default: return static_cast<float>(*static_cast<const __nv_fp8_e5m2*>(p));
    }
  }
  void put(std::size_t i, double value) {
    void* p = bytes.data() + i * size_of(type);
    switch (type) {
      case CUDA_R_64F: *static_cast<double*>(p) = value; return;
      case CUDA_R_32F: *static_cast<float*>(p) = static_cast<float>(value); return;
      case CUDA_R_16F: *static_cast<__half*>(p) = __float2half(static_cast<float>(value)); return;
      case CUDA_R_16BF: *static_cast<__nv_bfloat16*>(p) = __float2bfloat16(static_cast<float>(value)); return;
      case CUDA_R_8F_E4M3: *static_cast<__nv_fp8_e4m3*>(p) = __nv_fp8_e4m3(static_cast<float>(value)); return;
      default: *static_cast<__nv_fp8_e5m2*>(p) = __nv_fp8_e5m2(static_cast<float>(value)); return;
    }
  }
  void fill(unsigned seed) {  // in [-1, 1], no exact thirds of the range in any format
    for (std::size_t i = 0; i < bytes.size() / size_of(type); ++i) {
      seed = seed * 1664525U + 1013904223U;
      put(i, (static_cast<double>(seed >> 8) / 8388608.0 - 1.0));
    }
  }
  cudaDataType_t type;
  std::vector<unsigned char> bytes;
};

using Bytes = Buffer<unsigned char>;

// Descriptors, operands and a call, with a place where a test may change each thing.
class Product {
 public:
  explicit Product(const Matmul& matmul) : t(matmul), a(t.a, 0), b(t.b, 0), c(t.c, 0), aux(t.d, 0), bias(t.d, 0) {
    EXPECT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
    const cudaDataType_t scale = t.compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
    EXPECT_EQ(cublasLtMatmulDescCreate(&desc, t.compute, scale), CUBLAS_STATUS_SUCCESS);
    const cublasOperation_t ops[] = {t.ta ? CUBLAS_OP_T : CUBLAS_OP_N, t.tb ? CUBLAS_OP_T : CUBLAS_OP_N};
    set(CUBLASLT_MATMUL_DESC_TRANSA, ops[0]);
    set(CUBLASLT_MATMUL_DESC_TRANSB, ops[1]);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, t.epilogue);
    const int rows[] = {t.ta ? t.k : t.m, t.tb ? t.n : t.k, t.m, t.m}, cols[] = {t.ta ? t.m : t.k, t.tb ? t.k : t.n, t.n, t.n};
    const cudaDataType_t types[] = {t.a, t.b, t.c, t.d};
    for (int i = 0; i < 4; ++i) {
      ld[i] = rows[i] + t.padding;
      stride[i] = i == 0 && t.shared_a ? 0 : static_cast<std::int64_t>(ld[i]) * cols[i];
      cublasLtMatrixLayoutCreate(&layout[i], types[i], static_cast<std::uint64_t>(rows[i]), static_cast<std::uint64_t>(cols[i]), ld[i]);
      const std::int32_t count = t.batch;
      cublasLtMatrixLayoutSetAttribute(layout[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
      cublasLtMatrixLayoutSetAttribute(layout[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride[i], sizeof stride[i]);
      elements[i] = static_cast<std::size_t>(ld[i]) * static_cast<std::size_t>(cols[i] * t.batch);
    }
    a = Elements(t.a, elements[0]), b = Elements(t.b, elements[1]), c = Elements(t.c, elements[2]);
    a.fill(1), b.fill(2), c.fill(3);
    const cudaDataType_t bias_type = t.d == CUDA_R_8F_E4M3 || t.d == CUDA_R_8F_E5M2 ? t.c : t.d;
    bias = Elements(bias_type, static_cast<std::size_t>(std::max(t.m, t.n)));
    bias.fill(4);
    aux = Elements(t.d, static_cast<std::size_t>(t.m * t.n * t.batch));
    aux.fill(5);
    cublasLtMatmulPreferenceCreate(&preference);
    const std::size_t most = 1 << 20;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
  }
  ~Product() {
    for (cublasLtMatrixLayout_t l : layout) cublasLtMatrixLayoutDestroy(l);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  template <class T>
  void set(cublasLtMatmulDescAttributes_t key, const T& value) {
    EXPECT_EQ(cublasLtMatmulDescSetAttribute(desc, key, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  }
  cublasStatus_t ask() {
    int found = 0;
    return cublasLtMatmulAlgoGetHeuristic(handle, desc, layout[0], layout[1], layout[2], layout[3], preference, 1, &heuristic, &found);
  }
  void upload() {
    da.emplace(a.bytes, stream), db.emplace(b.bytes, stream), dc.emplace(c.bytes, stream);
    dd.emplace(elements[3] * size_of(t.d));
    must(cudaMemsetAsync(dd->data, 0x7f, dd->size, stream));  // padding must survive
    workspace.emplace(std::size_t{1} << 20);
    dbias.emplace(bias.bytes, stream), daux.emplace(aux.bytes, stream);
    scales.emplace(std::vector<float>{static_cast<float>(t.a_scale), static_cast<float>(t.b_scale), static_cast<float>(t.d_scale), 0}, stream);
    if (t.epilogue & (CUBLASLT_EPILOGUE_BIAS | CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB | 16)) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(dbias->data));
    if (t.epilogue & 128) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(daux->data));
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t{t.m});
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, std::int64_t{t.m} * t.n);
    }
    if (size_of(t.a) == 1) {
      set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales->data);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales->data + 1);
    }
    if (size_of(t.d) == 1) {
      set(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, scales->data + 2);
      set(CUBLASLT_MATMUL_DESC_AMAX_D_POINTER, scales->data + 3);
    }
    scalars64.emplace(std::vector<double>{t.alpha, t.beta}, stream);
    scalars32.emplace(std::vector<float>{static_cast<float>(t.alpha), static_cast<float>(t.beta)}, stream);
    if (t.device_scalars) set(CUBLASLT_MATMUL_DESC_POINTER_MODE, std::int32_t{CUBLASLT_POINTER_MODE_DEVICE});
  }
  cublasStatus_t call() { return call(da->data, heuristic.workspaceSize, &heuristic.algo); }
  cublasStatus_t call(const unsigned char* a_data, std::size_t workspace_size, const cublasLtMatmulAlgo_t* algo) {
    const bool f64 = t.compute == CUBLAS_COMPUTE_64F;
    const float alpha32 = static_cast<float>(t.alpha), beta32 = static_cast<float>(t.beta);
    const void* alpha = f64 ? static_cast<const void*>(&t.alpha) : &alpha32;
    const void* beta = f64 ? static_cast<const void*>(&t.beta) : &beta32;
    if (t.device_scalars) {
      alpha = f64 ? static_cast<const void*>(scalars64->data) : scalars32->data;
      beta = f64 ? static_cast<const void*>(scalars64->data + 1) : scalars32->data + 1;
    }
    return cublasLtMatmul(handle, desc, alpha, a_data, layout[0], db->data, layout[1], beta, dc->data, layout[2],
                          dd->data, layout[3], algo, workspace->data, workspace_size, stream);
  }
  Elements download(const std::optional<Bytes>& from, cudaDataType_t type) {
    Elements e(type, from->size / size_of(type));
    e.bytes = from->read(stream);
    return e;
  }

  Matmul t;
  Stream stream;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t layout[4] = {};
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t heuristic{};
  int ld[4] = {};
  std::int64_t stride[4] = {};
  std::size_t elements[4] = {};
  Elements a, b, c, aux, bias;
  std::optional<Bytes> da, db, dc, dd, dbias, daux, workspace;
  std::optional<Buffer<float>> scales, scalars32;
  std::optional<Buffer<double>> scalars64;
};

double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x))); }
double gelu_slope(double x) {  // by central differences of the above
  const double h = 1e-5;
  return (gelu(x + h) - gelu(x - h)) / (2 * h);
}

double tf32(double x) {  // 11 bits of significand
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 11)), exponent - 11);
}

void expect_product(const Matmul& t) {
  SCOPED_TRACE(t.name);
  Product p(t);
  p.upload();
  ASSERT_EQ(p.ask(), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(p.call(), CUBLAS_STATUS_SUCCESS);
  const Elements d = p.download(p.dd, t.d), bias_after = p.download(p.dbias, p.bias.type), aux_after = p.download(p.daux, p.aux.type);
  const auto e = t.epilogue;
  const bool with_bias = e == CUBLASLT_EPILOGUE_BIAS || e == CUBLASLT_EPILOGUE_RELU_BIAS || e == CUBLASLT_EPILOGUE_GELU_BIAS || e == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  const bool with_gelu = e == CUBLASLT_EPILOGUE_GELU || e == CUBLASLT_EPILOGUE_GELU_BIAS || e == CUBLASLT_EPILOGUE_GELU_AUX || e == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  const bool with_dgelu = e == CUBLASLT_EPILOGUE_DGELU || e == CUBLASLT_EPILOGUE_DGELU_BGRAD;
  // Terms are at most 1 times the scales; sums of k terms in FP32 (FP64) err by k roundings of at most k, and D is
  // rounded once. The epilogue's own arithmetic is counted as 16 roundings more; |GELU'| is below 1.2.
  const double sum_unit = t.compute == CUBLAS_COMPUTE_64F ? 0x1p-53 : 0x1p-24;
  const double factor = std::abs(t.alpha) * t.a_scale * t.b_scale;
  const double bound = factor * t.k + std::abs(t.beta) + 1;
  const double sum_error = 1.2 * (t.k + 16) * sum_unit * bound + (with_dgelu ? 1e-9 * bound : 0);
  double largest = 0;
  std::vector<double> gradient(static_cast<std::size_t>(std::max(t.m, t.n)));
  const auto A = [&](int q, int i, int l) { return p.a.get(static_cast<std::size_t>(q * p.stride[0] + (t.ta ? i * p.ld[0] + l : l * p.ld[0] + i))); };
  const auto B = [&](int q, int l, int j) { return p.b.get(static_cast<std::size_t>(q * p.stride[1] + (t.tb ? l * p.ld[1] + j : j * p.ld[1] + l))); };
  const bool rounds = t.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  for (int q = 0; q < t.batch; ++q) {
    for (int j = 0; j < t.n; ++j) {
      for (int i = 0; i < t.m; ++i) {
        double sum = 0;
        for (int l = 0; l < t.k; ++l) sum += rounds ? tf32(A(q, i, l)) * tf32(B(q, l, j)) : A(q, i, l) * B(q, l, j);
        double value = factor * (t.alpha < 0 ? -1 : 1) * sum;
        if (t.beta != 0) value += t.beta * p.c.get(static_cast<std::size_t>(q * p.stride[2] + j * p.ld[2] + i));
        if (with_bias) value += p.bias.get(static_cast<std::size_t>(i));
        const auto at = static_cast<std::size_t>((q * t.n + j) * t.m + i);
        if (e == CUBLASLT_EPILOGUE_GELU_AUX || e == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
          ASSERT_NEAR(aux_after.get(at), value, unit_of(t.d) * std::abs(value) + sum_error);
        }
        if (with_gelu) value = gelu(value);
        if (with_dgelu) value *= gelu_slope(p.aux.get(at));
        if (e == CUBLASLT_EPILOGUE_RELU || e == CUBLASLT_EPILOGUE_RELU_BIAS) value = std::max(value, 0.0);
        if (e == CUBLASLT_EPILOGUE_DGELU_BGRAD) gradient[static_cast<std::size_t>(i)] += value;
        largest = std::max(largest, std::abs(value));
        value *= t.d_scale;
        const double got = d.get(static_cast<std::size_t>(q * p.stride[3] + j * p.ld[3] + i));
        ASSERT_NEAR(got, value, unit_of(t.d) * std::abs(value) + sum_error * t.d_scale + (size_of(t.d) == 1 ? 0x1p-10 : 0)) << q << ' ' << i << ' ' << j;
      }
      for (int i = t.m; i < p.ld[3]; ++i) {  // the padding still holds what was there before
        const auto* bytes = d.bytes.data() + static_cast<std::size_t>(q * p.stride[3] + j * p.ld[3] + i) * size_of(t.d);
        ASSERT_EQ(bytes[0], 0x7f);
      }
    }
  }
  if (e == CUBLASLT_EPILOGUE_BGRADA || e == CUBLASLT_EPILOGUE_BGRADB || e == CUBLASLT_EPILOGUE_DGELU_BGRAD) {
    const int length = e == CUBLASLT_EPILOGUE_BGRADB ? t.n : t.m;
    for (int i = 0; i < length; ++i) {
      double expected = gradient[static_cast<std::size_t>(i)];
      for (int l = 0; l < t.k && e != CUBLASLT_EPILOGUE_DGELU_BGRAD; ++l) expected += e == CUBLASLT_EPILOGUE_BGRADA ? A(0, i, l) : B(0, l, i);
      ASSERT_NEAR(bias_after.get(static_cast<std::size_t>(i)), expected, unit_of(p.bias.type) * std::abs(expected) + t.n * sum_error);
    }
  }
  if (size_of(t.d) == 1) {
    EXPECT_NEAR(p.scales->read(p.stream)[3], largest, sum_error + 1e-6 * largest);
  }
  EXPECT_GT(largest, 0.5) << "nothing was computed";
}

class CublasLt : public DeviceSim {};

}  // namespace

TEST_F(CublasLt, OperationsBatchesAndScalars) {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      expect_product({.name = "plain", .ta = ta, .tb = tb});
      expect_product({.name = "odd sizes, padded", .ta = ta, .tb = tb, .m = 13, .n = 7, .k = 29, .padding = 3});
      expect_product({.name = "beta", .ta = ta, .tb = tb, .alpha = -0.5, .beta = 2});
      expect_product({.name = "batches", .ta = ta, .tb = tb, .batch = 3, .padding = 1});
    }
  }
  expect_product({.name = "one A for the batch", .batch = 3, .shared_a = true});
  expect_product({.name = "scalars on the device", .alpha = 3, .beta = -1, .device_scalars = true});
}

TEST_F(CublasLt, Types) {
  for (const cudaDataType_t type : {CUDA_R_16F, CUDA_R_16BF}) {
    expect_product({.name = "16 bits", .a = type, .b = type, .c = type, .d = type, .ta = true, .beta = 1});
    expect_product({.name = "16 bits to float", .a = type, .b = type});
  }
  expect_product({.name = "TF32", .compute = CUBLAS_COMPUTE_32F_FAST_TF32, .k = 100});
  expect_product({.name = "f64", .a = CUDA_R_64F, .b = CUDA_R_64F, .c = CUDA_R_64F, .d = CUDA_R_64F, .compute = CUBLAS_COMPUTE_64F, .beta = 1, .device_scalars = true});
}

TEST_F(CublasLt, Fp8) {
  constexpr cudaDataType_t e4m3 = CUDA_R_8F_E4M3, e5m2 = CUDA_R_8F_E5M2, bf16 = CUDA_R_16BF;
  const Matmul base{.name = "to bf16", .a = e4m3, .b = e4m3, .c = bf16, .d = bf16, .ta = true, .m = 32, .n = 16, .k = 48, .a_scale = 0.25, .b_scale = 2};
  expect_product(base);
  Matmul t = base;
  t.name = "e4m3 x e5m2, beta", t.b = e5m2, t.beta = 1;
  expect_product(t);
  t = base, t.name = "to f32", t.c = t.d = CUDA_R_32F;
  expect_product(t);
  t = base, t.name = "to e4m3", t.d = e4m3, t.d_scale = 4;
  expect_product(t);
  t = base, t.name = "bias", t.epilogue = CUBLASLT_EPILOGUE_BIAS;
  expect_product(t);
}

TEST_F(CublasLt, Epilogues) {
  for (const auto e : {CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_GELU,
                       CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                       CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB}) {
    expect_product({.name = "f32, epilogue " + std::to_string(e), .ta = true, .epilogue = e});
    expect_product({.name = "bf16, epilogue " + std::to_string(e), .a = CUDA_R_16BF, .b = CUDA_R_16BF, .c = CUDA_R_16BF, .d = CUDA_R_16BF, .epilogue = e, .k = 24});
  }
  expect_product({.name = "bias and batches", .epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS, .batch = 2});
}

// ---- rules

namespace {
void expect_refused(const Matmul& t, const std::string& why, const std::function<void(Product&)>& change = {}) {
  SCOPED_TRACE(why);
  Product p(t);
  p.upload();
  if (change) change(p);
  EXPECT_EQ(p.ask(), CUBLAS_STATUS_NOT_SUPPORTED);
  const auto findings = simt::take_findings();
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_NE(findings[0].text.find(why), std::string::npos) << findings[0].text;
}
}  // namespace

TEST_F(CublasLt, RefusesWhatTheDocumentationDoes) {
  constexpr cudaDataType_t e4m3 = CUDA_R_8F_E4M3, e5m2 = CUDA_R_8F_E5M2, bf16 = CUDA_R_16BF, f16 = CUDA_R_16F, f64 = CUDA_R_64F;
  const Matmul fp8{.name = "", .a = e4m3, .b = e4m3, .c = bf16, .d = bf16, .ta = true, .m = 32, .n = 16, .k = 48};
  Matmul t = fp8;
  t.ta = false;
  expect_refused(t, "TN");
  t = fp8, t.tb = true;
  expect_refused(t, "TN");
  t = fp8, t.k = 40;
  expect_refused(t, "multiples of 16");
  t = fp8, t.n = 8;
  expect_refused(t, "multiples of 16");
  t = fp8, t.padding = 4;
  expect_refused(t, "leading dimensions");
  t = fp8, t.a = t.b = e5m2;
  expect_refused(t, "E5M2 x E5M2");
  t = fp8, t.b = bf16;
  expect_refused(t, "FP8 goes with FP8 only");
  t = fp8, t.c = f16;
  expect_refused(t, "C and D");
  expect_refused(fp8, "scale or maximum of D", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, p.scales->data); });
  simt::settings().capability = 80;
  expect_refused(fp8, "8.9");
  simt::settings().capability = 90;
  expect_refused({.name = "", .a = bf16, .b = f16, .c = bf16, .d = bf16}, "A and B differ");
  expect_refused({.name = "", .a = bf16, .b = bf16, .c = CUDA_R_32F, .d = bf16}, "C and D differ");
  expect_refused({.name = "", .a = f16, .b = f16, .c = bf16, .d = bf16}, "type of A");
  expect_refused({.name = "", .a = f64, .b = f64, .c = f64, .d = f64}, "COMPUTE_64F");
  expect_refused({.name = "", .compute = CUBLAS_COMPUTE_64F}, "COMPUTE_64F");
  expect_refused({.name = "", .a = bf16, .b = bf16, .compute = CUBLAS_COMPUTE_32F_FAST_TF32}, "FAST_TF32");
  expect_refused({.name = ""}, "scales of A and B", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.scales->data); });
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_BIAS}, "BIAS_POINTER", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(nullptr)); });
  expect_refused({.name = "", .a = bf16, .b = bf16, .c = bf16, .d = bf16, .epilogue = CUBLASLT_EPILOGUE_BIAS}, "bias has a type", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, std::int32_t{CUDA_R_32F}); });
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_GELU_AUX}, "AUX_LD", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t{25}); });
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_DGELU}, "AUX_POINTER", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(nullptr)); });
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_BGRADA, .batch = 2}, "batches");
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_RELU_AUX}, "epilogue");
  const auto relayout = [](int which, std::uint64_t rows, std::uint64_t cols, std::int64_t ld) {
    return [=](Product& p) {
      cublasLtMatrixLayoutDestroy(p.layout[which]);
      cublasLtMatrixLayoutCreate(&p.layout[which], CUDA_R_32F, rows, cols, ld);
    };
  };
  expect_refused({.name = ""}, "inner sizes", relayout(1, 41, 16, 41));
  expect_refused({.name = ""}, "D is not", relayout(3, 24, 15, 24));
  expect_refused({.name = ""}, "leading dimension", relayout(3, 24, 16, 23));
  expect_refused({.name = "", .batch = 2}, "batch counts", relayout(3, 24, 16, 24));
}

TEST_F(CublasLt, RefusesAnAlgorithmOfAnotherOrigin) {
  const Matmul t{.name = "", .a = CUDA_R_16BF, .b = CUDA_R_16BF, .c = CUDA_R_16BF, .d = CUDA_R_16BF};
  Product p(t);
  Matmul other_t = t;
  other_t.k = 48;
  Product other(other_t);
  p.upload();
  other.upload();
  ASSERT_EQ(p.ask(), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(other.ask(), CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulAlgo_t invented{};
  EXPECT_EQ(p.call(p.da->data, 1 << 20, nullptr), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(p.call(p.da->data, 1 << 20, &invented), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(p.call(p.da->data, 1 << 20, &other.heuristic.algo), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(p.call(p.da->data, p.heuristic.workspaceSize - 1, &p.heuristic.algo), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(p.call(p.da->data + 16, 1 << 20, &p.heuristic.algo), CUBLAS_STATUS_INVALID_VALUE) << "256 bytes were promised";
  EXPECT_EQ(kinds(simt::take_findings()), "bad-argument bad-argument bad-argument bad-argument bad-argument");
}

TEST_F(CublasLt, MemoryIsCheckedLikeAKernels) {
  const auto fails = [](const std::string& kind, const std::function<void(Product&)>& change) {
    {
      Product p({.name = ""});
      p.upload();
      change(p);
      ASSERT_EQ(p.ask(), CUBLAS_STATUS_SUCCESS);
      ASSERT_EQ(p.call(), CUBLAS_STATUS_SUCCESS);
      EXPECT_EQ(p.stream.synchronize(), cudaErrorLaunchFailure);
      EXPECT_EQ(kinds(simt::take_findings()), kind);
    }
    simt::reset_simulator();
  };
  fails("uninitialised-read", [](Product& p) { p.da.emplace(p.a.bytes.size()); });
  fails("out-of-bounds", [](Product& p) { p.dd.emplace(p.elements[3] * 4 - 4); });
  fails("out-of-bounds", [](Product& p) { p.workspace.emplace(std::size_t{1000}); });
  fails("bad-pointer", [](Product& p) {
    static float host[1 << 10] = {};
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    p.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(host));
  });
}

TEST_F(CublasLt, TheWorkspaceIsScribbledOn) {
  Product p({.name = ""});
  p.upload();
  must(cudaMemsetAsync(p.workspace->data, 0, p.workspace->size, p.stream));
  ASSERT_EQ(p.ask(), CUBLAS_STATUS_SUCCESS);
  ASSERT_GT(p.heuristic.workspaceSize, 0U);
  ASSERT_EQ(p.call(), CUBLAS_STATUS_SUCCESS);
  const auto after = p.workspace->read(p.stream);
  EXPECT_EQ(after[0], 0xff);
  EXPECT_EQ(after[p.heuristic.workspaceSize - 1], 0xff);
  EXPECT_EQ(after[p.heuristic.workspaceSize], 0);
}

TEST_F(CublasLt, UnknownAttributesAndSizesAreRefused) {
  Product p({.name = ""});
  const std::int64_t value = 0;
  EXPECT_NE(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &value, 8), CUBLAS_STATUS_SUCCESS);
  EXPECT_NE(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSC, &value, 4), CUBLAS_STATUS_SUCCESS);
  EXPECT_NE(cublasLtMatrixLayoutSetAttribute(p.layout[0], CUBLASLT_MATRIX_LAYOUT_TYPE, &value, 4), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(simt::take_findings().size(), 3U);
}

TEST_F(CublasLt, IsFoundByDlopen) {
  void* library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr);
  EXPECT_EQ(dlsym(library, "cublasLtMatmul"), reinterpret_cast<void*>(&cublasLtMatmul));
  EXPECT_EQ(dlopen("libcudnn.so.9", RTLD_NOW), nullptr);
  EXPECT_NE(dlopen("libm.so.6", RTLD_NOW), nullptr);
}

}  // namespace binade::test
