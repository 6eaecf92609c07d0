#include "profile.h"

#include <omp.h>

#include <memory>

#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/backend/kernel_times.h"
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
  Traffic(DeviceType device, double factor) {
    factor_ = factor;
    device_ = device;
    real_ = slot.function(device);
    slot.provide(device, counting);
  }
  ~Traffic() override { slot.provide(device_, real_); }

 private:
  static void counting(Args... args) {
    if (!omp_in_parallel()) traffic[std::string(slot.name())] += factor_ * (0.0 + ... + bytes_of(args));
    real_(args...);
  }
  static inline double factor_ = 1;
  static inline DeviceType device_ = DeviceType::cpu;
  static inline void (*real_)(Args...) = nullptr;
};

// The layout says which product of a linear layer it is: forward multiplies with the transposed weight, dW with the
// transposed gradient.
template <auto& slot, class Slot = std::remove_cvref_t<decltype(slot)>>
class ProductRoles;
template <auto& slot, class... Rest>
class ProductRoles<slot, KernelSlot<void(TensorView, TensorView, Rest...)>> : public Watch {
 public:
  explicit ProductRoles(DeviceType device) : device_(device) {
    real_ = slot.function(device);
    slot.provide(device, noting);
  }
  ~ProductRoles() override { slot.provide(device_, real_); }

 private:
  static bool turned(const TensorView& x) { return x.stride(-1) != 1 && x.stride(-2) == 1; }
  static void noting(TensorView a, TensorView b, Rest... rest) {
    if (!omp_in_parallel()) product_role = turned(a) ? "matmul dW" : turned(b) ? "matmul forward" : "matmul dX";
    real_(a, b, rest...);
  }
  DeviceType device_;
  static inline void (*real_)(TensorView, TensorView, Rest...) = nullptr;
};

struct Watches {
  explicit Watches(DeviceType where) : device(where) {
    list.push_back(std::make_unique<ProductRoles<kernel::matmul>>(device));
    if (kernel::matmul_fp8.function(device)) list.push_back(std::make_unique<ProductRoles<kernel::matmul_fp8>>(device));
  }
  template <auto& slot>
  void add(double factor = 1) {
    if (slot.function(device)) list.push_back(std::make_unique<Traffic<slot>>(device, factor));
  }
  DeviceType device;
  std::vector<std::unique_ptr<Watch>> list;
};
Watches watch_all(DeviceType device) {
  Watches watches(device);
  watches.add<kernel::layer_norm>();
  watches.add<kernel::layer_norm_backward>();
  watches.add<kernel::add_norm>();
  watches.add<kernel::cross_entropy>();
  watches.add<kernel::cross_entropy_backward>();
  watches.add<kernel::adam>();
  watches.add<kernel::inspect_gradients>();
  watches.add<kernel::unscale>(2);
  watches.add<kernel::clip_by_norm>(2);
  watches.add<kernel::copy>();
  watches.add<kernel::sum>();
  watches.add<kernel::add_into>(1.5);  // two views of one size, one of them read and written
  watches.add<kernel::binary_forward<formulas::Add>>();
  watches.add<kernel::unary_forward<formulas::GeluTanh>>();
  watches.add<kernel::unary_backward<formulas::GeluTanh>>();
  watches.add<kernel::unary_forward<formulas::Relu>>();
  watches.add<kernel::unary_backward<formulas::Relu>>();
  watches.add<kernel::quantize_fp8>();
  watches.add<kernel::absmax>();
  return watches;
}

// ---- families -------------------------------------------------------------------------------------------------------

std::string family_of(const std::string& kernel) {
  const auto starts = [&](const char* prefix) { return kernel.starts_with(prefix); };
  const auto has = [&](const char* part) { return kernel.find(part) != std::string::npos; };
  if (starts("matmul")) return "matrix products";
  if (has("fp8") || starts("quantize") || starts("absmax")) return "fp8 conversions";
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

}  // namespace

Profile profile(const std::function<double()>& step, int times, DeviceType device) {
  Profile result;
  traffic.clear();
  KernelTimes::Table table;
  {
    const Watches watches = watch_all(device);
    KernelTimes kernel_times(
        [](std::string_view slot) { return slot.starts_with("matmul") ? product_role : std::string(slot); });
    for (int i = 0; i < times; ++i) result.seconds += step();
    table = kernel_times.take();
  }
  if (device == DeviceType::cuda) result.seconds = table.device_seconds;
  double in_kernels = 0;
  for (const auto& [name, time] : table.kernels) {
    Entry& entry = result.kernels[name];
    entry.seconds = time.seconds;
    entry.calls = time.calls;
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
