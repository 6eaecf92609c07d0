#include "binade/tests/op_suite/check.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"

namespace binade::test {

namespace {

double growth(const Sample& sample) { return sample.budget * std::sqrt(std::max(1.0, sample.reduction)); }

// Sentinels behind outputs are not possible here: an operation allocates its own result. Overruns are left to the
// address sanitizer, and to the NaNs between the elements of strided inputs.
class ForwardJudge final : public Observer {
 public:
  ForwardJudge(const Sample& sample, Findings& findings) : sample_(sample), findings_(findings) {}

  void on_forward(const OpPtr& op, Inputs inputs, const Tensor& output) override {
    if (busy_) return;
    busy_ = true;
    const std::string name(op->name());
    findings_.seen.insert(name);
    try {
      if (std::string wrong = judge(*op, inputs, output); !wrong.empty()) findings_.add(name, wrong);
    } catch (const std::exception& e) {
      findings_.add(name, std::string("the check threw: ") + e.what());
    }
    busy_ = false;
  }

 private:
  std::string judge(const Op& op, Inputs inputs, const Tensor& output) const {
    const NoGrad guard;
    const Spec spec = op.infer(inputs);
    if (!(output.shape() == spec.shape))
      return "result has shape " + to_text(output.shape()) + ", infer says " + to_text(spec.shape);
    if (output.dtype() != spec.dtype)
      return "result is " + to_text(output.dtype()) + ", infer says " + to_text(spec.dtype);
    const Tensors wide = widened(inputs);
    const Tensor expected = op.reference(wide);
    if (!(expected.shape() == output.shape()))
      return "reference has shape " + to_text(expected.shape()) + ", result " + to_text(output.shape());
    if (!is_floating(output.dtype())) return compare(output, expected, 0);
    // One rounding to the result's dtype comes on top of the error of the arithmetic.
    const double rounding = is_arithmetic_float(output.dtype()) ? 0 : 0.5;
    // Between its product and its result, an operation of class low_input rounds to its operands' dtype.
    const DType coarsest = op.precision() == Precision::low_input ? inputs[0].dtype() : output.dtype();
    const double allowed = (growth(sample_) + rounding) * epsilon(coarsest) * largest_magnitude(expected);
    return compare(output, expected, allowed);
  }

  const Sample& sample_;
  Findings& findings_;
  bool busy_ = false;
};

class NameCollector final : public Observer {
 public:
  std::set<std::string> forward, backward;
  int operations = 0;
  void on_forward(const OpPtr& op, Inputs, const Tensor&) override {
    forward.emplace(op->name());
    ++operations;
  }
  void on_backward(const Op& op, const Tensor&) override { backward.emplace(op.name()); }
};

class AutocastJudge final : public Observer {
 public:
  AutocastJudge(DType dtype, Findings& findings) : dtype_(dtype), findings_(findings) {}

  void on_forward(const OpPtr& op, Inputs inputs, const Tensor& output) override {
    const std::string name(op->name());
    findings_.seen.insert(name);
    const auto expect = [&](DType got, DType wanted, const char* what) {
      if (got != wanted)
        findings_.add(name, std::string(what) + " is " + to_text(got) + " under autocast, class " +
                                std::string(binade::name(op->precision())) + " asks for " + to_text(wanted));
    };
    const bool floating = is_arithmetic_float(output.dtype());
    switch (op->precision()) {
      case Precision::low:
        for (const Tensor& x : inputs)
          if (x && is_arithmetic_float(x.dtype())) expect(x.dtype(), dtype_, "an input");
        if (floating) expect(output.dtype(), dtype_, "the result");
        break;
      case Precision::low_input:
        for (const Tensor& x : inputs)
          if (x && is_arithmetic_float(x.dtype())) expect(x.dtype(), dtype_, "an input");
        if (floating) expect(output.dtype(), DType::f32, "the result");
        break;
      case Precision::full:
        for (const Tensor& x : inputs)
          if (x && is_arithmetic_float(x.dtype())) expect(x.dtype(), DType::f32, "an input");
        [[fallthrough]];
      case Precision::full_output:
        if (floating) expect(output.dtype(), DType::f32, "the result");
        break;
      case Precision::widest: {
        const Tensor* first = nullptr;
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          if (!inputs[i] || !op->promotes(i)) continue;
          if (!first) first = &inputs[i];
          expect(inputs[i].dtype(), first->dtype(), "an input");
        }
        if (floating && first && is_arithmetic_float(first->dtype()))
          expect(output.dtype(), first->dtype(), "the result");
        break;
      }
      case Precision::as_is:
        break;
    }
  }

 private:
  DType dtype_;
  Findings& findings_;
};

bool differentiable(const SampleInput& input, const Tensor& x) {
  return input.differentiable && x && is_arithmetic_float(x.dtype());
}

void require_gradients(const Sample& sample, Tensors& inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (differentiable(sample.inputs[i], inputs[i])) inputs[i].requires_grad_();
}

}  // namespace

