// Autocast: inside the scope, operations run in the dtype their precision class asks for (torch.autocast).
// Per thread; scopes nest; the previous state returns at the end of the scope, also when an exception leaves it.
#pragma once
#include "binade/core/base/dtype.h"

namespace binade::amp {

class [[nodiscard]] Autocast {
 public:
  explicit Autocast(DType dtype, bool enabled = true);  // f16 or bf16; f32 or enabled = false switches it off
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool was_on_;
  DType was_;
};

bool autocast_enabled();
DType autocast_dtype();

}  // namespace binade::amp
