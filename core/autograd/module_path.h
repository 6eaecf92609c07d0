// Where an operation runs and what a parameter is called: the names of nn::Module::named_parameters, "h.0.attn.qkv".
// A thread remembers the innermost module it is in; a recorded operation keeps it, so that backward is attributed too.
#pragma once
#include <memory>
#include <string>

#include "binade/core/tensor/tensor.h"

namespace binade {

struct PathName : std::enable_shared_from_this<PathName> {  // a module or a parameter: its own name and the module it belongs to
  std::string name;                       // empty for a module that belongs to no other
  std::weak_ptr<const PathName> parent;  // names live as long as their modules
  // The first living parent counts, as a shared parameter has its first name.
  void set(const std::string& own_name, const std::shared_ptr<const PathName>& owner);
};
using PathPtr = std::shared_ptr<const PathName>;

std::string path_of(const PathPtr& place);  // "h.0.attn"; empty for none and for a root module

// The module whose operator() this thread is in. Near-free: two pointer writes. `place` must outlive the scope.
class ModuleScope {
 public:
  explicit ModuleScope(const PathName* place);
  ~ModuleScope();
  ModuleScope(const ModuleScope&) = delete;
  ModuleScope& operator=(const ModuleScope&) = delete;

 private:
  const PathName* previous_;
};

PathPtr current_module();   // of this thread; null outside modules
std::string module_path();  // path_of(current_module()); in an observer, the module of the operation it is told of

std::string name_of(const Tensor& parameter);              // "h.0.attn.qkv.weight"; empty for a tensor without a name
void set_name(const Tensor& leaf, const std::string& name);  // for parameters that belong to no module

}  // namespace binade
