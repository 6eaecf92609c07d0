// choose_tiling: the cheapest of some hundred candidates.
#include "binade/ops/cpu/matmul_tiling.h"

#include <algorithm>
#include <limits>

#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

namespace {

std::int64_t part(std::int64_t size, std::int64_t parts) {  // one of `parts` even parts, in whole vectors
  constexpr std::int64_t multiple = 16;
  return std::max<std::int64_t>(1, (chunk_count(size, parts) + multiple - 1) / multiple * multiple);
}

}  // namespace

// Times are in multiplications by one thread; the constants were measured in f32 with oneDNN 2.6 and AVX2.
Tiling choose_tiling(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k, bool strided,
                     std::int64_t processors) {
  constexpr double pack_limit = 0.0038;  // oneDNN packs, and is faster, where 1/m + 1/n is below; elsewhere reading
  constexpr double reading = 20;         // the operands takes the time of so many more rows and columns
  constexpr double call = 1e5;      // calling the library, waking a thread
  constexpr double element = 20;    // writing an element of a partial sum and reading it again
  constexpr double unequal = 0.1;   // of a tile: threads do not finish together
  constexpr std::int64_t smallest = 64, shortest = 128, trivial = std::int64_t{1} << 18;
  Tiling best{m, n, std::max<std::int64_t>(k, 1)};
  if (batch * m * n * k <= trivial) return best;
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](Tiling tile) {
    const auto rows = static_cast<double>(std::min(m, tile.m)), columns = static_cast<double>(std::min(n, tile.n));
    const std::int64_t pieces = chunk_count(k, tile.k);
    const std::int64_t tasks = batch * chunk_count(m, tile.m) * chunk_count(n, tile.n) * pieces;
    const double edges = 1 / rows + 1 / columns;
    tile.packed = edges < pack_limit;
    const double unpacked = 1 + reading * edges + (strided ? 0.4 : 0);
    const double one = rows * columns * static_cast<double>(tile.k) * (tile.packed ? 1 : unpacked) + call;
    const double sums = pieces > 1 ? element * static_cast<double>(batch * m * n * pieces) : 0;
    const double time = (static_cast<double>(chunk_count(tasks, processors)) + unequal) * one + sums;
    if (time >= least) return;
    least = time;
    best = tile;
  };
  const auto next = [](std::int64_t parts) { return parts + (parts + 3) / 4; };
  for (std::int64_t pieces = 1; pieces == 1 || (k / pieces >= shortest && pieces <= processors); pieces *= 2)
    for (std::int64_t down = 1; down == 1 || m / down >= smallest; down = next(down))
      for (std::int64_t across = 1; across == 1 || n / across >= smallest; across = next(across))
        consider({part(m, down), part(n, across), pieces == 1 ? k : part(k, pieces)});
  return best;
}

}  // namespace binade::cpu
