// Learning-rate schedules: constant, linear, cosine, step decay, one cycle.
#include "binade/core/optim/schedule.h"

#include <cmath>
#include <limits>
#include <numbers>

namespace binade::optim {
namespace {

constexpr double unbounded = std::numeric_limits<double>::infinity();

void check_count(const char* name, std::int64_t value, std::int64_t least) {
  check(value >= least, "schedule: ", name, " must be at least ", least, ", got ", value);
}
double ratio(std::int64_t a, std::int64_t b) { return static_cast<double>(a) / static_cast<double>(b); }
// From `from` (part 0) to `to` (part 1) along half a cosine.
double half_cosine(double from, double to, double part) {
  return to + (from - to) * 0.5 * (1 + std::cos(std::numbers::pi * part));
}
// `after(step - warmup)` behind a linear warm-up to lr.
template <class After>
Schedule with_warmup(double lr, std::int64_t warmup, After after) {
  check_option("lr", lr, 0, unbounded);
  check_count("warmup", warmup, 0);
  return Schedule([lr, warmup, after](std::int64_t step) {
    return step < warmup ? lr * ratio(step + 1, warmup + 1) : after(step - warmup);
  });
}
void check_decay(const DecayOptions& o) {
  check_option("min_lr", o.min_lr, 0, unbounded);
  check_count("steps", o.steps, 1);
  check(o.warmup <= o.steps, "schedule: warmup must not exceed steps: warmup is ", o.warmup, ", steps is ", o.steps);
}

}  // namespace

double Schedule::lr_at(std::int64_t step) const {
  check(step >= 0, "schedule: steps count from 0, got ", step);
  return lr_at_(step);
}
void Schedule::set_lr(Optimizer& optimizer, std::int64_t step) const {
  const double lr = lr_at(step);
  for (ParamGroup& group : optimizer.param_groups()) group.lr = lr;
}

Schedule constant(ConstantOptions options) {
  return with_warmup(options.lr, options.warmup, [lr = options.lr](std::int64_t) { return lr; });
}
Schedule linear(DecayOptions options) {
  check_decay(options);
  return with_warmup(options.lr, options.warmup, [o = options](std::int64_t i) {
    const std::int64_t length = o.steps - o.warmup;
    return i >= length ? o.min_lr : o.lr + (o.min_lr - o.lr) * ratio(i, length);
  });
}
Schedule cosine(DecayOptions options) {
  check_decay(options);
  return with_warmup(options.lr, options.warmup, [o = options](std::int64_t i) {
    const std::int64_t length = o.steps - o.warmup;
    return i >= length ? o.min_lr : half_cosine(o.lr, o.min_lr, ratio(i, length));
  });
}
Schedule step_decay(StepDecayOptions options) {
  check_option("factor", options.factor, 0, unbounded);
  check_count("every", options.every, 1);
  return with_warmup(options.lr, options.warmup, [o = options](std::int64_t i) {
    return o.lr * std::pow(o.factor, static_cast<double>(i / o.every));
  });
}
Schedule one_cycle(OneCycleOptions o) {
  check_option("max_lr", o.max_lr, 0, unbounded);
  check_option("rise", o.rise, 0, 1);
  check_option("start_factor", o.start_factor, 1, unbounded);
  check_option("end_factor", o.end_factor, 1, unbounded);
  check_count("steps", o.steps, 1);
  return Schedule([o](std::int64_t step) {
    const double start = o.max_lr / o.start_factor, end = start / o.end_factor;
    const double last = static_cast<double>(o.steps) - 1, top = o.rise * static_cast<double>(o.steps) - 1;
    const double i = static_cast<double>(step);
    if (i >= last) return end;
    if (i < top) return half_cosine(start, o.max_lr, i / top);
    return half_cosine(o.max_lr, end, (i - top) / (last - top));
  });
}

}  // namespace binade::optim
