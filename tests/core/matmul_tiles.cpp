// Products cut into tiles: across rows, columns and the sum, with operands whose terms lie a multiple of 4 KiB apart.
// The data are small multiples of 1/4, so every sum is exact in f32 in any order, and judged bit by bit.
#include <gtest/gtest.h>
#include <omp.h>

#include <random>

#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor.h"
#include "binade/ops/ops.h"

namespace binade::test {

namespace {

struct Product {
  const char* name;
  std::int64_t batch, m, n, k;
  bool a_transposed, b_transposed;
};

std::vector<float> quarters(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = static_cast<float>(static_cast<int>(generator() % 15) - 7) / 4;
  return values;
}

class MatmulTiles : public ::testing::TestWithParam<Product> {
 protected:
  MatmulTiles() : threads_(omp_get_max_threads()) {}
  ~MatmulTiles() override { omp_set_num_threads(threads_); }

  Tensor a(DType dtype) const {
    const Tensor x = from_vector(a_, p_.a_transposed ? Shape{p_.batch, p_.k, p_.m} : Shape{p_.batch, p_.m, p_.k});
    return (p_.a_transposed ? x.transpose(-1, -2) : x).to(dtype);
  }
  Tensor b(DType dtype) const {
    const Tensor x = from_vector(b_, p_.b_transposed ? Shape{p_.n, p_.k} : Shape{p_.k, p_.n});
    return (p_.b_transposed ? x.t() : x).to(dtype).expand({p_.batch, p_.k, p_.n});
  }
  std::vector<float> expected(const std::vector<float>& start) const {
    std::vector<float> c = start;
    for (std::int64_t item = 0; item < p_.batch; ++item)
      for (std::int64_t i = 0; i < p_.m; ++i)
        for (std::int64_t l = 0; l < p_.k; ++l) {
          const std::int64_t row = p_.a_transposed ? (item * p_.k + l) * p_.m + i : (item * p_.m + i) * p_.k + l;
          const float value = a_[static_cast<std::size_t>(row)];
          float* to = c.data() + (item * p_.m + i) * p_.n;
          for (std::int64_t j = 0; j < p_.n; ++j)
            to[j] += value * b_[static_cast<std::size_t>(p_.b_transposed ? j * p_.k + l : l * p_.n + j)];
        }
    return c;
  }

  Product p_ = GetParam();
  std::vector<float> a_ = quarters(p_.batch * p_.m * p_.k, 1), b_ = quarters(p_.k * p_.n, 2);
  int threads_;
};

TEST_P(MatmulTiles, AreExactWhereEverySumIs) {
  const std::vector<float> start = quarters(p_.batch * p_.m * p_.n, 3), sums = expected(start);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Tensor c = from_vector(start, {p_.batch, p_.m, p_.n});
    kernel::matmul(a(dtype), b(dtype), Tensor(), c, {.accumulate = true, .precision = MatmulPrecision::high});
    EXPECT_EQ(c.to_vector<float>(), sums) << to_text(dtype);
  }
}

TEST_P(MatmulTiles, DoNotDependOnTheNumberOfThreads) {
  const Tensor x = randn({p_.batch, p_.a_transposed ? p_.k : p_.m, p_.a_transposed ? p_.m : p_.k});
  const Tensor left = p_.a_transposed ? x.transpose(-1, -2) : x;
  const auto product = [&](int threads) {
    omp_set_num_threads(threads);
    return matmul(left, b(DType::f32)).to_vector<float>();
  };
  const std::vector<float> one = product(1);
  EXPECT_EQ(one, product(2));
  EXPECT_EQ(one, product(3));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, MatmulTiles,
    ::testing::Values(Product{"small", 1, 24, 20, 31, false, false}, Product{"rows", 1, 1300, 40, 50, false, true},
                      Product{"columns", 1, 33, 1500, 70, false, false}, Product{"sum", 1, 70, 65, 5000, true, false},
                      Product{"packed_sum", 1, 640, 704, 2100, true, false},
                      Product{"a_terms_4KiB_apart", 1, 1024, 72, 130, true, false},
                      Product{"b_terms_4KiB_apart", 1, 72, 2048, 100, false, false},
                      Product{"both_4KiB_apart_in_batches", 3, 1024, 1024, 66, true, false},
                      Product{"batches_share_b", 5, 40, 130, 90, false, true}),
    [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace

}  // namespace binade::test
