#include "binade/core/autograd/module_path.h"

#include "binade/core/tensor/tensor_impl.h"

namespace binade {

namespace {
thread_local const PathName* innermost = nullptr;
}

void PathName::set(const std::string& own_name, const PathPtr& owner) {
  if (!parent.expired()) return;
  name = own_name;
  parent = owner;
}

std::string path_of(const PathPtr& place) {
  std::string path;
  for (PathPtr at = place; at; at = at->parent.lock()) {
    if (at->name.empty()) continue;
    path = path.empty() ? at->name : at->name + "." + path;
  }
  return path;
}

ModuleScope::ModuleScope(const PathName* place) : previous_(innermost) { innermost = place; }
ModuleScope::~ModuleScope() { innermost = previous_; }

PathPtr current_module() { return innermost ? innermost->shared_from_this() : nullptr; }
std::string module_path() { return path_of(current_module()); }

std::string name_of(const Tensor& parameter) { return parameter ? path_of(parameter.impl()->name) : std::string(); }

void set_name(const Tensor& leaf, const std::string& name) {
  check(leaf.defined() && leaf.is_leaf(), "set_name: expected a leaf, for the name \"", name, "\"");
  auto named = std::make_shared<PathName>();
  named->name = name;
  leaf.impl()->name = named;
}

}  // namespace binade