Tensor call(const Sample& sample, Inputs inputs) {
  manual_seed(1234);
  return sample.function(inputs);
}

double largest_magnitude(const Tensor& x) {
  double largest = 1;
  for (const double v : x.to_vector<double>())
    if (std::isfinite(v)) largest = std::max(largest, std::abs(v));
  return largest;
}

std::string compare(const Tensor& got, const Tensor& expected, double allowed) {
  const std::vector<double> a = got.to_vector<double>(), b = expected.to_vector<double>();
  const double top = is_floating(got.dtype()) ? largest(got.dtype()) : 0x1p63;
  std::size_t zeros = 0, expected_zeros = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    zeros += a[i] == 0 ? 1 : 0;
    expected_zeros += b[i] == 0 || std::abs(b[i]) <= allowed ? 1 : 0;
    const bool overflow_is_right = std::abs(b[i]) >= top * (1 - 8 * 0x1p-8) && std::isinf(a[i]);
    bool fine = std::abs(a[i] - b[i]) <= allowed;
    if (std::isnan(b[i]) || std::isnan(a[i]))
      fine = std::isnan(a[i]) && std::isnan(b[i]);
    else if (std::isinf(b[i]))
      fine = a[i] == b[i];
    else if (overflow_is_right)
      fine = std::signbit(a[i]) == std::signbit(b[i]);
    if (!fine)
      return "element " + std::to_string(i) + " of " + to_text(got.shape()) + " " + to_text(got.dtype()) + " is " +
             to_text(a[i]) + ", expected " + to_text(b[i]) + " within " + to_text(allowed);
  }
  if (2 * zeros > a.size() && 2 * expected_zeros <= a.size() && a.size() > 1)
    return "mostly zero: " + std::to_string(zeros) + " of " + std::to_string(a.size()) + " elements";
  return {};
}

Findings check_forward(const Sample& sample, DType dtype, Layout layout) {
  Findings findings;
  try {
    const DrawnInputs drawn = draw_inputs(sample, dtype, layout);
    ForwardJudge judge(sample, findings);
    const ObserverScope scope(judge);
    const NoGrad guard;
    const Tensor y = call(sample, drawn.inputs);
    if (!y) findings.add(sample.name, "the result is undefined");
    if (!drawn.poison_is_intact()) findings.add(sample.name, "memory between the elements of an input was written");
  } catch (const std::exception& e) {
    findings.add(sample.name, std::string("threw: ") + e.what());
  }
  return findings;
}

namespace {

struct GradientRun {
  Tensor y;
  Tensors inputs, gradients;  // undefined where none was delivered
  NameCollector names;
};

GradientRun run_gradients(const Sample& sample, Tensors inputs) {
  GradientRun result;
  require_gradients(sample, inputs);
  const ObserverScope scope(result.names);
  result.y = call(sample, inputs);
  result.inputs = inputs;
  if (result.y.requires_grad()) result.y.backward(loss_weights(result.y.shape(), result.y.dtype(), result.y.device()));
  for (const Tensor& x : inputs) result.gradients.push_back(x && x.requires_grad() ? x.grad() : Tensor());
  return result;
}

double loss_of(const Sample& sample, Inputs inputs, const std::vector<double>& weights, double* magnitude) {
  const std::vector<double> y = call(sample, inputs).to_vector<double>();
  double sum = 0, total = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    sum += y[i] * weights[i];
    total += std::abs(y[i] * weights[i]);
  }
  if (magnitude) *magnitude = total;
  return sum;
}

// The step balances the two errors of a central difference: h^2 f'''/6, and rounding of the loss, eps |loss| / h.
// h = 6e-6 |x| makes the first about 1e-11 f''' and the second about 4e-11 times the sum of the loss's terms.
void check_central_differences(const Sample& sample, const GradientRun& run, Findings& findings) {
  const NoGrad guard;
  constexpr std::int64_t most = 40;
  const std::vector<double> weights = loss_weights(run.y.shape(), DType::f64).to_vector<double>();
  for (std::size_t k = 0; k < run.inputs.size(); ++k) {
    if (!run.inputs[k] || !run.inputs[k].requires_grad()) continue;
    Tensors inputs;
    for (const Tensor& x : run.inputs) inputs.push_back(x ? x.detach() : x);
    Tensor& x = inputs[k];
    const std::int64_t count = x.numel(), stride = std::max<std::int64_t>(1, count / most);
    const double scale = run.gradients[k] ? largest_magnitude(run.gradients[k]) : 1;
    for (std::int64_t at = 0; at < count; at += stride) {
      const std::int64_t i = std::min(count - 1, at + static_cast<std::int64_t>(seed_of(sample.name) >> 8) % stride);
      const double value = x.at(i), h = 6e-6 * std::max(1.0, std::abs(value));
      double magnitude = 0;
      x.set(i, value + h);
      const double above = loss_of(sample, inputs, weights, &magnitude);
      x.set(i, value - h);
      const double below = loss_of(sample, inputs, weights, nullptr);
      x.set(i, value);
      const double expected = (above - below) / (2 * h);
      const double got = run.gradients[k] ? run.gradients[k].at(i) : 0;
      const double allowed = 1e-6 * scale + 16 * epsilon(DType::f64) * magnitude / h;
      if (std::isnan(expected) && std::isnan(got)) continue;
      if (!(std::abs(got - expected) <= allowed)) {
        findings.add(sample.name, "gradient of input " + std::to_string(k) + ", element " + std::to_string(i) + " is " +
                                      to_text(got) + ", central difference " + to_text(expected) + " within " +
                                      to_text(allowed));
        break;
      }
    }
  }
}

}  // namespace

