#include "clock.h"

#include <omp.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace bench {

namespace {

double run_delay() {  // seconds, of all threads
  double nanoseconds = 0;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::ifstream file(task.path() / "schedstat");
    double running = 0, waiting = 0;
    if (file >> running >> waiting) nanoseconds += waiting;
  }
  return 1e-9 * nanoseconds;
}

double stolen_time() {  // seconds, of all processors: the eighth number of /proc/stat's first line
  std::ifstream file("/proc/stat");
  std::string name;
  double ticks[8] = {};
  file >> name;
  for (double& t : ticks)
    if (!(file >> t)) return 0;
  return ticks[7] / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

Disturbance::Disturbance() : start_(now()), delay_(run_delay()), stolen_(stolen_time()) {}
double Disturbance::share() const {
  const double lost = run_delay() - delay_ + (stolen_time() - stolen_);
  return lost / ((now() - start_) * thread_count());
}

int thread_count() { return omp_get_max_threads(); }

}  // namespace bench
