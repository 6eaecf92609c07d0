#include "binade/core/backend/matmul_precision.h"

#include <atomic>

namespace binade {

namespace {
std::atomic<MatmulPrecision> precision_now{MatmulPrecision::highest};
}

void set_float32_matmul_precision(MatmulPrecision precision) { precision_now = precision; }
MatmulPrecision float32_matmul_precision() { return precision_now; }

}  // namespace binade
