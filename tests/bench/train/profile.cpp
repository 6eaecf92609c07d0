#include "profile.h"

#include <omp.h>

#include <memory>
#include <thread>

#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/backend/kernels.h"
#include "binade/ops/formulas.h"
#include "clock.h"

namespace bench {

using namespace binade;

namespace {

std::map<std::string, double> traffic;  // bytes by slot name
std::string product_role;               // of the product that runs

// ---- bytes a call must move -----------------------------------------------------------------------------------------

double bytes_of(const TensorView& x) {
  if (!x) return 0;
  double count = 1;
  for (int d = 0; d < x.dim(); ++d)
    if (x.stride(d) != 0) count *= static_cast<double>(x.size(d));
  return count * static_cast<double>(size_of(x.dtype));
}
double bytes_of(std::span<const kernel::GradItem> items) {
  double sum = 0;
  for (const auto& item : items) sum += bytes_of(item.grad);
  return sum;
}
// All are read and written but the gradient and the 16-bit rounding.
double bytes_of(std::span<const kernel::OptimizerItem> items) {
  double sum = 0;
  for (const auto& item : items)
    sum += bytes_of(item.grad) + bytes_of(item.rounded) +
           2 * (bytes_of(item.param) + bytes_of(item.master) + bytes_of(item.m) + bytes_of(item.v));
  return sum;
}
template <class Other>
double bytes_of(const Other&) {
  return 0;
}

// While it lives, calls of `slot` count their bytes; `factor` where arguments are both read and written.
struct Watch {
  virtual ~Watch() = default;
};
template <auto& slot, class Slot = std::remove_cvref_t<decltype(slot)>>
class Traffic;
template <auto& slot, class... Args>
class Traffic<slot, KernelSlot<void(Args...)>> : public Watch {
 public:
  explicit Traffic(double factor) {
    factor_ = factor;
    real_ = slot.function(DeviceType::cpu);
    slot.provide(DeviceType::cpu, counting);
  }
  ~Traffic() override { slot.provide(DeviceType::cpu, real_); }

 private:
  static void counting(Args... args) {
    if (!omp_in_parallel()) traffic[std::string(slot.name())] += factor_ * (0.0 + ... + bytes_of(args));
    real_(args...);
  }
  static inline double factor_ = 1;
  static inline void (*real_)(Args...) = nullptr;
};

// The layout says which product of a linear layer it is: forward multiplies with the transposed weight, dW with the
// transposed gradient.
class ProductRoles : public Watch {
 public:
  ProductRoles() {
    real_ = kernel::matmul.function(DeviceType::cpu);
    kernel::matmul.provide(DeviceType::cpu, noting);
  }
  ~ProductRoles() override { kernel::matmul.provide(DeviceType::cpu, real_); }

