// The cuBLASLt stand-in: every kind of product against a product in double, and every rule it enforces broken once.
#include <dlfcn.h>

#include <cmath>
#include <functional>

#include "cublaslt_product.h"

namespace binade::test {

namespace {

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
    const bool ta = e != CUBLASLT_EPILOGUE_BGRADA, tb = e == CUBLASLT_EPILOGUE_BGRADB;
    expect_product({.name = "f32, epilogue " + std::to_string(e), .ta = ta, .tb = tb, .epilogue = e, .beta = 2});
    for (const cudaDataType_t type : {CUDA_R_16BF, CUDA_R_16F}) {
      expect_product({.name = "16 bits, epilogue " + std::to_string(e), .a = type, .b = type, .c = type, .d = type, .tb = tb, .epilogue = e, .k = 24});
      expect_product({.name = "16 bits to float, epilogue " + std::to_string(e), .a = type, .b = type, .tb = tb, .epilogue = e});
    }
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
  expect_refused({.name = "", .ta = true, .epilogue = CUBLASLT_EPILOGUE_BGRADA}, "A as it lies");
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_BGRADB}, "B transposed");
  expect_refused({.name = "", .tb = true, .epilogue = CUBLASLT_EPILOGUE_BGRADB, .k = 1}, "k > 1");
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_DGELU, .k = 1}, "k > 1");
  expect_refused({.name = "", .a = bf16, .b = bf16, .tb = true, .epilogue = CUBLASLT_EPILOGUE_BGRADB}, "type of D", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, std::int32_t{CUDA_R_16BF}); });
  expect_refused({.name = "", .a = bf16, .b = bf16, .epilogue = CUBLASLT_EPILOGUE_GELU_AUX}, "type of D", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, std::int32_t{CUDA_R_16BF}); });
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_GELU_AUX, .batch = 2}, "AUX_BATCH_STRIDE", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, std::int64_t{24 * 16 + 4}); });
  expect_refused({.name = "", .epilogue = CUBLASLT_EPILOGUE_GELU_AUX, .batch = 2}, "AUX_BATCH_STRIDE", [](Product& p) { p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, std::int64_t{24 * 16 - 8}); });
  expect_refused({.name = "", .a = f64, .b = f64, .c = f64, .d = f64, .compute = CUBLAS_COMPUTE_64F, .epilogue = CUBLASLT_EPILOGUE_BIAS}, "COMPUTE_64F");
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

