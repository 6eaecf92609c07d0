// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// Element i of a draw is a function of (seed, offset, i) alone: the same on every backend, for any number of threads.
#pragma once
#include <cmath>
#include <cstdint>

namespace binade {

struct PhiloxState {  // names one draw; kernels receive it by value
  std::uint64_t seed = 0;
  std::uint64_t offset = 0;  // which draw of this seed
};

struct Philox4 {
  std::uint32_t x[4];
};

// The four words of counter block `block` of a draw.
constexpr Philox4 philox(PhiloxState state, std::uint64_t block) {
  std::uint32_t c[4] = {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                        static_cast<std::uint32_t>(state.offset), static_cast<std::uint32_t>(state.offset >> 32)};
  std::uint32_t k0 = static_cast<std::uint32_t>(state.seed), k1 = static_cast<std::uint32_t>(state.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c[0], p1 = std::uint64_t{0xCD9E8D57U} * c[2];
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1;
    c[1] = static_cast<std::uint32_t>(p1);
    c[3] = static_cast<std::uint32_t>(p0);
    c[0] = n0;
    c[2] = n2;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return {{c[0], c[1], c[2], c[3]}};
}

// Word `i` of a draw: element i belongs to block i / 4, lane i % 4.
constexpr std::uint32_t philox_word(PhiloxState state, std::uint64_t i) { return philox(state, i / 4).x[i % 4]; }

// Uniform in [0, 1): the upper 24 bits, exact in float.
constexpr float uniform_from_word(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24F; }

// Standard normal by Box-Muller from two words, in double: 53 bits are not needed, its accuracy is.
inline double normal_from_words(std::uint32_t a, std::uint32_t b) {
  const double u = (static_cast<double>(a) + 1.0) * 0x1p-32;  // (0, 1]
  const double v = static_cast<double>(b) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586476925 * v);
}

// The library's random stream, one per process: a seed and how many draws were taken from it.
void manual_seed(std::uint64_t seed);  // restarts the stream
PhiloxState next_draw();               // thread-safe; takes the next draw
PhiloxState random_state();            // the draw next_draw() would return; for checkpoints
void set_random_state(PhiloxState state);

}  // namespace binade
