#include "neighbour.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "binade/core/base/error.h"

namespace bench {

Neighbour::Neighbour() : process_(fork()) {
  binade::check(process_ >= 0, "--neighbour: cannot start a process");
  if (process_ > 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a benchmark that is killed leaves nothing behind
  for (volatile unsigned long spin = 0;;) spin = spin + 1;
}
Neighbour::~Neighbour() {
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
}

}  // namespace bench
