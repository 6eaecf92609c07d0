// What a Work handle shares with the group that carries it out.
#pragma once
#include <condition_variable>
#include <exception>
#include <mutex>

#include "binade/distributed/process_group.h"

namespace binade::dist {

struct Work::State {
  virtual ~State() = default;
  virtual void wait() = 0;
  virtual bool done() = 0;
};

// One that a thread of this process finishes.
class HostWork final : public Work::State {
 public:
  explicit HostWork(Collective c) : collective(std::move(c)) {}
  const Collective collective;  // holds the tensors until it is done
  void finish(std::exception_ptr failure = {});
  void wait() override;
  bool done() override;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::exception_ptr error_;
};

}  // namespace binade::dist