TEST_F(CublasLt, EpilogueVectorsAreAsAlignedAsTheHeuristicSawThem) {
  for (const auto key : {CUBLASLT_MATMUL_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER}) {
    Product p({.name = "", .epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS});
    p.upload();
    ASSERT_EQ(p.ask(), CUBLAS_STATUS_SUCCESS);
    Bytes larger(std::size_t{1} << 12);
    must(cudaMemsetAsync(larger.data, 0, larger.size, p.stream));
    p.set(key, static_cast<void*>(larger.data + 16));
    EXPECT_EQ(p.call(), CUBLAS_STATUS_INVALID_VALUE);
    EXPECT_EQ(kinds(simt::take_findings()), "bad-argument");
    ASSERT_EQ(p.ask(), CUBLAS_STATUS_SUCCESS);  // asked anew, it knows
    EXPECT_EQ(p.call(), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(p.stream.synchronize(), cudaSuccess);
  }
}

TEST_F(CublasLt, TheHeuristicMayKnowNothing) {
  Product p({.name = ""});
  simt::fail_call("cublasLtMatmulAlgoGetHeuristic", 1, cudaErrorNotSupported);
  EXPECT_EQ(p.ask(), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(p.ask(), CUBLAS_STATUS_SUCCESS);
  cudaGetLastError();
}

// Several ways of computing one product: which are offered, how they round, how long they take, and who knows them.
TEST_F(CublasLt, OffersSeveralAlgorithms) {
  const auto offers = [](Product& p, std::uint32_t reductions) {
    cublasLtMatmulPreferenceSetAttribute(p.preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    std::vector<cublasLtMatmulHeuristicResult_t> found(16);
    int count = 0;
    EXPECT_EQ(cublasLtMatmulAlgoGetHeuristic(p.handle, p.desc, p.layout[0], p.layout[1], p.layout[2], p.layout[3], p.preference,
                                             16, found.data(), &count), CUBLAS_STATUS_SUCCESS);
    found.resize(static_cast<std::size_t>(count));
    return found;
  };
  const auto reduction = [](const cublasLtMatmulAlgo_t& algorithm) {
    std::uint32_t scheme = 99;
    EXPECT_EQ(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, nullptr),
              CUBLAS_STATUS_SUCCESS);
    return scheme;
  };
  // A sum of 518, in halves of 257 and 261: bf16 has 256, 260, 516 and 520, the ties go to even ones.
  Product p({.name = "", .a = CUDA_R_16BF, .b = CUDA_R_16BF, .c = CUDA_R_16BF, .d = CUDA_R_16BF, .m = 8, .n = 8, .k = 514});
  for (std::size_t i = 0; i < p.elements[0]; ++i) p.a.put(i, 1);
  for (std::size_t i = 0; i < p.elements[1]; ++i) p.b.put(i, i % 514 >= 257 && i % 514 < 261 ? 2 : 1);
  p.upload();
  EXPECT_EQ(offers(p, CUBLASLT_REDUCTION_SCHEME_NONE).size(), 3U);
  const auto exact = offers(p, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE), all = offers(p, CUBLASLT_REDUCTION_SCHEME_MASK);
  ASSERT_EQ(exact.size(), 4U);
  ASSERT_EQ(all.size(), 6U);
  EXPECT_EQ(all[3].state, CUBLAS_STATUS_NOT_SUPPORTED);
  std::vector<double> results, seconds;
  cudaEvent_t begin = nullptr, end = nullptr;
  must(cudaEventCreate(&begin));
  must(cudaEventCreate(&end));
  for (const auto& offer : all) {
    if (offer.state != CUBLAS_STATUS_SUCCESS) continue;
    cublasLtMatmulHeuristicResult_t checked{};
    EXPECT_EQ(cublasLtMatmulAlgoCheck(p.handle, p.desc, p.layout[0], p.layout[1], p.layout[2], p.layout[3], &offer.algo, &checked),
              CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(checked.workspaceSize, offer.workspaceSize);
    must(cudaEventRecord(begin, p.stream));
    ASSERT_EQ(p.call(p.da->data, offer.workspaceSize, &offer.algo), CUBLAS_STATUS_SUCCESS);
    must(cudaEventRecord(end, p.stream));
    results.push_back(p.download(p.dd, CUDA_R_16BF).get(0));
    float milliseconds = 0;
    must(cudaEventElapsedTime(&milliseconds, begin, end));
    seconds.push_back(1e-3 * static_cast<double>(milliseconds));
  }
  must(cudaEventDestroy(begin));
  must(cudaEventDestroy(end));
  EXPECT_EQ(results, (std::vector<double>{520, 520, 516, 516, 520}));
  for (std::size_t i = 1; i < seconds.size(); ++i) EXPECT_LT(seconds[i], seconds[0]) << "the first offer is the slowest";
  EXPECT_LT(std::max(seconds[2], seconds[3]), std::min(seconds[1], seconds[4])) << "rounding pays";
  EXPECT_EQ(reduction(all[1].algo), static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  EXPECT_EQ(reduction(all[2].algo), static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));

  Product other({.name = "", .a = CUDA_R_16BF, .b = CUDA_R_16BF, .c = CUDA_R_16BF, .d = CUDA_R_16BF, .m = 8, .n = 8, .k = 512});
  cublasLtMatmulHeuristicResult_t checked{};
  EXPECT_NE(cublasLtMatmulAlgoCheck(other.handle, other.desc, other.layout[0], other.layout[1], other.layout[2], other.layout[3],
                                    &all[0].algo, &checked), CUBLAS_STATUS_SUCCESS) << "an algorithm of another problem";
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
