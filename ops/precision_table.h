// The precision class of every operation as a table for people.
#pragma once
#include <string>

namespace binade {

// One line per operation, by class and then by name: operation, class, what amp::Autocast does with it. Ends with a
// newline. `banned` operations throw under autocast.
std::string precision_table();

}  // namespace binade
