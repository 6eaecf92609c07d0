// The elementwise formulas, for host and device.
#pragma once
#include "binade/cuda/kernels/launch.h"
// launch.h first
#define BINADE_FORMULA __host__ __device__ inline
#include "binade/ops/formulas.h"
