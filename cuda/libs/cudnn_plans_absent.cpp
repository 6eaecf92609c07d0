// Compiled instead of cudnn_frontend_graphs.cpp where the cudnn-frontend headers are not installed.
#include "binade/core/base/error.h"
#include "binade/cuda/libs/cudnn_plans.h"

namespace binade::cuda {

namespace {

[[noreturn]] void refuse() { fail({"cuDNN: this build has no cudnn-frontend headers"}); }

}  // namespace

std::string plan_library() { refuse(); }
PlanGpu plan_gpu(Device) { refuse(); }
std::unique_ptr<Plan> build_plan(const PlanSpec&, const PlanGpu&) { refuse(); }
std::unique_ptr<Plan> restore_plan(const PlanSpec&, const PlanGpu&, std::span<const std::uint8_t>) { refuse(); }

}  // namespace binade::cuda
