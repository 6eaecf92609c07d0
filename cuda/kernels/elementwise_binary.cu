// Binary elementwise kernels: each formula in float, double and, where it has a meaning, integers.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/cuda/kernels/formulas_cuda.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

// Sums, differences and products of integers wrap around; signed overflow would be undefined.
template <class Formula, class C>
using ValueType = std::conditional_t<std::is_same_v<C, std::int64_t> && (std::is_same_v<Formula, formulas::Add> ||
                                                                         std::is_same_v<Formula, formulas::Sub> ||
                                                                         std::is_same_v<Formula, formulas::Mul>),
                                     std::uint64_t, C>;
template <class Formula>
constexpr bool for_integers = std::is_same_v<ValueType<Formula, std::int64_t>, std::uint64_t> ||
                              std::is_same_v<Formula, formulas::Maximum> || std::is_same_v<Formula, formulas::Minimum>;

template <class Formula, class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) binary_forward_kernel(Operands<2, 1> o) {
  using V = ValueType<Formula, C>;
  for_operands<C, Formats::arithmetic>(o, [](std::int64_t, const C* x, C* y) {
    y[0] = static_cast<C>(Formula::forward(static_cast<V>(x[0]), static_cast<V>(x[1])));
  });
}

template <class Formula, class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) binary_backward_kernel(Operands<3, 2> o) {
  for_operands<C, Formats::arithmetic>(o, [](std::int64_t, const C* x, C* dx) { Formula::backward(x[0], x[1], x[2], dx[0], dx[1]); });
}

template <class Formula, class C>
void run_forward(const TensorView& a, const TensorView& b, const TensorView& y) {
  const auto o = operands<C, 2, 1>(y.shape, {a, b}, {y});
  launch(one_thread_each(o.threads(), y.device), binary_forward_kernel<Formula, C>, o);
}
template <class Formula, class C>
void run_backward(const TensorView& a, const TensorView& b, const TensorView& dy, const TensorView& da,
                  const TensorView& db) {
  const auto o = operands<C, 3, 2>(dy.shape, {a, b, dy}, {da, db});
  launch(one_thread_each(o.threads(), dy.device), binary_backward_kernel<Formula, C>, o);
}

template <class Formula>
void binary_forward(TensorView a, TensorView b, TensorView y) {
  if (y.numel() == 0) return;
  check_no_fp8(Formula::name, {a, b, y});
  if (a.dtype == DType::f64 || b.dtype == DType::f64) return run_forward<Formula, double>(a, b, y);
  if (is_floating(a.dtype) || is_floating(b.dtype)) return run_forward<Formula, float>(a, b, y);
  if constexpr (for_integers<Formula>) {
    run_forward<Formula, std::int64_t>(a, b, y);
  } else {
    fail({std::string(Formula::name), ": not defined for integers, got ", to_text(a.dtype)});
  }
}
template <class Formula>
void binary_backward(TensorView a, TensorView b, TensorView dy, TensorView da, TensorView db) {
  if (dy.numel() == 0) return;
  check_no_fp8(Formula::name, {a, b, dy, da, db});
  if (a.dtype == DType::f64 || b.dtype == DType::f64) return run_backward<Formula, double>(a, b, dy, da, db);
  run_backward<Formula, float>(a, b, dy, da, db);
}

template <class Formula>
void provide() {
  kernel::binary_forward<Formula>.provide(DeviceType::cuda, binary_forward<Formula>);
  kernel::binary_backward<Formula>.provide(DeviceType::cuda, binary_backward<Formula>);
}

}  // namespace

void provide_elementwise_binary();
void provide_elementwise_binary() {
  formulas::for_each_binary([&]<class Formula>() { provide<Formula>(); });
}

}  // namespace binade::cuda
