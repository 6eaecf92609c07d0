// Samples of casts: between dtypes, clones and contiguous copies.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_cast(SampleMap& out) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const bool narrow = dtype == DType::f16 || dtype == DType::bf16;
    // Rounding is not differentiable by differences: steps are smaller than the format's spacing.
    out.push_back({.name = "cast to " + to_text(dtype),
                   .function = [dtype](Inputs in) { return cast(in[0], dtype); },
                   .inputs = {normal({4, 7})},
                   .smooth = dtype == DType::f64});
    if (narrow)
      out.push_back({.name = "cast to " + to_text(dtype) + " many",
                     .function = [dtype](Inputs in) { return cast(in[0], dtype); },
                     .inputs = {uniform({3, 1031}, -70000, 70000)},
                     .smooth = false});
  }
  for (const DType dtype : {DType::f8e4m3, DType::f8e5m2})
    out.push_back({.name = "cast to " + to_text(dtype),
                   .function = [dtype](Inputs in) { return cast(in[0], dtype); },
                   .inputs = {uniform({5, 33}, -400, 400)},
                   .smooth = false});
  for (const DType dtype : {DType::i64, DType::i32, DType::u8, DType::boolean})
    out.push_back({.name = "cast indices to " + to_text(dtype),
                   .function = [dtype](Inputs in) { return cast(in[0], dtype); },
                   .inputs = {index({3, 5}, dtype == DType::boolean ? 2 : 100)},
                   .smooth = false});
  out.push_back({.name = "cast indices to f32",
                 .function = [](Inputs in) { return cast(in[0], DType::f32); },
                 .inputs = {index({3, 5}, 2048)},
                 .smooth = false});
  out.push_back({.name = "cast empty",
                 .function = [](Inputs in) { return cast(in[0], DType::f64); },
                 .inputs = {normal({0, 3})}});
  out.push_back({.name = "clone", .function = [](Inputs in) { return in[0].clone(); }, .inputs = {normal({3, 5, 2})}});
  out.push_back(
      {.name = "contiguous", .function = [](Inputs in) { return in[0].t().contiguous(); }, .inputs = {normal({3, 5})}});
  out.push_back({.name = "contiguous large",
                 .function = [](Inputs in) { return in[0].t().contiguous(); },
                 .inputs = {normal({67, 129})}});
}

}  // namespace binade::test
