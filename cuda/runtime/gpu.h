// The Device of an index that crossed the plugin's border.
#pragma once
#include "binade/core/base/device.h"

namespace binade::cuda {

inline Device gpu(int index) { return {DeviceType::cuda, index}; }

}  // namespace binade::cuda
