// Wall time, medians, and whether somebody else used the processors meanwhile.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace bench {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The value at `part` of the sorted values: 0.5 is the median, 0.25 and 0.75 the quartiles; interpolated.
inline double quantile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  const double position = part * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(position), above = std::min(below + 1, values.size() - 1);
  return values[below] + (position - static_cast<double>(below)) * (values[above] - values[below]);
}
inline double median(const std::vector<double>& values) { return quantile(values, 0.5); }

// How much of this process's processor time others took, from its start to the call of share(): the time its threads
// could have run but did not (Linux's run delay), and the time the hypervisor gave to other machines. 0 where the system
// does not say.
class Disturbance {
 public:
  Disturbance();
  double share() const;  // of the wall time of `threads` threads
 private:
  double start_, delay_, stolen_;
};

int thread_count();  // what OpenMP, and so binade and oneDNN, will use

}  // namespace bench
