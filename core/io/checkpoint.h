// Checkpoint: everything a run needs to go on bit for bit, in one safetensors file that is replaced whole.
//   io::save_checkpoint(path, {.model = model.state_dict(), .optimizer = optimizer.state_dict(),
//                              .scaler = scaler.state_dict(), .random = random_state(), .loader = loader.state(),
//                              .step = step});
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "binade/core/base/random.h"
#include "binade/core/data/loader.h"
#include "binade/core/io/safetensors.h"

namespace binade::io {

struct Checkpoint {
  TensorMap model, optimizer, scaler;
  PhiloxState random;
  data::LoaderState loader;
  std::int64_t step = 0;
  std::map<std::string, double> numbers = {};  // anything else: best loss, schedule position; kept exactly
};

void save_checkpoint(const std::string& path, const Checkpoint& checkpoint);
Checkpoint load_checkpoint(const std::string& path);  // restores nothing by itself; throws for a damaged file

}  // namespace binade::io
