#include "neighbour.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "binade/core/base/error.h"

namespace bench {

// A shell that counts, not a fork of this process: a fork would make every page of ours a page to copy. It looks now and
// then whether its parent still lives, so that a benchmark that is killed leaves nothing behind.
Neighbour::Neighbour() : process_(0) {
  char shell[] = "sh", option[] = "-c";
  char loop[] = "while kill -0 $PPID 2>/dev/null; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done";
  char* const arguments[] = {shell, option, loop, nullptr};
  const int error = posix_spawnp(&process_, shell, nullptr, nullptr, arguments, environ);
  binade::check(error == 0, "--neighbour: cannot start sh: error ", error);
}
Neighbour::~Neighbour() {
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
}

}  // namespace bench
