// cuDNN's place on the simulated device, linked instead of cuda/libs/cudnn_frontend_graphs.cpp: plain loops on the
// simulated stream, strict about what the library documents. Attention rounds as fused kernels on Tensor Cores do:
// products of 16-bit operands summed in float, probabilities and score gradients rounded to 16 bits between products.
#include "binade/cuda/libs/cudnn_plans.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "binade/core/base/error.h"
#include "binade/core/base/scalar.h"
#include "durations.h"
#include "findings.h"
#include "runtime.h"
#include "settings.h"

namespace binade::cuda {

namespace {

using Index = std::array<std::int64_t, 4>;

struct Operand {  // a tensor where it lies
  PlanTensor t;
  void* data;
  std::int64_t at(const Index& i) const {
    return i[0] * t.strides[0] + i[1] * t.strides[1] + i[2] * t.strides[2] + i[3] * t.strides[3];
  }
  float get(const Index& i) const {
    return with_float_type(t.dtype, "simulated cuDNN",
                           [&]<class T>() { return static_cast<float>(static_cast<const T*>(data)[at(i)]); });
  }
  void set(const Index& i, float value) const {
    with_float_type(t.dtype, "simulated cuDNN", [&]<class T>() { static_cast<T*>(data)[at(i)] = T(value); });
  }
};
float rounded(float x, DType dtype) {
  return dtype == DType::f16 ? static_cast<float>(Half(x)) : static_cast<float>(BFloat16(x));
}
template <class Body>
void for_each(const Index& dims, const Body& body) {
  for (std::int64_t a = 0; a < dims[0]; ++a)
    for (std::int64_t b = 0; b < dims[1]; ++b)
      for (std::int64_t c = 0; c < dims[2]; ++c)
        for (std::int64_t d = 0; d < dims[3]; ++d) body(Index{a, b, c, d});
}

// ---- what the library documents

void require(bool ok, const char* rule) { check(ok, "cuDNN (simulated device): ", rule); }

template <class Spec>
void check_attention(const Spec& s) {
  const PlanTensor &q = s.q, &k = s.k, &lse = s.lse;
  require(q.dims[3] % 8 == 0 && q.dims[3] <= 128, "the head dimension must be a multiple of 8, at most 128");
  require(q.dims[0] == k.dims[0] && q.dims[3] == k.dims[3] && q.dims[1] % k.dims[1] == 0, "q and k do not fit");
  require(lse.dtype == DType::f32 && lse.dims == Index{q.dims[0], q.dims[1], q.dims[2], 1},
          "stats must be [b, h, s, 1]");
  require(s.q_lengths.given == s.kv_lengths.given, "a padding mask needs seq_len_q and seq_len_kv");
  for (const PlanTensor& lengths : {s.q_lengths, s.kv_lengths}) {
    require(!lengths.given || (lengths.dtype == DType::i32 && lengths.dims == Index{q.dims[0], 1, 1, 1}),
            "sequence lengths must be [b, 1, 1, 1] of 32 bits");
  }
}
void check_convolution(const PlanTensor& x, const PlanTensor& weight, const PlanTensor& y, const ConvGeometry& g) {
  require(x.dims[1] % weight.dims[1] == 0, "channels of x and weight do not fit");
  require(weight.dims[0] % (x.dims[1] / weight.dims[1]) == 0, "filters must be a multiple of the groups");
  require(y.dims[0] == x.dims[0] && y.dims[1] == weight.dims[0], "x and y do not fit");
  for (std::size_t d = 0; d < 2; ++d) {
    const std::int64_t room = x.dims[d + 2] + 2 * g.padding[d] - g.dilation[d] * (weight.dims[d + 2] - 1) - 1;
    require(room >= 0 && y.dims[d + 2] == room / g.stride[d] + 1, "y has not the size that x and weight give");
  }
}
// As cuDNN 9.19 refuses to build: its kernels load 16 bytes of channels at a time.
void check_batch_norm(const PlanTensor& image, const NamedTensor& n) {
  const PlanTensor& t = n.tensor;
  require(image.dims[1] * static_cast<std::int64_t>(size_of(image.dtype)) % 16 == 0,
          "c % elements_per_ldg must be 0: channels in 16 bytes");
  if (n.name == "x" || n.name == "y" || n.name == "dx" || n.name == "dy") {
    require(t.dims == image.dims && t.dtype == image.dtype, "images must have one shape and dtype");
  } else {
    require(t.dims == Index{1, image.dims[1], 1, 1} && t.dtype == DType::f32,
            "parameters and statistics must be [1, channels, 1, 1] in f32");
  }
}
void check_spec(const PlanSpec& spec) {
  for (const NamedTensor& n : tensors_of(spec)) {
    const PlanTensor& t = n.tensor;
    const auto* forward = std::get_if<BatchNormForward>(&spec);
    const auto* backward = std::get_if<BatchNormBackward>(&spec);
    if (forward || backward) {
      check_batch_norm(forward ? forward->x : backward->x, n);
      continue;
    }
    if (n.name == "q_lengths" || n.name == "kv_lengths") continue;
    require(n.name == "lse" || t.dtype == DType::f16 || t.dtype == DType::bf16, "operands must be of 16 bits");
    for (std::size_t d = 0; d < 4; ++d)
      require(t.dims[d] > 0 && t.strides[d] > 0, "sizes and strides must be positive");
    if (spec.index() < 2) {
      require(t.strides[3] == 1, "the last dim must be contiguous");
      if (n.name == "lse") continue;
      for (std::size_t d = 0; d < 3; ++d) require(t.strides[d] % 8 == 0, "rows must be aligned to 16 bytes");
    }
  }
  if (const auto* f = std::get_if<SdpaForward>(&spec)) check_attention(*f);
  if (const auto* b = std::get_if<SdpaBackward>(&spec)) check_attention(*b);
  if (const auto* f = std::get_if<ConvForward>(&spec)) {
    check_convolution(f->x, f->weight, f->y, f->geometry);
    require(!f->bias.given || f->bias.dims == Index{1, f->y.dims[1], 1, 1}, "the bias must be [1, channels, 1, 1]");
    require(!f->relu || f->bias.given || (f->x.strides[1] == 1 && f->y.strides[1] == 1),
            "relu without a bias needs channels innermost");  // as cuDNN 9.19 has no engine
  }
  if (const auto* d = std::get_if<ConvDataGradient>(&spec)) check_convolution(d->dx, d->weight, d->dy, d->geometry);
  if (const auto* w = std::get_if<ConvWeightGradient>(&spec)) check_convolution(w->x, w->dweight, w->dy, w->geometry);
}

// ---- what it computes; `at` are the operands in the order of tensors_of()

std::int64_t length_at(const Operand& lengths, std::int64_t b) {
  return static_cast<const std::int32_t*>(lengths.data)[b];
}
constexpr float undefined = std::numeric_limits<float>::quiet_NaN();  // what is left in rows beyond the lengths

// scale q k^T of one query and `keys` keys, -inf where it may not look.
std::vector<float> scores(const Operand& q, const Operand& k, const Index& row, std::int64_t kv_head, std::int64_t keys,
                          double scale, bool causal) {
  std::vector<float> s(static_cast<std::size_t>(k.t.dims[2]), -std::numeric_limits<float>::infinity());
  for (std::int64_t j = 0; j < keys && !(causal && j > row[2]); ++j) {
    float sum = 0;
    for (std::int64_t c = 0; c < q.t.dims[3]; ++c)
      sum += q.get({row[0], row[1], row[2], c}) * k.get({row[0], kv_head, j, c});
    s[static_cast<std::size_t>(j)] = sum * static_cast<float>(scale);
  }
  return s;
}

void compute(const SdpaForward& spec, const std::vector<Operand>& at) {
  const Operand &q = at[0], &k = at[1], &v = at[2], &o = at[at.size() - 2], &lse = at.back();
  const std::int64_t group = spec.q.dims[1] / spec.k.dims[1];
  for_each(spec.lse.dims, [&](const Index& row) {
    const std::int64_t keys = spec.kv_lengths.given ? length_at(at[4], row[0]) : spec.k.dims[2];
    if (spec.q_lengths.given && row[2] >= length_at(at[3], row[0])) {
      for (std::int64_t c = 0; c < spec.o.dims[3]; ++c) o.set({row[0], row[1], row[2], c}, undefined);
      return lse.set(row, undefined);
    }
    std::vector<float> p = scores(q, k, row, row[1] / group, keys, spec.scale, spec.causal);
    float most = p[0], sum = 0;
    for (const float s : p) most = std::max(most, s);
    for (float& s : p) sum += s = std::exp(s - most);
    for (std::int64_t c = 0; c < spec.o.dims[3]; ++c) {
      float total = 0;
      for (std::size_t j = 0; j < p.size(); ++j)
        total += rounded(p[j], spec.q.dtype) * v.get({row[0], row[1] / group, static_cast<std::int64_t>(j), c});
      o.set({row[0], row[1], row[2], c}, total / sum);
    }
    lse.set(row, most + std::log(sum));
  });
}

void compute(const SdpaBackward& spec, const std::vector<Operand>& at) {
  const std::size_t results = at.size() - 3;
  const Operand &q = at[0], &k = at[1], &v = at[2], &o = at[3], &d_o = at[4], &lse = at[5], &dq = at[results],
                &dk = at[results + 1], &dv = at[results + 2];
  const std::int64_t group = spec.q.dims[1] / spec.k.dims[1], d = spec.q.dims[3], time_k = spec.k.dims[2];
  const auto element = [&](std::int64_t b, std::int64_t head, std::int64_t j, std::int64_t c) {
    return static_cast<std::size_t>(((b * spec.k.dims[1] + head) * time_k + j) * d + c);
  };
  std::vector<float> key_sums(element(spec.k.dims[0], 0, 0, 0)), value_sums(key_sums.size());
  for_each(spec.lse.dims, [&](const Index& row) {
    const std::int64_t b = row[0], h = row[1], i = row[2], kv = h / group;
    const std::int64_t keys = spec.kv_lengths.given ? length_at(at[7], b) : time_k;
    if (spec.q_lengths.given && i >= length_at(at[6], b)) {
      for (std::int64_t c = 0; c < d; ++c) dq.set({b, h, i, c}, undefined);
      return;
    }
    const std::vector<float> s = scores(q, k, row, kv, keys, spec.scale, spec.causal);
    float delta = 0;
    for (std::int64_t c = 0; c < d; ++c) delta += o.get({b, h, i, c}) * d_o.get({b, h, i, c});
    std::vector<float> query_sums(static_cast<std::size_t>(d));
    for (std::int64_t j = 0; j < keys; ++j) {
      const float p = std::exp(s[static_cast<std::size_t>(j)] - lse.get(row));
      float dp = 0;
      for (std::int64_t c = 0; c < d; ++c) dp += d_o.get({b, h, i, c}) * v.get({b, kv, j, c});
      const float narrow_p = rounded(p, spec.q.dtype), ds = rounded(p * (dp - delta), spec.q.dtype);
      for (std::int64_t c = 0; c < d; ++c) {
        query_sums[static_cast<std::size_t>(c)] += ds * k.get({b, kv, j, c});
        key_sums[element(b, kv, j, c)] += ds * q.get({b, h, i, c});
        value_sums[element(b, kv, j, c)] += narrow_p * d_o.get({b, h, i, c});
      }
    }
    const auto scale = static_cast<float>(spec.scale);
    for (std::int64_t c = 0; c < d; ++c) dq.set({b, h, i, c}, query_sums[static_cast<std::size_t>(c)] * scale);
  });
  for_each(spec.k.dims, [&](const Index& i) {
    const bool defined = !spec.kv_lengths.given || i[2] < length_at(at[7], i[0]);
    dk.set(i, defined ? key_sums[element(i[0], i[1], i[2], i[3])] * static_cast<float>(spec.scale) : undefined);
    dv.set(i, defined ? value_sums[element(i[0], i[1], i[2], i[3])] : undefined);
  });
}

// body(index into x, into weight, into y) for every product of a convolution.
template <class Body>
void for_each_product(const PlanTensor& x, const PlanTensor& weight, const PlanTensor& y, const ConvGeometry& g,
                      const Body& body) {
  const std::int64_t share = weight.dims[0] / (x.dims[1] / weight.dims[1]);
  for_each(y.dims, [&](const Index& to) {
    for_each({1, weight.dims[1], weight.dims[2], weight.dims[3]}, [&](const Index& tap) {
      const std::int64_t row = to[2] * g.stride[0] + tap[2] * g.dilation[0] - g.padding[0];
      const std::int64_t column = to[3] * g.stride[1] + tap[3] * g.dilation[1] - g.padding[1];
      if (row < 0 || row >= x.dims[2] || column < 0 || column >= x.dims[3]) return;
      body(Index{to[0], to[1] / share * weight.dims[1] + tap[1], row, column}, Index{to[1], tap[1], tap[2], tap[3]},
           to);
    });
  });
}
// The result's sums in float, stored once.
class Sums {
 public:
  explicit Sums(const Index& dims)
      : dims_(dims), sums_(static_cast<std::size_t>(dims[0] * dims[1] * dims[2] * dims[3])) {}
  float& operator[](const Index& i) {
    return sums_[static_cast<std::size_t>(((i[0] * dims_[1] + i[1]) * dims_[2] + i[2]) * dims_[3] + i[3])];
  }
  void store(const Operand& to) {
    for_each(dims_, [&](const Index& i) { to.set(i, (*this)[i]); });
  }

