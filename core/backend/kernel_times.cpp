#include "binade/core/backend/kernel_times.h"

#include <omp.h>

#include <exception>
#include <utility>

#include "binade/core/backend/plugin.h"

namespace binade {

KernelTimes::KernelTimes(Label label)
    : label_(label ? std::move(label) : [](std::string_view slot) { return std::string(slot); }),
      previous_(std::exchange(kernel_observer, this)) {}

KernelTimes::~KernelTimes() {
  kernel_observer = previous_;
  try {  // marks that nobody asked for
    take();
  } catch (const std::exception&) {  // of a device that failed: whoever uses it next is told
  }
}

bool KernelTimes::watches() const { return !omp_in_parallel() && std::this_thread::get_id() == thread_; }

void KernelTimes::before_kernel(std::string_view, Device device) {
  if (!watches()) return;
  Timeline& t = timelines_[{device.type, device.index}];
  Span span{.label = {}, .caller = t.open.empty() ? nobody : t.open.back(), .begin = 0, .end = 0};
  if (device.type == DeviceType::cuda && required_cuda_backend().mark(device.index)) span.begin = ++t.marks;
  t.open.push_back(t.spans.size());
  t.spans.push_back(std::move(span));
}

void KernelTimes::on_kernel(std::string_view name, Device device, double seconds) {
  if (!watches()) return;
  Timeline& t = timelines_[{device.type, device.index}];
  Span& span = t.spans[t.open.back()];
  span.seconds = seconds;
  if (device.type == DeviceType::cuda) {
    if (span.begin == 0 || !required_cuda_backend().mark(device.index)) return;
    span.end = ++t.marks;
  }
  span.label = label_(name);
}

void KernelTimes::after_kernel(Device device) {
  if (watches()) timelines_[{device.type, device.index}].open.pop_back();
}

KernelTimes::Table KernelTimes::take() {
  Table table;
  for (auto& [device, t] : timelines_) {
    if (device.first == DeviceType::cuda && t.marks > 0) {
      const std::vector<double> at = required_cuda_backend().take_marks(device.second);
      for (Span& span : t.spans)
        if (span.end > 0) span.seconds = at[span.end - 1] - at[span.begin - 1];
      table.device_seconds += at.back();
    }
    std::vector<double> own(t.spans.size());
    for (std::size_t i = 0; i < t.spans.size(); ++i) {
      const Span& span = t.spans[i];
      if (span.label.empty()) continue;
      own[i] += span.seconds;
      if (span.caller != nobody) own[span.caller] -= span.seconds;
    }
    for (std::size_t i = 0; i < t.spans.size(); ++i) {
      if (t.spans[i].label.empty()) continue;
      KernelTime& kernel = table.kernels[t.spans[i].label];
      kernel.seconds += own[i];
      ++kernel.calls;
    }
  }
  timelines_.clear();
  return table;
}

}  // namespace binade
