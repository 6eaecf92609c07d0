#include "binade/cuda/libs/gemm_tuning.h"

#include <algorithm>
#include <limits>

#include "binade/core/backend/trace.h"
#include "binade/core/base/error.h"
#include "binade/cuda/libs/algorithm_file.h"
#include "binade/cuda/libs/cublaslt_functions.h"
#include "binade/cuda/runtime/check.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

namespace {

constexpr std::size_t most_algorithms = 8;
constexpr int rounds = 4, runs = 3;  // the first round warms up; of the others the fastest counts
constexpr double least_gain = 0.02;  // by which a later offer must be faster: less may be noise

// Everything an algorithm may depend on, in words.
std::string text_of(const Gemm& g) {
  const auto number = [](std::int64_t n) { return std::to_string(n); };
  std::string text = "m " + number(g.m) + " n " + number(g.n) + " k " + number(g.k) + " batch " + number(g.batch);
  for (const auto& [name, x] : {std::pair{", a ", &g.a}, {", b ", &g.b}, {", c ", &g.c}}) {
    text += name + to_text(x->dtype) + (x->transposed ? " transposed" : "") + " lead " + number(x->lead) + " stride " +
            number(x->batch_stride) + " aligned " + number(alignment_of(x->data));
  }
  text += ", epilogue " + number(epilogue_of(g)) + " aligned " + number(alignment_of(g.row_sums ? g.row_sums : g.bias)) +
          " and " + number(alignment_of(g.pre));
  return text + (g.accumulate ? ", accumulated" : "") + (g.tf32 ? ", tf32" : "") + ", workspace " +
         number(gemm_workspace_bytes);
}

struct TimingEvents {
  explicit TimingEvents(std::size_t count) : all(count) {
    for (cudaEvent_t& event : all) cuda_check(cudaEventCreate(&event), "event for timing");
  }
  ~TimingEvents() {
    for (cudaEvent_t event : all) cudaEventDestroy(event);
  }
  TimingEvents(const TimingEvents&) = delete;
  TimingEvents& operator=(const TimingEvents&) = delete;
  std::vector<cudaEvent_t> all;
};

std::string microseconds(double seconds) { return std::to_string(1e6 * seconds) + " us"; }

}  // namespace

struct GemmTuner::Times {  // of one run, in the order of the offers; infinite for what the library refuses to run
  std::vector<double> seconds;
};

GemmTuner::GemmTuner(const Gemm& g, const GemmDescriptors& d, cublasLtHandle_t handle, Device device)
    : g_(g), d_(d), handle_(handle), device_(device), file_(AlgorithmFile::of(device)),
      captured_(draw_advance_of(device) != nullptr) {
  if (file_ && !file_->usable()) file_ = nullptr;
}

std::size_t GemmTuner::wanted() const { return file_ && !captured_ ? most_algorithms : 1; }

std::optional<cublasLtMatmulAlgo_t> GemmTuner::known() const {
  if (!file_) return {};
  const std::optional<cublasLtMatmulAlgo_t> noted = file_->find(text_of(g_));
  if (!noted) return {};
  const CublasLtFunctions& lt = cublaslt();
  cublasLtMatmulHeuristicResult_t result{};
  std::uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_MASK;
  const bool runs_here =
      lt.algorithm_check(handle_, d_.product, d_.first, d_.second, d_.result, d_.result, &*noted, &result) ==
          CUBLAS_STATUS_SUCCESS &&
      result.workspaceSize <= gemm_workspace_bytes &&
      lt.algorithm_get(&*noted, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction, sizeof reduction, nullptr) ==
          CUBLAS_STATUS_SUCCESS &&
      (reduction & ~exact_reductions) == 0;
  if (!runs_here) {
    file_->give_up("has an algorithm that cuBLASLt does not run, or that rounds partial sums, for " + text_of(g_));
    return {};
  }
  if (traces("dispatch")) trace("dispatch", {"matmul on ", to_text(device_), ": algorithm of ", file_->path()});
  return noted;
}

GemmTuner::Times GemmTuner::measure(const std::vector<cublasLtMatmulAlgo_t>& offered) const {
  // What the product writes goes elsewhere, so that neither operands nor a result that is added to change.
  const auto bytes = [](std::int64_t elements, DType dtype) { return static_cast<std::size_t>(elements * size_of(dtype)); };
  const std::int64_t span = (g_.batch - 1) * g_.c.batch_stride + (g_.m - 1) * g_.c.lead + g_.n;
  const Scratch result(bytes(span, g_.c.dtype), device_), workspace(gemm_workspace_bytes, device_);
  const Scratch beside(bytes(g_.pre ? g_.m * g_.n : g_.m, g_.c.dtype), device_);
  Gemm trial = g_;
  if (g_.pre) trial.pre = beside.as<std::byte>();
  if (g_.row_sums) trial.row_sums = beside.as<std::byte>();
  const GemmDescriptors d(trial);
  const cudaStream_t stream = stream_of(device_);
  const TimingEvents events(offered.size() + 1);
  Times times{std::vector<double>(offered.size(), std::numeric_limits<double>::infinity())};
  std::vector<bool> refused(offered.size());
  for (int round = 0; round < rounds; ++round) {
    cuda_check(cudaEventRecord(events.all[0], stream), "event record");
    for (std::size_t i = 0; i < offered.size(); ++i) {
      for (int run = 0; run < runs && !refused[i]; ++run) {
        refused[i] = enqueue_gemm(trial, d, result.as<std::byte>(), handle_, offered[i], workspace, stream) !=
                     CUBLAS_STATUS_SUCCESS;
      }
      cuda_check(cudaEventRecord(events.all[i + 1], stream), "event record");
    }
    cuda_check(cudaEventSynchronize(events.all.back()), "wait for the products that are timed");
    for (std::size_t i = 0; i < offered.size() && round > 0; ++i) {
      float milliseconds = 0;
      cuda_check(cudaEventElapsedTime(&milliseconds, events.all[i], events.all[i + 1]), "time between events");
      if (!refused[i]) times.seconds[i] = std::min(times.seconds[i], 1e-3 * static_cast<double>(milliseconds) / runs);
    }
  }
  return times;
}

cublasLtMatmulAlgo_t GemmTuner::choose(const std::vector<cublasLtMatmulAlgo_t>& offered) const {
  if (!file_ || captured_ || !file_->usable()) return offered.front();
  Times times;
  try {
    times = measure(offered);
  } catch (const Error& error) {  // no memory for a second result, say: whatever is really wrong, the product will show
    if (traces("dispatch")) trace("dispatch", {"matmul on ", to_text(device_), ": not timed: ", error.what()});
    return offered.front();
  }
  std::size_t best = 0;
  for (std::size_t i = 1; i < offered.size(); ++i)
    if (times.seconds[i] < (1 - least_gain) * times.seconds[best]) best = i;
  if (traces("dispatch")) {
    trace("dispatch", {"matmul on ", to_text(device_), ": algorithm ", std::to_string(best + 1), " of ",
                       std::to_string(offered.size()), " is the fastest: ", microseconds(times.seconds[best]),
                       ", the first takes ", microseconds(times.seconds[0])});
  }
  file_->add(text_of(g_), offered[best], times.seconds[best], times.seconds[0]);
  return offered[best];
}

}  // namespace binade::cuda
