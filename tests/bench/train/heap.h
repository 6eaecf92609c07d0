// Counts operator new: what a step asks of the general heap, beside the memory of tensors.
#pragma once
#include <cstdint>

namespace bench {
std::uint64_t heap_allocations();  // of all threads so far
}