 private:
  Index dims_;
  std::vector<float> sums_;
};

void compute(const ConvForward& spec, const std::vector<Operand>& at) {
  Sums sums(spec.y.dims);
  if (spec.bias.given) for_each(spec.y.dims, [&](const Index& i) { sums[i] = at[2].get({0, i[1], 0, 0}); });
  for_each_product(spec.x, spec.weight, spec.y, spec.geometry,
                   [&](const Index& x, const Index& w, const Index& y) { sums[y] += at[0].get(x) * at[1].get(w); });
  if (spec.relu) for_each(spec.y.dims, [&](const Index& i) { sums[i] = sums[i] <= 0 ? 0 : sums[i]; });
  sums.store(at.back());
}
void compute(const ConvDataGradient& spec, const std::vector<Operand>& at) {
  Sums sums(spec.dx.dims);
  for_each_product(spec.dx, spec.weight, spec.dy, spec.geometry,
                   [&](const Index& x, const Index& w, const Index& y) { sums[x] += at[0].get(y) * at[1].get(w); });
  sums.store(at[2]);
}
void compute(const ConvWeightGradient& spec, const std::vector<Operand>& at) {
  Sums sums(spec.dweight.dims);
  for_each_product(spec.x, spec.dweight, spec.dy, spec.geometry,
                   [&](const Index& x, const Index& w, const Index& y) { sums[w] += at[0].get(x) * at[1].get(y); });
  sums.store(at[2]);
}

// The sum of term(index) over a channel of x.
template <class Term>
float channel_sum(const PlanTensor& x, std::int64_t channel, const Term& term) {
  float sum = 0;
  for_each({x.dims[0], 1, x.dims[2], x.dims[3]}, [&](const Index& i) { sum += term({i[0], channel, i[2], i[3]}); });
  return sum;
}
void compute(const BatchNormForward& spec, const std::vector<Operand>& at) {
  const bool running = spec.running_mean.given;
  const Operand &x = at[0], &scale = at[1], &bias = at[2], &y = at[running ? 5 : 3], &mean = at[running ? 6 : 4],
                &rstd = at[running ? 7 : 5];
  const auto n = static_cast<float>(spec.x.dims[0] * spec.x.dims[2] * spec.x.dims[3]);
  for (std::int64_t c = 0; c < spec.x.dims[1]; ++c) {
    const Index channel{0, c, 0, 0};
    const float m = channel_sum(spec.x, c, [&](const Index& i) { return x.get(i); }) / n;
    const float var = channel_sum(spec.x, c, [&](const Index& i) { return (x.get(i) - m) * (x.get(i) - m); }) / n;
    const float r = 1 / std::sqrt(var + static_cast<float>(spec.eps));
    for_each({spec.x.dims[0], 1, spec.x.dims[2], spec.x.dims[3]}, [&](const Index& i) {
      const Index to{i[0], c, i[2], i[3]};
      y.set(to, (x.get(to) - m) * r * scale.get(channel) + bias.get(channel));
    });
    mean.set(channel, m);
    rstd.set(channel, r);
    if (!running) continue;
    const auto momentum = static_cast<float>(spec.momentum);
    at[8].set(channel, (1 - momentum) * at[3].get(channel) + momentum * m);
    at[9].set(channel, (1 - momentum) * at[4].get(channel) + momentum * (var * (n / (n - 1))));
  }
}
void compute(const BatchNormBackward& spec, const std::vector<Operand>& at) {
  const Operand &dy = at[0], &x = at[1], &scale = at[2], &mean = at[3], &rstd = at[4], &dx = at[5];
  const auto n = static_cast<float>(spec.x.dims[0] * spec.x.dims[2] * spec.x.dims[3]);
  for (std::int64_t c = 0; c < spec.x.dims[1]; ++c) {
    const Index channel{0, c, 0, 0};
    const auto normal = [&](const Index& i) { return (x.get(i) - mean.get(channel)) * rstd.get(channel); };
    const float dscale = channel_sum(spec.x, c, [&](const Index& i) { return dy.get(i) * normal(i); });
    const float dbias = channel_sum(spec.x, c, [&](const Index& i) { return dy.get(i); });
    for_each({spec.x.dims[0], 1, spec.x.dims[2], spec.x.dims[3]}, [&](const Index& i) {
      const Index to{i[0], c, i[2], i[3]};
      dx.set(to, scale.get(channel) * rstd.get(channel) * (dy.get(to) - dbias / n - normal(to) * (dscale / n)));
    });
    at[6].set(channel, dscale);
    at[7].set(channel, dbias);
  }
}

// ---- the plan

// What the library does with strides that nobody documents, as seen on an H100 with cuDNN 9.19: plans are built, images
// are taken as they lie, a weight whose channels are not innermost is taken for one that lies in order. So whoever asks
// for that gets wrong values here too.
PlanTensor as_taken(const PlanSpec& spec, const NamedTensor& t) {
  PlanTensor taken = t.tensor;
  const bool convolution = std::holds_alternative<ConvForward>(spec) ||
                           std::holds_alternative<ConvDataGradient>(spec) ||
                           std::holds_alternative<ConvWeightGradient>(spec);
  if (!convolution || (t.name != "weight" && t.name != "dweight") || taken.strides[1] == 1) return taken;
  std::int64_t gapless = 1;
  for (std::size_t d = 4; d-- > 0; gapless *= taken.dims[d]) taken.strides[d] = gapless;
  return taken;
}

std::size_t workspace_of(const PlanSpec& spec) { return std::holds_alternative<SdpaForward>(spec) ? 0 : 4096; }

// Whether every element may be read or written.
bool touch(const simt::OperationContext& context, const Operand& x, bool output) {
  const auto size = static_cast<std::int64_t>(size_of(x.t.dtype));
  const std::int64_t run = x.t.strides[3] == 1 ? x.t.dims[3] : 1;  // elements side by side
  const simt::Access access = output ? simt::Access::write : simt::Access::read;
  bool ok = true;
  for_each({x.t.dims[0], x.t.dims[1], x.t.dims[2], x.t.dims[3] / run}, [&](const Index& i) {
    ok = ok && simt::check_range(context.user("a cuDNN plan"), static_cast<const char*>(x.data) + x.at(i) * size,
                                 static_cast<std::size_t>(run * size), access);
    simt::count_library_bytes(static_cast<std::size_t>(run * size), access);
  });
  return ok;
}

cudaError_t run(const PlanSpec& spec, const std::vector<Operand>& operands, const std::vector<NamedTensor>& tensors,
                void* workspace, const simt::OperationContext& context) {
  for (std::size_t i = 0; i < operands.size(); ++i)
    if (!touch(context, operands[i], tensors[i].output)) return cudaErrorLaunchFailure;
  if (const std::size_t bytes = workspace_of(spec)) {
    if (!simt::check_range(context.user("a cuDNN plan's workspace"), workspace, bytes, simt::Access::write))
      return cudaErrorLaunchFailure;
    std::memset(workspace, 0xff, bytes);  // nobody may keep anything there
  }
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].t.dtype != DType::i32) continue;
    const std::int64_t time = operands[tensors[i].name == "q_lengths" ? 0 : 1].t.dims[2];  // q's or k's
    for (std::int64_t b = 0; b < operands[i].t.dims[0]; ++b) {
      if (const std::int64_t length = length_at(operands[i], b); length >= 0 && length <= time) continue;
      simt::report("bad-argument", "a cuDNN plan: a sequence length is not in [0, s]");
      return cudaErrorLaunchFailure;
    }
  }
  std::visit([&](const auto& s) { compute(s, operands); }, spec);
  return cudaSuccess;
}

