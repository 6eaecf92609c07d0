// Whether a precision trained a model as FP32 does, from final training losses over seeds.
#pragma once
#include <span>

#include "binade/ops/compare/comparison.h"

namespace binade::compare {

// Per seed r = (f_mode - f_fp32) / I, where f is the mean training loss of the last 20 % of the steps (the batches are
// the same in every mode, so their noise cancels) and I is FP32's improvement: first loss - f_fp32, mean over seeds.
// s0 = max(0.5 %, rms of r over the FP32 twins) is what a change of rounding alone does, and e = 3 s0 / sqrt(n) the
// smallest mean difference n seeds can show.
//   failed        not finite, or given up; or a loss scale below 1, or more than 20 % of the steps skipped, in any seed;
//                 or any r > 50 %
//   degraded      mean r > max(2 %, e), and at most n / 5 seeds with r <= 0
//   equivalent    mean r + e < 2 e (but at least 5 % and at most 10 %), and no r > 10 %
//   inconclusive  otherwise, and for fewer than 3 seeds
// Where r is normal with the twins' spread, "degraded" of a mode that misses nothing, and "equivalent" of one that misses
// 10 % or more, each come up in at most 2.9 % of comparisons (Student's t with 3 degrees of freedom beyond 3; tested).
// The constants were fitted on classifiers of 5 to 13 layers; docs/mixed_precision.md shows how they did on others.
Verdict judge(const ModeResult& mode, const ModeResult& reference, std::span<const SeedRun> twins);

}  // namespace binade::compare
