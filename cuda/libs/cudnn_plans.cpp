#include "binade/cuda/libs/cudnn_plans.h"

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>

#include "binade/core/backend/memory.h"
#include "binade/core/backend/trace.h"
#include "binade/core/base/error.h"
#include "binade/core/io/atomic_file.h"
#include "binade/cuda/libs/fnv1a.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

namespace {

std::string text_of(const PlanTensor& x) {
  std::string text = to_text(x.dtype);
  for (const auto& [open, numbers] : {std::pair{" [", &x.dims}, std::pair{" strides [", &x.strides}}) {
    text += open;
    for (std::size_t d = 0; d < 4; ++d) text += (d ? ", " : "") + std::to_string((*numbers)[d]);
    text += ']';
  }
  return text;
}

// ---- plans on disk: a file per plan, whose first part is the key, for names are only a hash of it

class PlanFile {
 public:
  explicit PlanFile(const std::string& key) : header_(key + '\0') {
    const char* folder = std::getenv("BINADE_CUDNN_CACHE");
    if (folder && *folder) path_ = std::string(folder) + "/" + std::to_string(fnv1a(key)) + ".plan";
  }
  std::optional<std::vector<std::uint8_t>> read() const {
    if (path_.empty()) return {};
    std::ifstream file(path_, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    if (!bytes.starts_with(header_)) return {};
    return std::vector<std::uint8_t>(bytes.begin() + static_cast<std::ptrdiff_t>(header_.size()), bytes.end());
  }
  void write(const Plan& plan) const {
    if (path_.empty()) return;
    const std::vector<std::uint8_t> bytes = plan.serialize();
    io::AtomicFile file(path_);
    file.write(std::as_bytes(std::span(header_)));
    file.write(std::as_bytes(std::span(bytes)));
    file.commit();
  }

 private:
  std::string header_, path_;
};

// ---- plans of this process

struct KnownPlan {
  std::unique_ptr<Plan> plan;  // or null, and why
  std::string refusal;
};

KnownPlan make_plan(const PlanSpec& spec, const std::string& text, Device device) {
  try {
    const auto start = std::chrono::steady_clock::now();
    const PlanGpu gpu = plan_gpu(device);
    const PlanFile file(plan_library() + '\n' + gpu.properties + '\n' + text);
    KnownPlan known;
    const char* source = "read from disk";
    if (const auto bytes = file.read()) {
      try {
        known.plan = restore_plan(spec, gpu, *bytes);
      } catch (const Error&) {  // damaged, or of a library that says the same version: made again
      }
    }
    if (!known.plan) {
      source = "built";
      known.plan = build_plan(spec, gpu);
      file.write(*known.plan);
    }
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    if (traces("dispatch")) {
      trace("dispatch", {"cuDNN plan ", source, " in ", std::to_string(time.count()), " ms: ", known.plan->engine(),
                         ", ", std::to_string(known.plan->workspace_bytes()), " bytes of workspace: ", text});
    }
    return known;
  } catch (const Error& error) {
    return {nullptr, error.what()};
  }
}

const KnownPlan& known_plan(const PlanSpec& spec, const std::string& text, Device device) {
  static auto* mutex = new std::mutex;
  // Never destroyed: the driver may be gone before static destructors run.
  static auto* known = new std::map<std::pair<int, std::string>, KnownPlan>;
  const std::lock_guard lock(*mutex);
  auto [at, fresh] = known->try_emplace({device.index, text});
  if (fresh) at->second = make_plan(spec, text, device);
  return at->second;
}

}  // namespace

PlanTensor plan_tensor(const TensorView& x) {
  PlanTensor tensor{true, x.dtype, {1, 1, 1, 1}, {}};
  std::int64_t gapless = 1;
  for (int d = 3; d >= 0; --d) {
    const auto i = static_cast<std::size_t>(d);
    if (d < x.dim()) tensor.dims[i] = x.size(d);
    tensor.strides[i] = tensor.dims[i] == 1 ? gapless : x.stride(d);
    gapless = tensor.dims[i] * tensor.strides[i];
  }
  return tensor;
}
PlanTensor plan_tensor_if_given(const TensorView& x) { return x ? plan_tensor(x) : PlanTensor{}; }
PlanTensor plan_tensor_of_channels(const TensorView& x) {
  TensorView channels = x;
  channels.shape = {1, x.size(0), 1, 1};
  channels.strides = {0, x.stride(0), 0, 0};
  return plan_tensor(channels);
}

std::vector<NamedTensor> tensors_of(const PlanSpec& spec) {
  std::vector<NamedTensor> all;
  if (const auto* s = std::get_if<SdpaForward>(&spec)) {
    all = {{"q", s->q, false},
           {"k", s->k, false},
           {"v", s->v, false},
           {"q_lengths", s->q_lengths, false},
           {"kv_lengths", s->kv_lengths, false},
           {"o", s->o, true},
           {"lse", s->lse, true}};
  } else if (const auto* b = std::get_if<SdpaBackward>(&spec)) {
    all = {{"q", b->q, false},
           {"k", b->k, false},
           {"v", b->v, false},
           {"o", b->o, false},
           {"d_o", b->d_o, false},
           {"lse", b->lse, false},
           {"q_lengths", b->q_lengths, false},
           {"kv_lengths", b->kv_lengths, false},
           {"dq", b->dq, true},
           {"dk", b->dk, true},
           {"dv", b->dv, true}};
  } else if (const auto* f = std::get_if<ConvForward>(&spec)) {
    all = {{"x", f->x, false}, {"weight", f->weight, false}, {"bias", f->bias, false}, {"y", f->y, true}};
  } else if (const auto* d = std::get_if<ConvDataGradient>(&spec)) {
    all = {{"dy", d->dy, false}, {"weight", d->weight, false}, {"dx", d->dx, true}};
  } else if (const auto* w = std::get_if<ConvWeightGradient>(&spec)) {
    all = {{"x", w->x, false}, {"dy", w->dy, false}, {"dweight", w->dweight, true}};
  } else if (const auto* n = std::get_if<BatchNormForward>(&spec)) {
    all = {{"x", n->x, false},
           {"scale", n->scale, false},
           {"bias", n->bias, false},
           {"running_mean", n->running_mean, false},
           {"running_var", n->running_var, false},
           {"y", n->y, true},
           {"mean", n->mean, true},
           {"rstd", n->rstd, true},
           {"next_mean", n->next_mean, true},
           {"next_var", n->next_var, true}};
  } else if (const auto* g = std::get_if<BatchNormBackward>(&spec)) {
    all = {{"dy", g->dy, false},     {"x", g->x, false},  {"scale", g->scale, false},  {"mean", g->mean, false},
           {"rstd", g->rstd, false}, {"dx", g->dx, true}, {"dscale", g->dscale, true}, {"dbias", g->dbias, true}};
  }
  std::erase_if(all, [](const NamedTensor& t) { return !t.tensor.given; });
  return all;
}

std::string to_text(const PlanSpec& spec) {
  constexpr const char* names[] = {"SdpaForward",        "SdpaBackward",     "ConvForward",      "ConvDataGradient",
                                   "ConvWeightGradient", "BatchNormForward", "BatchNormBackward"};
  std::string text = names[spec.index()];
  for (const NamedTensor& t : tensors_of(spec)) text.append(" ").append(t.name).append(" ").append(text_of(t.tensor));
  std::visit(
      [&](const auto& s) {
        if constexpr (requires { s.geometry; }) {
          for (const auto& [name, pair] :
               {std::pair{" stride ", &s.geometry.stride}, std::pair{" padding ", &s.geometry.padding},
                std::pair{" dilation ", &s.geometry.dilation}}) {
            text += name + std::to_string((*pair)[0]) + " x " + std::to_string((*pair)[1]);
          }
          if constexpr (requires { s.relu; })
            if (s.relu) text += " relu";
        } else if constexpr (requires { s.causal; }) {
          text += " scale " + binade::to_text(s.scale) + (s.causal ? " causal" : "");
        } else if constexpr (requires { s.momentum; }) {
          text += " eps " + binade::to_text(s.eps) + " momentum " + binade::to_text(s.momentum);
        }
      },
      spec);
  return text;
}

bool run_plan(std::string_view op, const PlanSpec& spec, Device device, std::span<void* const> pointers) {
  const std::string text = to_text(spec);
  const KnownPlan& known = known_plan(spec, text, device);
  if (!known.plan) {
    trace_own_kernels(op, device, known.refusal);
    return false;
  }
  const Scratch workspace(known.plan->workspace_bytes(), device);
  known.plan->execute(stream_of(device), pointers, workspace.as<void>());
  if (traces("dispatch")) trace("dispatch", {op, " on ", to_text(device), ": cuDNN: ", known.plan->engine()});
  return true;
}

std::vector<void*> pointers_of(std::initializer_list<TensorView> views) {
  std::vector<void*> pointers;
  for (const TensorView& x : views)
    if (x) pointers.push_back(x.data);
  return pointers;
}

std::string_view why_not_plan(std::initializer_list<TensorView> tensors, bool or_f32) {
  if (const char* wish = std::getenv("BINADE_CUDNN"); wish && std::string_view(wish) == "0") return "BINADE_CUDNN is 0";
  const DType dtype = tensors.begin()->dtype;
  const bool narrow = dtype == DType::f16 || dtype == DType::bf16;
  if (!narrow && !(or_f32 && dtype == DType::f32)) return or_f32 ? "not f32, f16 or bf16" : "not f16 or bf16";
  for (const TensorView& x : tensors) {
    if (!x) continue;
    if (x.dtype != dtype) return "more than one dtype";
    if (x.numel() == 0) return "an operand is empty";
    if (reinterpret_cast<std::uintptr_t>(x.data) % 16 != 0) return "an operand is not aligned to 16 bytes";
    for (int d = 0; d < x.dim(); ++d)
      if (x.size(d) > 1 && x.stride(d) <= 0) return "an operand repeats elements";
  }
  return {};
}

void trace_own_kernels(std::string_view op, Device device, std::string_view reason) {
  if (traces("dispatch")) trace("dispatch", {op, " on ", to_text(device), ": own kernels: ", reason});
}

}  // namespace binade::cuda
