// Which of the instruction sets that kernels were compiled for is used. Declared where it is called, in core/backend.
#include <hwy/highway.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <cstdlib>
#include <string>
#include <string_view>

#include "binade/core/base/error.h"

namespace binade::cpu {

void limit_instruction_set();
std::string instruction_set();

// BINADE_CPU_ISA names the newest that our kernels and oneDNN's may use: for tests of what older processors compute, and
// for comparing with them. Before any kernel runs.
void limit_instruction_set() {
  const char* const given = std::getenv("BINADE_CPU_ISA");
  if (!given || std::string_view(given).empty()) return;
#if HWY_ARCH_X86
  struct Limit {
    std::string_view name;
    std::int64_t oldest;  // Highway's targets below it are newer
    dnnl::cpu_isa library;
  };
  constexpr Limit limits[] = {{"sse4", HWY_SSE4, dnnl::cpu_isa::sse41},
                              {"avx2", HWY_AVX2, dnnl::cpu_isa::avx2},
                              {"avx512", HWY_AVX3, dnnl::cpu_isa::avx512_core}};
  for (const Limit& limit : limits) {
    if (limit.name != given) continue;
    hwy::DisableTargets(limit.oldest - 1);
    check(dnnl::set_max_cpu_isa(limit.library) == dnnl::status::success, "BINADE_CPU_ISA: oneDNN is in use already");
    return;
  }
  fail({"BINADE_CPU_ISA: expected sse4, avx2 or avx512, got '", given, "'"});
#else
  fail({"BINADE_CPU_ISA: there is nothing to choose on this kind of processor, got '", given, "'"});
#endif
}

// What our kernels use, or will use once they are needed.
std::string instruction_set() {
  const std::int64_t usable = hwy::SupportedTargets() & HWY_TARGETS, best = usable & -usable;
#if HWY_ARCH_X86
  if (best == HWY_AVX3) return "AVX-512";
#endif
  return hwy::TargetName(best);
}

}  // namespace binade::cpu
