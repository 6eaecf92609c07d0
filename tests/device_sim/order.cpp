#include "order.h"

#include <cstdio>
#include <cstdlib>

namespace simt {

std::uint32_t EpochLog::next() {
  if (++now_ == 0xffffffffU) {
    std::fputs("simulated device: out of epochs; run less in one process\n", stderr);
    std::abort();
  }
  return now_;
}

std::uint32_t EpochLog::begin(Stamp operation, const char* name) {
  records_.push_back({next(), operation, name});
  return now_;
}

const EpochLog::Record& EpochLog::record_of(std::uint32_t epoch) const {
  static const Record nothing{0, {}, "nothing"};
  const auto after = std::upper_bound(records_.begin(), records_.end(), epoch,
                                      [](std::uint32_t e, const Record& r) { return e < r.first; });
  return after == records_.begin() ? nothing : *(after - 1);
}

EpochLog& epochs() {
  static auto* log = new EpochLog;
  return *log;
}

}  // namespace simt