class SimulatedPlan : public Plan {
 public:
  explicit SimulatedPlan(const PlanSpec& spec) : spec_(spec), tensors_(tensors_of(spec)) {}
  std::size_t workspace_bytes() const override { return workspace_of(spec_); }
  std::string engine() const override { return "the simulated device's loops"; }
  std::vector<PlanTensor> tensors() const override {
    std::vector<PlanTensor> all;
    for (const NamedTensor& t : tensors_) all.push_back(t.tensor);
    return all;
  }
  std::vector<std::uint8_t> serialize() const override {
    const std::string text = to_text(spec_);
    return {text.begin(), text.end()};
  }
  void execute(cudaStream_t handle, std::span<void* const> pointers, void* workspace) const override {
    require(pointers.size() == tensors_.size(), "one pointer for each tensor");
    std::vector<Operand> operands;
    for (std::size_t i = 0; i < pointers.size(); ++i) operands.push_back({as_taken(spec_, tensors_[i]), pointers[i]});
    for (void* const p : pointers)
      require(reinterpret_cast<std::uintptr_t>(p) % 16 == 0, "pointers must be aligned to 16 bytes");
    simt::Call call("cudnnBackendExecute");
    require(!call.failed(), "the device has failed");
    simt::Stream* stream = call.stream(handle);
    require(stream && stream->device == simt::current_device(), "the stream is not of the current device");
    ++simt::runtime().counted.launches;
    ++simt::runtime().counted.library_launches;
    const auto work = [spec = spec_, operands, tensors = tensors_, workspace](simt::OperationContext& context) {
      return cuda::run(spec, operands, tensors, workspace, context);
    };
    const cudaError_t status = simt::runtime().push(*stream, {.name = "a cuDNN plan", .run = work, .seconds = simt::plan_seconds}, call.lock);
    require(status == cudaSuccess, cudaGetErrorString(status));
  }

 private:
  PlanSpec spec_;
  std::vector<NamedTensor> tensors_;
};

}  // namespace

std::string plan_library() { return "cuDNN of the simulated device"; }
PlanGpu plan_gpu(Device device) {
  return {R"({"deviceVer":)" + std::to_string(simt::settings().capability * 10) + "}", device};
}
std::unique_ptr<Plan> build_plan(const PlanSpec& spec, const PlanGpu& gpu) {
  require(gpu.device.has_value(), "a plan for a GPU that need not be there would be executed");
  check_spec(spec);
  return std::make_unique<SimulatedPlan>(spec);
}
std::unique_ptr<Plan> restore_plan(const PlanSpec& spec, const PlanGpu& gpu, std::span<const std::uint8_t> serialized) {
  require(std::string(serialized.begin(), serialized.end()) == to_text(spec), "a serialized plan is damaged");
  return build_plan(spec, gpu);
}

}  // namespace binade::cuda
