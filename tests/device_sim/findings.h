// What the simulated device found wrong. A finding goes to stderr at once; one that no test takes makes the process end
// with finding_exit_code.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace simt {

struct Finding {
  std::string kind;  // one of the words below
  std::string text;  // one line
};

// Kinds, kernels: out-of-bounds, use-after-free, uninitialised-read, shared-race, block-race, divergent-barrier,
// divergent-warp, misaligned, host-pointer, wrong-device, stack-overflow.
// Kinds, host: stream-order, host-access, pinned-in-flight, legacy-stream, pageable-copy, bad-pointer, bad-argument,
// bad-handle, capture, leak, unsynchronised, nccl-mismatch.
void report(std::string_view kind, const std::string& text);

std::vector<Finding> take_findings();  // and forget them
bool has_findings();

inline constexpr int finding_exit_code = 86;

struct CodePlace {
  std::string function, line;  // "f(int)", "file.cu:12"; what could be found out
};
CodePlace place_of(const void* code);  // through addr2line; slow, for reports only

}  // namespace simt
