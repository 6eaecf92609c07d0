// The list of operations that tests, docs and the benchmark walk, gathered from every family ops/<stem>.cpp.
#pragma once
#include "binade/core/autograd/op.h"

namespace binade {

// One default-constructed instance of each operation, by family. Written by the build from the list of files.
const std::vector<OpPtr>& all_ops();

}  // namespace binade
