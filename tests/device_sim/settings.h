// How the simulated device behaves, from the environment:
//   BINADE_SIM_ORDER     forward | reverse | shuffled    order in which blocks and threads start (default forward)
//   BINADE_SIM_SEED      number                          for shuffled (default 1)
//   BINADE_SIM_QUEUES    lazy | eager                    lazy: nothing runs before something waits for it (default)
//   BINADE_SIM_PROTECT   1 | 0                           device memory is unreadable for the host (default 1)
//   BINADE_SIM_CHECK     1 | 0                           memory accesses of checked kernels and copies (default 1)
//   BINADE_SIM_LEAKS     1 | 0                           objects and queued work left at exit are findings (default 1)
//   BINADE_SIM_DEVICES   0..8                            (default 2)
//   BINADE_SIM_MEMORY    MiB per device, up to 4096      (default 4096)
//   BINADE_SIM_CAPABILITY  major * 10 + minor            compute capability reported (default 90)
//   BINADE_SIM_LAUNCHES  file                            the largest launch of each kernel is appended to it at exit
//   BINADE_SIM_FAIL      function:n:error, ...           the n-th call of a function fails with that error number;
//                                                        cudaEventRecord and cudaStreamWaitEvent with 0: it is left out
//   BINADE_SIM_ABSENT    part of a name, such as libnccl  a library that cannot be opened
// Unknown values end the process: a test that believes it is strict must be strict.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace simt {

enum class ThreadOrder { forward, reverse, shuffled };

struct Settings {
  ThreadOrder order = ThreadOrder::forward;
  std::uint64_t seed = 1;
  bool lazy = true;
  bool protect = true;
  bool check = true;
  bool leaks = true;
  int devices = 2;
  std::size_t memory = std::size_t{4096} << 20;  // bytes per device
  int capability = 90;
  std::string launches;
  std::string fail;
  std::string absent;
};

Settings settings_from_environment();
Settings& settings();  // tests may change them between operations

}  // namespace simt
