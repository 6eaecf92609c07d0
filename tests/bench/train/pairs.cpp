#include "pairs.h"

#include <cmath>

#include "clock.h"

namespace bench {

namespace {

// Mean seconds of `times` runs.
double seconds_of(const std::function<double()>& run, int times) {
  double sum = 0;
  for (int i = 0; i < times; ++i) sum += run();
  return sum / times;
}
int times_for(const std::function<double()>& run, double least) {
  const double once = std::min(run(), run());
  return once >= least ? 1 : static_cast<int>(std::ceil(std::min(least / std::max(once, 1e-9), 1e6)));
}

}  // namespace

std::vector<double> Pairs::ratios() const {
  std::vector<double> result;
  for (std::size_t i = 0; i < a.size(); ++i) result.push_back(b[i] / a[i]);
  return result;
}

Pairs measure_pairs(const std::function<double()>& a, const std::function<double()>& b, int wanted, double tolerated,
                    double least) {
  const int times_a = times_for(a, least), times_b = times_for(b, least);
  Pairs all, quiet;
  for (int i = 0; i < 3 * wanted && static_cast<int>(quiet.a.size()) < wanted; ++i) {
    const Disturbance disturbance;
    const double seconds_a = seconds_of(a, times_a), seconds_b = seconds_of(b, times_b);
    const bool disturbed = disturbance.share() > tolerated;
    for (Pairs* pairs : {&all, &quiet}) {
      if (pairs == &quiet && disturbed) continue;
      pairs->a.push_back(seconds_a);
      pairs->b.push_back(seconds_b);
    }
    quiet.disturbed += disturbed ? 1 : 0;
  }
  if (static_cast<int>(quiet.a.size()) >= wanted) return quiet;
  all.quiet = false;
  all.disturbed = quiet.disturbed;
  return all;
}

}  // namespace bench
