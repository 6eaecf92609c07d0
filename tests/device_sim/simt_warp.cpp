// Warp operations. The last lane to arrive computes the results of all.
#include <bit>
#include <string>

#include "grid.h"

namespace simt {

namespace {

template <class F>
void for_lanes(unsigned mask, F&& body) {
  for (unsigned rest = mask; rest; rest &= rest - 1) body(static_cast<unsigned>(std::countr_zero(rest)));
}

// Lanes of `mask` hand in `value`; complete(warp) fills the results once all have.
template <class Complete>
std::uint64_t exchange(unsigned mask, std::uint64_t value, Site site, Complete&& complete) {
  Grid& grid = the_grid();
  Warp& warp = grid.warp();
  const unsigned self = lane();
  warp.value[self] = value;
  if (grid.meet(mask, site)) {
    complete(warp);
    grid.leave(mask);
  }
  return warp.result[self];
}

}  // namespace

std::uint64_t warp_shuffle(unsigned mask, std::uint64_t value, unsigned source_lane, Site site) {
  the_grid().warp().source[lane()] = static_cast<std::uint8_t>(source_lane);
  return exchange(mask, value, site, [&](Warp& warp) {
    for_lanes(mask, [&](unsigned l) {
      if (!(mask >> warp.source[l] & 1)) {
        the_grid().fail(cudaErrorLaunchFailure, "divergent-warp",
                        "lane " + std::to_string(l) + " shuffles from lane " + std::to_string(warp.source[l]) +
                            ", which the mask does not name, at " + text_of(site));
      }
      warp.result[l] = warp.value[warp.source[l]];
    });
  });
}

unsigned warp_ballot(unsigned mask, bool predicate, Site site) {
  return static_cast<unsigned>(exchange(mask, predicate, site, [&](Warp& warp) {
    std::uint64_t votes = 0;
    for_lanes(mask, [&](unsigned l) { votes |= warp.value[l] << l; });
    for_lanes(mask, [&](unsigned l) { warp.result[l] = votes; });
  }));
}

unsigned warp_match(unsigned mask, std::uint64_t value, Site site) {
  return static_cast<unsigned>(exchange(mask, value, site, [&](Warp& warp) {
    for_lanes(mask, [&](unsigned l) {
      std::uint64_t equal = 0;
      for_lanes(mask, [&](unsigned other) { equal |= std::uint64_t{warp.value[other] == warp.value[l]} << other; });
      warp.result[l] = equal;
    });
  }));
}

std::uint64_t warp_reduce(unsigned mask, std::uint64_t value, std::uint64_t (*combine)(std::uint64_t, std::uint64_t),
                          Site site) {
  return exchange(mask, value, site, [&](Warp& warp) {
    const auto first = static_cast<unsigned>(std::countr_zero(mask));
    std::uint64_t sum = warp.value[first];
    for_lanes(mask & (mask - 1), [&](unsigned l) { sum = combine(sum, warp.value[l]); });
    for_lanes(mask, [&](unsigned l) { warp.result[l] = sum; });
  });
}

void warp_sync(unsigned mask, Site site) {
  exchange(mask, 0, site, [](Warp& warp) { ++warp.epoch; });
}

unsigned active_mask() { return the_grid().warp().alive; }

}  // namespace simt
