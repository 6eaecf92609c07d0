// Another process that takes one processor.
#pragma once
#include <sys/types.h>

namespace bench {

class Neighbour {
 public:
  Neighbour();
  ~Neighbour();
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;

 private:
  pid_t process_;
};

}  // namespace bench
