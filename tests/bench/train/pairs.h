// Two things measured in turns, so that both see the same machine: what differs is what they cost.
#pragma once
#include <functional>
#include <vector>

namespace bench {

struct Pairs {
  std::vector<double> a, b;  // seconds of one run each, quiet pairs only
  int disturbed = 0;         // pairs that were dropped
  bool quiet = true;         // false: too few quiet pairs came, and all were taken

  std::vector<double> ratios() const;  // b / a of each pair
};
// Runs a and b in turns until `wanted` pairs were quiet, at most 3 times as many. A pair is disturbed where others took
// more than `tolerated` of this process's processor time meanwhile (clock.h). Short ones are run several times in a row,
// so that each measurement takes at least `least` seconds.
Pairs measure_pairs(const std::function<double()>& a, const std::function<double()>& b, int wanted,
                    double tolerated = 0.02, double least = 0.1);

}  // namespace bench
