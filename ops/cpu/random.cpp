// Random fills and dropout. Element i (row-major) uses word i of its draw; one Philox block serves four elements.
#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/blocks.h"
#include "binade/ops/cpu/random.h"

namespace binade::cpu {
namespace {

// The words [begin, begin + count) of a draw.
void philox_words(PhiloxState state, std::int64_t begin, std::int64_t count, std::uint32_t* words) {
  const auto first = static_cast<std::uint64_t>(begin), end = first + static_cast<std::uint64_t>(count);
  for (std::uint64_t block = first / 4; block * 4 < end; ++block) {
    const Philox4 four = philox(state, block);
    if (block * 4 >= first && block * 4 + 4 <= end) {
      std::copy_n(four.x, 4, words + (block * 4 - first));
      continue;
    }
    for (std::uint64_t lane = 0; lane < 4; ++lane) {
      const std::uint64_t i = block * 4 + lane;
      if (i >= first && i < end) words[i - first] = four.x[lane];
    }
  }
}

// y[i] = value(words of element i) for all elements, in blocks; `per_element` words each.
template <class C, class Value>
void fill_from_words(const TensorView& y, PhiloxState state, std::int64_t per_element, const Value& value) {
  const MergedDims merged = merge_dims<1>(y.shape, {y});
  parallel_for(y.numel(), elementwise_grain, [&](std::int64_t chunk_begin, std::int64_t chunk_end) {
    std::uint32_t words[2 * block_size];
    C values[block_size];
    for (std::int64_t begin = chunk_begin; begin < chunk_end; begin += block_size) {
      const std::int64_t end = std::min(begin + block_size, chunk_end), count = end - begin;
      philox_words(state, begin * per_element, count * per_element, words);
      for (std::int64_t i = 0; i < count; ++i) values[i] = value(words + i * per_element);
      const C* next = values;
      for_each_run(merged, 0, begin, end, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
        write_run(next, y.data + offset * size_of(y.dtype), y.dtype, stride, length);
        next += length;
      });
    }
  });
}

// The largest value of `dtype` below x, so that rounding cannot reach the excluded end of a range.
double value_below(double x, DType dtype) {
  if (!is_floating(dtype) || x == 0) return x;
  int exponent = 0;
  const double mantissa = std::frexp(x, &exponent);  // [1/2, 1): spacing is epsilon * 2^(exponent - 1)
  const double spacing = std::ldexp(epsilon(dtype), exponent - 1);
  return x - (mantissa == 0.5 ? spacing / 2 : spacing);
}

void uniform(TensorView y, PhiloxState state, double low, double high) {
  const double width = high - low, limit = std::max(low, value_below(high, y.dtype));
  fill_from_words<double>(y, state, 1, [&](const std::uint32_t* words) {
    return std::min(limit, low + width * static_cast<double>(uniform_from_word(words[0])));
  });
}

void normal(TensorView y, PhiloxState state, double mean, double stddev) {
  fill_from_words<double>(y, state, 2, [&](const std::uint32_t* words) {
    return mean + stddev * normal_from_words(words[0], words[1]);
  });
}

// The upper half of word times range: each value's share of the 2^32 words differs by at most one word.
void randint(TensorView y, PhiloxState state, std::int64_t low, std::int64_t high) {
  const auto range = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
  check(high > low && range <= (std::uint64_t{1} << 32), "randint: expected low < high and at most 2^32 values, got [",
        low, ", ", high, ")");
  fill_from_words<std::int64_t>(y, state, 1, [&](const std::uint32_t* words) {
    return low + static_cast<std::int64_t>((words[0] * range) >> 32);
  });
}

// Of the values of elements [first, first + count), at most a block.
template <class C>
void drop(C* values, std::int64_t first, std::int64_t count, PhiloxState state, double p) {
  const C scale = p < 1 ? static_cast<C>(1 / (1 - p)) : C(0);
  std::uint32_t words[block_size];
  philox_words(state, first, count, words);
  for (std::int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<double>(uniform_from_word(words[i])) >= p ? values[i] * scale : C(0);
  }
}

void dropout(TensorView x, TensorView y, PhiloxState state, double p) {
  const MergedDims merged = merge_dims<2>(y.shape, {x, y});
  const auto run = [&]<class C>() {
    parallel_for(y.numel(), elementwise_grain, [&](std::int64_t chunk_begin, std::int64_t chunk_end) {
      C values[block_size];
      for (std::int64_t begin = chunk_begin; begin < chunk_end; begin += block_size) {
        const std::int64_t end = std::min(begin + block_size, chunk_end);
        C* read = values;
        for_each_run(merged, 0, begin, end, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
          read_run(x.data + offset * size_of(x.dtype), x.dtype, stride, length, read);
          read += length;
        });
        drop(values, begin, end - begin, state, p);
        const C* next = values;
        for_each_run(merged, 1, begin, end, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
          write_run(next, y.data + offset * size_of(y.dtype), y.dtype, stride, length);
          next += length;
        });
      }
    });
  };
  if (x.dtype == DType::f64) return run.operator()<double>();
  run.operator()<float>();
}

}  // namespace

void dropout_run(const std::byte* x, std::byte* y, DType dtype, std::int64_t first, std::int64_t count,
                 PhiloxState state, double p) {
  const auto run = [&]<class C>() {
    C values[block_size];
    for (std::int64_t begin = 0; begin < count; begin += block_size) {
      const std::int64_t length = std::min(count - begin, block_size), at = begin * size_of(dtype);
      read_run(x + at, dtype, 1, length, values);
      drop(values, first + begin, length, state, p);
      write_run(static_cast<const C*>(values), y + at, dtype, 1, length);
    }
  };
  if (dtype == DType::f64) return run.operator()<double>();
  run.operator()<float>();
}

void provide_random();
void provide_random() {
  kernel::uniform.provide(DeviceType::cpu, uniform);
  kernel::normal.provide(DeviceType::cpu, normal);
  kernel::randint.provide(DeviceType::cpu, randint);
  kernel::dropout.provide(DeviceType::cpu, dropout);
}

}  // namespace binade::cpu
