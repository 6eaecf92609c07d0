// Unary elementwise kernels: each formula in float, double and, for neg and abs, integers.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/cuda/kernels/formulas_cuda.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

using kernel::FormulaArgs;

template <class Formula, class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    unary_forward_kernel(Operands<1, 1> o, FormulaArgs args) {
  for_operands<C, Formats::arithmetic>(o, [&](std::int64_t, const C* x, C* y) { y[0] = Formula::forward(x[0], args); });
}

template <class Formula, class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    unary_backward_kernel(Operands<2, 1> o, FormulaArgs args) {
  for_operands<C, Formats::arithmetic>(o, [&](std::int64_t, const C* x, C* dx) { dx[0] = Formula::backward(x[0], x[1], args); });
}

template <class Formula, class C>
void run_forward(const TensorView& x, const TensorView& y, FormulaArgs args) {
  const auto o = operands<C, 1, 1>(y.shape, {x}, {y});
  launch(one_thread_each(o.threads(), y.device), unary_forward_kernel<Formula, C>, o, args);
}
template <class Formula, class C>
void run_backward(const TensorView& x, const TensorView& dy, const TensorView& dx, FormulaArgs args) {
  const auto o = operands<C, 2, 1>(dx.shape, {x, dy}, {dx});
  launch(one_thread_each(o.threads(), dx.device), unary_backward_kernel<Formula, C>, o, args);
}

template <class Formula>
void unary_forward(TensorView x, TensorView y, FormulaArgs args) {
  if (y.numel() == 0) return;
  check_no_fp8(Formula::name, {x, y});
  if (x.dtype == DType::f64 || y.dtype == DType::f64) return run_forward<Formula, double>(x, y, args);
  if (is_floating(x.dtype)) return run_forward<Formula, float>(x, y, args);
  if constexpr (std::is_same_v<Formula, formulas::Neg> || std::is_same_v<Formula, formulas::Abs>) {
    run_forward<Formula, std::int64_t>(x, y, args);
  } else {
    fail({std::string(Formula::name), ": not defined for integers, got ", to_text(x.dtype)});
  }
}
template <class Formula>
void unary_backward(TensorView x, TensorView dy, TensorView dx, FormulaArgs args) {
  if (dx.numel() == 0) return;
  check_no_fp8(Formula::name, {x, dy, dx});
  if (x.dtype == DType::f64) return run_backward<Formula, double>(x, dy, dx, args);
  run_backward<Formula, float>(x, dy, dx, args);
}

template <class Formula>
void provide() {
  kernel::unary_forward<Formula>.provide(DeviceType::cuda, unary_forward<Formula>);
  kernel::unary_backward<Formula>.provide(DeviceType::cuda, unary_backward<Formula>);
}

}  // namespace

void provide_elementwise_unary();
void provide_elementwise_unary() {
  formulas::for_each_unary([&]<class Formula>() { provide<Formula>(); });
}

}  // namespace binade::cuda
