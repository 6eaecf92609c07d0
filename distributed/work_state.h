// What a Work handle shares with the group that carries it out.
#pragma once
#include <condition_variable>
#include <exception>
#include <mutex>

#include "binade/distributed/process_group.h"

namespace binade::dist {

struct Work::State {
  explicit State(Collective c) : collective(std::move(c)) {}
  Collective collective;  // holds the tensors until it is done

  void finish(std::exception_ptr failure = {}) {
    {
      const std::lock_guard lock(mutex);
      done = true;
      error = std::move(failure);
    }
    changed.notify_all();
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::exception_ptr error;
};

}  // namespace binade::dist
