// Whether operations are recorded for backward, per thread.
#pragma once

namespace binade {

bool grad_enabled();

class GradMode {  // sets recording on or off until the end of the scope
 public:
  explicit GradMode(bool on);
  ~GradMode();
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool previous_;
};

struct NoGrad : GradMode {  // NoGrad guard;  nothing inside is recorded
  NoGrad() : GradMode(false) {}
};

}  // namespace binade
