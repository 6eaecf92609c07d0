#include "binade/ops/nn/fp8.h"

#include <algorithm>

#include "binade/core/backend/memory.h"

namespace binade::nn {

namespace {

struct Layer {
  std::string name;
  Module module;  // a handle
};

std::vector<Layer> linear_layers(const Module& model) {  // each once, in order of registration
  std::vector<Layer> layers;
  model.each([&](const std::string& name, const Module& module) {
    const auto same = [&](const Layer& layer) {
      return layer.module.linear_precision() == module.linear_precision();
    };
    if (module.linear_precision() && std::none_of(layers.begin(), layers.end(), same)) layers.push_back({name, module});
  });
  return layers;
}

std::string reason_to_keep(const LinearPrecision& layer, bool at_the_end, const Fp8Settings& settings) {
  constexpr std::int64_t multiple = 16;  // cuBLASLt's rule for FP8 operands
  if (settings.keep_first_and_last && at_the_end) return "the first and the last layer are kept";
  if (layer.in % multiple == 0 && layer.out % multiple == 0) return {};
  return "sizes must be multiples of 16: in " + std::to_string(layer.in) + ", out " + std::to_string(layer.out);
}

}  // namespace

Fp8Report use_fp8(Module& model, amp::Fp8Recipe recipe, Fp8Settings settings) {
  amp::check_recipe(recipe);
  std::vector<Layer> layers = linear_layers(model);
  for (const Layer& layer : layers)
    check(!layer.module.linear_precision()->fp8, "use_fp8: layer \"", layer.name, "\" already computes in FP8");
  Fp8Report report;
  const MemoryTagScope tag(MemoryTag::parameters);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    auto& [name, module] = layers[i];
    LinearPrecision& layer = *module.linear_precision();
    if (std::string why = reason_to_keep(layer, i == 0 || i + 1 == layers.size(), settings); !why.empty()) {
      report.kept.emplace_back(name, std::move(why));
      continue;
    }
    layer.fp8 = recipe;
    layer.state = amp::make_fp8_state(recipe, module.parameters().front().device());
    module.add_buffer("fp8_scale", layer.state.scale);
    module.add_buffer("fp8_amax_history", layer.state.amax_history);
    module.add_buffer("fp8_count", layer.state.count);
    report.fp8.push_back(name);
  }
  return report;
}

}  // namespace binade::nn
