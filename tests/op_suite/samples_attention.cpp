// Samples of attention, from separate and packed q, k, v, and of rotary position embedding.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

namespace {

struct Heads {
  std::int64_t batch, heads, kv_heads, time_q, time_k, d;
};

std::vector<SampleInput> inputs_of(const Heads& s) {
  return {normal({s.batch, s.heads, s.time_q, s.d}), normal({s.batch, s.kv_heads, s.time_k, s.d}),
          normal({s.batch, s.kv_heads, s.time_k, s.d})};
}

// Lengths of a batch where the operands lie; none: no tensor.
using Lengths = std::vector<std::int64_t>;
Tensor lengths_on(const Lengths& lengths, Device device, DType dtype = DType::i64) {
  const Tensor x = lengths.empty() ? Tensor() : from_vector(lengths, {static_cast<std::int64_t>(lengths.size())});
  return x ? x.to(dtype).to(device) : x;
}

SampleInput constant(SampleInput input) {
  input.differentiable = false;
  return input;
}

}  // namespace

void samples_attention(SampleMap& out) {
  const auto add = [&](const char* name, const Heads& s, SdpaOptions options = {}) {
    out.push_back({std::string("attention ") + name,
                   [options](Inputs in) { return scaled_dot_product_attention(in[0], in[1], in[2], {}, options); },
                   inputs_of(s), static_cast<double>(std::max(s.time_q * s.heads / std::max<std::int64_t>(1, s.kv_heads),
                                                              std::max(s.time_k, s.d)))});
  };
  add("plain", {2, 3, 3, 5, 7, 4});
  add("one element", {1, 1, 1, 1, 1, 1});
  add("odd d", {1, 2, 2, 6, 5, 3});
  add("several blocks", {1, 1, 1, 70, 67, 8});
  add("causal", {2, 2, 2, 6, 6, 4}, {.is_causal = true});
  add("causal blocks", {1, 2, 2, 131, 131, 5}, {.is_causal = true});
  add("causal, more keys", {1, 2, 2, 3, 6, 4}, {.is_causal = true});
  add("causal, fewer keys", {1, 2, 2, 6, 3, 4}, {.is_causal = true});
  add("causal, eight channels", {1, 2, 2, 12, 12, 8}, {.is_causal = true});
  add("grouped-query", {2, 6, 2, 5, 7, 4});
  add("grouped-query, sixteen channels", {1, 4, 2, 6, 9, 16});
  add("one key head, causal", {1, 4, 1, 5, 5, 4}, {.is_causal = true});
  add("scale", {1, 2, 2, 5, 5, 4}, {.scale = 0.3});
  add("empty batch", {0, 2, 2, 5, 5, 4});
  add("no queries", {1, 2, 2, 0, 5, 4});
  add("no keys", {1, 2, 2, 5, 0, 4});

  const Heads masked{2, 2, 2, 5, 7, 4};
  const auto add_mask = [&](const char* name, const SampleInput& mask, const Heads& s, SdpaOptions options = {}) {
    std::vector<SampleInput> inputs = inputs_of(s);
    inputs.push_back(constant(mask));
    out.push_back({std::string("attention ") + name,
                   [options](Inputs in) { return scaled_dot_product_attention(in[0], in[1], in[2], in[3], options); },
                   inputs, 7});
  };
  add_mask("bool mask", boolean({2, 2, 5, 7}), masked);
  add_mask("bool mask over keys", boolean({2, 1, 1, 7}), masked);
  add_mask("bool mask with rows that see nothing", boolean({5, 1}), masked);
  add_mask("additive mask", normal({2, 2, 5, 7}), masked);
  add_mask("additive mask over heads", normal({2, 1, 7}), masked);
  add_mask("additive mask, causal", normal({5, 5}), {1, 2, 2, 5, 5, 4}, {.is_causal = true});
  add_mask("bool mask, grouped-query", boolean({1, 4, 5, 7}), {2, 4, 2, 5, 7, 4});

  out.push_back({"attention transposed views",
                 [](Inputs in) {
                   return scaled_dot_product_attention(in[0].transpose(1, 2), in[1].transpose(1, 2),
                                                       in[2].transpose(1, 2));
                 },
                 {normal({2, 5, 3, 4}), normal({2, 7, 3, 4}), normal({2, 7, 3, 4})}, 7});
  out.push_back({"attention strided last dim",
                 [](Inputs in) { return scaled_dot_product_attention(in[0].t(), in[1].t(), in[2]); },
                 {normal({1, 2, 4, 5}), normal({1, 2, 4, 7}), normal({1, 2, 7, 4})}, 7});
  out.push_back({"attention expanded keys",
                 [](Inputs in) {
                   return scaled_dot_product_attention(in[0], in[1].expand({2, 3, 7, 4}), in[2].expand({2, 3, 7, 4}));
                 },
                 {normal({2, 3, 5, 4}), normal({1, 1, 7, 4}), normal({2, 3, 1, 4})}, 42});

  const auto add_packed = [&](const char* name, Shape qkv, std::int64_t heads, SelfAttentionOptions options = {}) {
    const auto reduction = static_cast<double>(std::max(qkv[1], qkv[2] / 3 / heads));
    out.push_back({std::string("packed attention ") + name,
                   [heads, options](Inputs in) { return packed_self_attention(in[0], heads, options); }, {normal(qkv)},
                   reduction});
  };
  add_packed("plain", {2, 5, 24}, 2);
  add_packed("one element", {1, 1, 3}, 1);
  add_packed("causal", {2, 7, 30}, 2, {.is_causal = true});
  add_packed("causal, eight channels", {2, 6, 48}, 2, {.is_causal = true});
  add_packed("causal blocks", {1, 70, 18}, 3, {.is_causal = true});
  add_packed("scale", {1, 5, 12}, 1, {.scale = 0.7});
  add_packed("empty batch", {0, 5, 24}, 2);
  out.push_back({"packed attention transposed", [](Inputs in) { return packed_self_attention(in[0].t(), 2); },
                 {normal({2, 24, 5})}, 5});

  const auto add_lengths = [&](const char* name, const Heads& s, const Lengths& q, const Lengths& kv,
                               SdpaOptions options = {}, SampleInput mask = undefined(), DType dtype = DType::i64) {
    std::vector<SampleInput> inputs = inputs_of(s);
    inputs.push_back(constant(mask));
    out.push_back({std::string("attention lengths, ") + name,
                   [=](Inputs in) {
                     SdpaOptions with = options;
                     with.q_lengths = lengths_on(q, in[0].device(), dtype);
                     with.kv_lengths = lengths_on(kv, in[0].device(), dtype);
                     return scaled_dot_product_attention(in[0], in[1], in[2], in[3], with);
                   },
                   inputs, static_cast<double>(std::max(s.time_q * s.heads / s.kv_heads, std::max(s.time_k, s.d)))});
  };
  add_lengths("both", {3, 2, 2, 6, 7, 4}, {6, 4, 5}, {7, 3, 6});
  add_lengths("of keys, i32", {3, 2, 2, 5, 7, 4}, {}, {1, 7, 4}, {}, undefined(), DType::i32);
  add_lengths("of queries", {3, 2, 2, 6, 7, 4}, {6, 3, 5}, {});
  add_lengths("whole", {2, 2, 2, 6, 7, 4}, {6, 6}, {7, 7});
  add_lengths("none of some", {4, 2, 2, 5, 7, 4}, {5, 5, 0, 5}, {7, 7, 7, 0});
  add_lengths("causal", {3, 2, 2, 7, 7, 4}, {7, 3, 5}, {7, 3, 5}, {.is_causal = true});
  add_lengths("causal, other keys", {2, 2, 2, 6, 9, 4}, {6, 4}, {3, 9}, {.is_causal = true});
  add_lengths("blocks", {2, 1, 1, 70, 67, 8}, {66, 33}, {67, 65});
  add_lengths("causal blocks", {3, 2, 2, 131, 131, 5}, {131, 64, 66}, {131, 64, 66}, {.is_causal = true});
  add_lengths("grouped-query, sixteen channels", {2, 4, 2, 6, 9, 16}, {6, 5}, {4, 9});
  add_lengths("bool mask", {2, 2, 2, 5, 7, 4}, {4, 5}, {7, 5}, {}, boolean({2, 1, 5, 7}));
  add_lengths("additive mask, causal", {2, 2, 2, 5, 5, 4}, {4, 5}, {4, 5}, {.is_causal = true}, normal({5, 5}));
  add_lengths("empty batch", {0, 2, 2, 5, 5, 4}, {}, {});
  out.push_back({"attention lengths, drawn",
                 [](Inputs in) {
                   return scaled_dot_product_attention(in[0], in[1], in[2], {},
                                                       {.q_lengths = in[3], .kv_lengths = in[4]});
                 },
                 {normal({6, 2, 5, 4}), normal({6, 2, 7, 4}), normal({6, 2, 7, 4}), index({6}, 6), index({6}, 8)},
                 7});
  out.push_back({"packed attention lengths",
                 [](Inputs in) {
                   const Tensor lengths = lengths_on({7, 4, 6}, in[0].device());
                   return packed_self_attention(in[0], 2, {.lengths = lengths});
                 },
                 {normal({3, 7, 24})},
                 7});
  out.push_back({"packed attention lengths, causal, drawn",
                 [](Inputs in) { return packed_self_attention(in[0], 2, {.is_causal = true, .lengths = in[1]}); },
                 {normal({6, 7, 48}), index({6}, 8)},
                 8});

  const auto add_rotary = [&](const char* name, Shape shape, RotaryOptions options = {}) {
    out.push_back({std::string("rotary ") + name, [options](Inputs in) { return rotary_embedding(in[0], options); },
                   {normal(shape)}, 2});
  };
  add_rotary("halves", {2, 3, 5, 8});
  add_rotary("interleaved", {2, 3, 5, 8}, {.interleaved = true});
  add_rotary("start and base", {5, 6}, {.base = 100, .start = 17});
  add_rotary("one pair", {1, 2});
  add_rotary("empty", {0, 4, 2});
  out.push_back({"rotary transposed", [](Inputs in) { return rotary_embedding(in[0].transpose(1, 2)); },
                 {normal({2, 5, 3, 8})}, 2});
}

}  // namespace binade::test
