// use_fp8: which Linear layers of a model compute in FP8, and how they scale.
//
//   nn::GPT model(config);
//   const nn::Fp8Report report = nn::use_fp8(model, {.scaling = amp::Fp8Scaling::delayed});
//   ... amp::Autocast autocast(DType::bf16); loss = model.loss(tokens, targets); ...
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binade/core/amp/fp8.h"
#include "binade/ops/nn/module.h"

namespace binade::nn {

struct LinearPrecision {  // of one Linear, shared by its handles
  std::int64_t in = 0, out = 0;
  std::optional<amp::Fp8Recipe> fp8;  // set by use_fp8
  amp::Fp8State state;
};

struct Fp8Settings {
  bool keep_first_and_last = true;  // the first and the last Linear, in order of registration, stay as they are
};
struct Fp8Report {
  std::vector<std::string> fp8;                           // names of the layers that compute in FP8
  std::vector<std::pair<std::string, std::string>> kept;  // names of the others, and why
};
// Every Linear below `model` (or itself) computes in FP8 from now on while autocast is on; without autocast it computes
// as before, and all other operations follow autocast. Layers whose sizes are not multiples of 16, which FP8 hardware
// refuses, are kept on every device, so that results do not depend on it. Delayed scaling adds the buffers fp8_scale,
// fp8_amax_history and fp8_count to each layer; they change in training (not in eval(), not under NoGrad) and are part
// of state_dict: call use_fp8 before load_state_dict. A layer that already computes in FP8 is an error.
Fp8Report use_fp8(Module& model, amp::Fp8Recipe recipe = {}, Fp8Settings settings = {});

}  // namespace binade::nn
