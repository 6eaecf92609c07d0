// When the device comes by points of its compute stream: what DeviceBackend offers for kernel times.
#pragma once
#include <vector>

namespace binade::cuda {

bool mark(int device);
std::vector<double> take_marks(int device);

}  // namespace binade::cuda
