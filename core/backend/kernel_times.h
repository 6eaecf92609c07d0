// How long kernels take: by the host's clock on the CPU, by events of the device on a GPU, where the host only launches.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "binade/core/backend/kernel_slot.h"

namespace binade {

struct KernelTime {
  double seconds = 0;  // without the kernels it called
  std::int64_t calls = 0;
};

// Watches the kernels that this thread calls while it lives. A kernel's own time: what it called is taken off, and what its
// tasks call on other threads is its own. On a GPU a kernel reaches from the moment the compute stream comes to it to the
// moment it leaves it; the host waits for nothing before take(). A step that is captured is not timed, nor its replays.
class KernelTimes final : public KernelObserver {
 public:
  // What to call a kernel in the table, asked when it has returned; its slot's name unless given.
  using Label = std::function<std::string(std::string_view slot)>;
  explicit KernelTimes(Label label = {});
  ~KernelTimes();
  KernelTimes(const KernelTimes&) = delete;
  KernelTimes& operator=(const KernelTimes&) = delete;

  struct Table {
    std::map<std::string, KernelTime> kernels;
    double device_seconds = 0;  // from the first kernel's begin to the last one's end; of the GPU, if there is one
  };
  Table take();  // of all kernels since the last call; waits for the GPU they ran on

  void before_kernel(std::string_view name, Device device) override;
  void on_kernel(std::string_view name, Device device, double seconds) override;
  void after_kernel(Device device) override;

 private:
  static constexpr std::size_t nobody = ~std::size_t{0};
  struct Span {
    std::string label;        // empty: it threw, or was not timed
    std::size_t caller;       // another span, or nobody
    std::size_t begin, end;   // marks of the device
    double seconds = 0;       // on the CPU
  };
  struct Timeline {
    std::size_t marks = 0;
    std::vector<Span> spans;
    std::vector<std::size_t> open;  // those that run, outermost first
  };
  bool watches() const;
  Label label_;
  KernelObserver* previous_;
  std::thread::id thread_ = std::this_thread::get_id();
  std::map<std::pair<DeviceType, int>, Timeline> timelines_;
};

}  // namespace binade
