// Samples of embedding.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_embedding(SampleMap& out) {
  const auto look_up = [](Inputs in) { return embedding(in[0], in[1]); };
  out.push_back({"embedding", look_up, {normal({11, 5}), index({2, 3}, 11)}, 6});
  out.push_back({"embedding repeated indices", look_up, {normal({3, 4}), index({40}, 3)}, 40});
  out.push_back({"embedding one index", look_up, {normal({4, 3}), index({}, 4)}});
  out.push_back({"embedding i32",
                 [](Inputs in) { return embedding(in[0], in[1].to(DType::i32)); },
                 {normal({5, 3}), index({7}, 5)},
                 7});
  out.push_back({"embedding no indices", look_up, {normal({4, 3}), index({0}, 4)}});
}

}  // namespace binade::test
