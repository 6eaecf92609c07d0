// binary_cross_entropy of probabilities p: -(t log p + (1 - t) log(1 - p)), each logarithm at least -100, so that a p
// of exactly 0 or 1 has a finite loss and gradient (the bounds of torch.nn.functional.binary_cross_entropy).
#include <algorithm>
#include <cmath>

#include "binade/core/autograd/autocast_state.h"
#include "binade/core/autograd/op.h"
#include "binade/core/backend/binary_cross_entropy_kernels.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {
namespace {

struct BinaryCrossEntropy final : Op, BannedUnderAutocast {
  std::string_view name() const override { return "binary_cross_entropy"; }
  Precision precision() const override { return Precision::widest; }  // without autocast; integer targets are welcome
  // 16 bits round p next to 1 to 1 itself (f16: above 1 - 2^-12), and the loss with it: the logit is what to keep.
  std::string_view advice() const override { return "use bce_with_logits on what the sigmoid was given"; }

  Spec infer(Inputs in) const override {
    check_float(name(), "p", in[0]);
    check_defined(name(), "target", in[1]);
    check_same_dtype(name(), "p", in[0], "target", in[1]);
    check(in[0].shape() == in[1].shape(), name(), ": shapes differ: p is ", in[0].shape(), ", target is ",
          in[1].shape());
    return in[0].spec();
  }

  Tensor forward(Inputs in, Saved& saved) const override {
    check_allowed(name());
    const Spec spec = infer(in);
    Tensor loss = empty(spec, in[0].device());
    kernel::binary_cross_entropy(in[0], in[1], loss);
    saved.save(in[0]);
    saved.save(in[1]);
    return loss;
  }

  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor p = saved[0], target = saved[1];
    Tensor dp, dtarget;
    if (out.wanted(0)) dp = empty(p.spec(), p.device());
    if (out.wanted(1)) dtarget = empty(p.spec(), p.device());
    kernel::binary_cross_entropy_backward(p, target, dy, dp, dtarget);
    if (out.wanted(0)) out.put(0, dp);
    if (out.wanted(1)) out.put(1, dtarget);
  }

  Tensor reference(Inputs in) const override {
    Tensor y = empty(in[0].shape(), {.dtype = DType::f64});
    const std::vector<double> p = in[0].to_vector<double>(), target = in[1].to_vector<double>();
    const auto result = y.data<double>();
    const double least = std::exp(-100.0);  // below it a logarithm is -100
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double yes = std::log2(std::max(p[i], least)), no = std::log2(std::max(1 - p[i], least));
      result[i] = -0.693147180559945309417232121 * (no + target[i] * (yes - no));
    }
    return y;
  }
};

}  // namespace

Tensor binary_cross_entropy(const Tensor& p, const Tensor& target, Reduction reduction) {
  const Tensor each = run(BinaryCrossEntropy{}, {p, target});
  return reduction == Reduction::none ? each : reduction == Reduction::sum ? sum(each) : mean(each);
}

namespace families {
std::vector<OpPtr> binary_cross_entropy_ops();
std::vector<OpPtr> binary_cross_entropy_ops() { return {std::make_shared<BinaryCrossEntropy>()}; }
}  // namespace families

}  // namespace binade