Findings check_gradients(const Sample& sample, DType dtype, Layout layout) {
  Findings findings;
  if (!sample.smooth) return findings;
  bool any = false;
  for (const SampleInput& input : sample.inputs) any = any || (input.differentiable && input.shape.numel() > 0);
  try {
    const DrawnInputs drawn = draw_inputs(sample, dtype, layout);
    const GradientRun run = run_gradients(sample, drawn.inputs);
    if (!is_arithmetic_float(run.y.dtype())) return findings;
    if (any && !run.y.requires_grad()) findings.add(sample.name, "the result does not require gradients");
    findings.differentiated = run.names.backward;
    for (std::size_t k = 0; k < run.inputs.size(); ++k) {
      const Tensor& gradient = run.gradients[k];
      if (!gradient) continue;
      if (gradient.dtype() != run.inputs[k].dtype() || !(gradient.shape() == run.inputs[k].shape()))
        findings.add(sample.name, "gradient of input " + std::to_string(k) + " is " + to_text(gradient.dtype()) + " " +
                                      to_text(gradient.shape()));
    }
    if (!drawn.poison_is_intact()) findings.add(sample.name, "memory between the elements of an input was written");
    if (dtype == DType::f64 && layout == Layout::contiguous) {
      check_central_differences(sample, run, findings);
      return findings;
    }
    const GradientRun exact = run_gradients(sample, widened(drawn.inputs));
    for (std::size_t k = 0; k < run.inputs.size(); ++k) {
      if (!run.gradients[k] != !exact.gradients[k])
        findings.add(sample.name, "gradient of input " + std::to_string(k) + " is missing in one dtype");
      if (!run.gradients[k] || !exact.gradients[k]) continue;
      // Every operation on the way rounds its result once, and its gradient once.
      const double allowed = growth(sample) * epsilon(dtype) * (1 + run.names.operations) *
                             std::max(largest_magnitude(exact.gradients[k]), largest_magnitude(exact.y));
      if (const std::string wrong = compare(run.gradients[k], exact.gradients[k], allowed); !wrong.empty())
        findings.add(sample.name, "gradient of input " + std::to_string(k) + ": " + wrong);
    }
  } catch (const std::exception& e) {
    findings.add(sample.name, std::string("threw: ") + e.what());
  }
  return findings;
}

Findings check_autocast(const Sample& sample, DType dtype) {
  Findings findings;
  try {
    Tensors inputs = draw_inputs(sample, DType::f32, Layout::contiguous).inputs;
    require_gradients(sample, inputs);
    Tensor y;
    {
      AutocastJudge judge(dtype, findings);
      const ObserverScope scope(judge);
      const amp::Autocast autocast(dtype);
      y = call(sample, inputs);
    }
    if (y.requires_grad()) y.backward(loss_weights(y.shape(), y.dtype(), y.device()));
    for (const Tensor& x : inputs)
      if (x && x.requires_grad() && x.grad() && x.grad().dtype() != DType::f32)
        findings.add(sample.name, "the gradient of an f32 leaf is " + to_text(x.grad().dtype()));
  } catch (const std::exception& e) {
    findings.add(sample.name, std::string("threw: ") + e.what());
  }
  return findings;
}

Findings check_threads(const Sample& sample) {
  Findings findings;
  const int threads = omp_get_max_threads();
  const auto bits = [&](int count) {
    omp_set_num_threads(count);
    const GradientRun run = run_gradients(sample, draw_inputs(sample, DType::f32, Layout::contiguous).inputs);
    std::vector<std::uint64_t> all;
    const auto append = [&](const Tensor& x) {
      if (!x) return;
      for (const double v : x.to_vector<double>()) all.push_back(std::bit_cast<std::uint64_t>(v));
    };
    append(run.y);
    for (const Tensor& g : run.gradients) append(g);
    return all;
  };
  try {
    if (bits(1) != bits(2)) findings.add(sample.name, "one and two threads differ");
  } catch (const std::exception& e) {
    findings.add(sample.name, std::string("threw: ") + e.what());
  }
  omp_set_num_threads(threads);
  return findings;
}

}  // namespace binade::test
