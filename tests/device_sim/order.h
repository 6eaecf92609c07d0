// Which operation is ordered after which: a vector clock per operation. Every stream (and every branch of a launched
// graph) is a lane; operation number `count` of lane l is ordered before an operation whose clock has at least `count`
// at l. Clocks are built when work is queued, so the verdict does not depend on when the queues happen to run.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt {

struct Stamp {  // names one operation
  std::uint32_t lane = 0;
  std::uint64_t count = 0;  // 0: before everything
};

class Clock {
 public:
  bool covers(Stamp s) const { return s.count == 0 || (s.lane < at_.size() && at_[s.lane] >= s.count); }
  void join(const Clock& other) {
    if (other.at_.size() > at_.size()) at_.resize(other.at_.size());
    for (std::size_t i = 0; i < other.at_.size(); ++i) at_[i] = std::max(at_[i], other.at_[i]);
  }
  void set(Stamp s) {
    if (s.lane >= at_.size()) at_.resize(s.lane + 1);
    at_[s.lane] = std::max(at_[s.lane], s.count);
  }

 private:
  std::vector<std::uint64_t> at_;
};

// Epochs number stretches of execution: a kernel takes a new one for every block and at every block barrier, any other
// operation takes one. The race shadow stores epochs; the log says which operation an epoch belonged to.
class EpochLog {
 public:
  std::uint32_t begin(Stamp operation, const char* name);  // a new operation; returns its first epoch
  std::uint32_t next();
  std::uint32_t now() const { return now_; }
  Stamp owner(std::uint32_t epoch) const { return record_of(epoch).stamp; }
  const char* name(std::uint32_t epoch) const { return record_of(epoch).name; }

 private:
  struct Record {
    std::uint32_t first;
    Stamp stamp;
    const char* name;
  };
  const Record& record_of(std::uint32_t epoch) const;
  std::vector<Record> records_;
  std::uint32_t now_ = 0;
};

EpochLog& epochs();

}  // namespace simt