 private:
  static bool turned(const TensorView& x) { return x.stride(-1) != 1 && x.stride(-2) == 1; }
  static void noting(TensorView a, TensorView b, TensorView bias, TensorView c, kernel::MatmulOptions options) {
    if (!omp_in_parallel()) product_role = turned(a) ? "matmul dW" : turned(b) ? "matmul forward" : "matmul dX";
    real_(a, b, bias, c, options);
  }
  static inline decltype(kernel::matmul)::Function real_ = nullptr;
};

template <auto& slot>
void watch(std::vector<std::unique_ptr<Watch>>& list, double factor = 1) {
  if (slot.function(DeviceType::cpu)) list.push_back(std::make_unique<Traffic<slot>>(factor));
}
std::vector<std::unique_ptr<Watch>> watch_all() {
  std::vector<std::unique_ptr<Watch>> list;
  list.push_back(std::make_unique<ProductRoles>());
  watch<kernel::layer_norm>(list);
  watch<kernel::layer_norm_backward>(list);
  watch<kernel::cross_entropy>(list);
  watch<kernel::cross_entropy_backward>(list);
  watch<kernel::adam>(list);
  watch<kernel::inspect_gradients>(list);
  watch<kernel::unscale>(list, 2);
  watch<kernel::clip_by_norm>(list, 2);
  watch<kernel::copy>(list);
  watch<kernel::sum>(list);
  watch<kernel::add_into>(list, 1.5);  // two views of one size, one of them read and written
  watch<kernel::binary_forward<formulas::Add>>(list);
  watch<kernel::unary_forward<formulas::GeluTanh>>(list);
  watch<kernel::unary_backward<formulas::GeluTanh>>(list);
  watch<kernel::unary_forward<formulas::Relu>>(list);
  watch<kernel::unary_backward<formulas::Relu>>(list);
  watch<kernel::quantize_fp8>(list);
  watch<kernel::absmax>(list);
  return list;
}

// ---- families -------------------------------------------------------------------------------------------------------

std::string family_of(const std::string& kernel) {
  const auto starts = [&](const char* prefix) { return kernel.starts_with(prefix); };
  const auto has = [&](const char* part) { return kernel.find(part) != std::string::npos; };
  if (has("fp8") || starts("quantize") || starts("absmax")) return "fp8 conversions";
  if (starts("matmul")) return "matrix products";
  if (starts("attention")) return "attention";
  if (starts("gelu") || starts("relu") || starts("silu")) return "activations";
  if (has("_norm") && !starts("clip")) return "norms";
  if (starts("cross_entropy")) return "cross-entropy";
  if (starts("embedding")) return "embeddings";
  if (starts("adam") || starts("sgd")) return "optimizer";
  if (starts("inspect_gradients") || starts("gradient_scale") || starts("clip") || starts("unscale") || starts("loss_scale") || starts("multiply_by"))
    return "clipping and loss scaling";
  if (starts("copy") || starts("fill")) return "casts and copies";
  if (starts("sum") || starts("add")) return "residuals and bias gradients";
  return "other kernels";
}

// A kernel's own time: what it called is taken off, and what its tasks call on other threads is its own.
class OwnTime : public KernelObserver {
 public:
  explicit OwnTime(std::map<std::string, Entry>& kernels) : kernels_(kernels) { kernel_observer = this; }
  ~OwnTime() { kernel_observer = nullptr; }
  OwnTime(const OwnTime&) = delete;
  OwnTime& operator=(const OwnTime&) = delete;

  void on_kernel(std::string_view name, Device, double seconds) override {
    if (omp_in_parallel() || std::this_thread::get_id() != thread_) return;
    const double start = now() - seconds;
    double own = seconds;
    while (!done_.empty() && done_.back().start >= start) {  // it ran within this one
      own -= done_.back().seconds;
      done_.pop_back();
    }
    done_.push_back({start, seconds});
    Entry& entry = kernels_[name == "matmul" ? product_role : std::string(name)];
    entry.seconds += own;
    ++entry.calls;
  }

 private:
  struct Span {
    double start, seconds;
  };
  std::map<std::string, Entry>& kernels_;
  std::vector<Span> done_;
  std::thread::id thread_ = std::this_thread::get_id();
};

}  // namespace

Profile profile(const std::function<double()>& step, int times) {
  Profile result;
  traffic.clear();
  {
    const auto watches = watch_all();
    const OwnTime own_time(result.kernels);
    for (int i = 0; i < times; ++i) result.seconds += step();
  }
  double in_kernels = 0;
  for (auto& [name, entry] : result.kernels) {
    const auto found = traffic.find(name);
    if (found != traffic.end()) {
      entry.bytes = found->second;
      entry.memory_seconds = entry.seconds;
    }
    Entry& family = result.families[family_of(name)];
    family.seconds += entry.seconds;
    family.calls += entry.calls;
    family.bytes += entry.bytes;
    family.memory_seconds += entry.memory_seconds;
    in_kernels += entry.seconds;
  }
  result.families["outside kernels"].seconds = result.seconds - in_kernels;
  return result;
}

double measure_triad() {
  constexpr std::int64_t count = std::int64_t{1} << 24;  // 128 MiB per array
  const std::unique_ptr<double[]> a(new double[count]), b(new double[count]), c(new double[count]);
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {  // touched by the threads that use it
    a[i] = 0;
    b[i] = 1;
    c[i] = 2;
  }
  double best = 0;
  for (int pass = 0; pass < 8; ++pass) {
    double* const x = a.get();
    const double *const y = b.get(), *const z = c.get();
    const double factor = 3 + pass, start = now();
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < count; ++i) x[i] = y[i] + factor * z[i];
    best = std::max(best, 24.0 * static_cast<double>(count) / (now() - start));
  }
  return best;
}

}  // namespace bench
