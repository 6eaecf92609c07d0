// ShadowExecution: runs each operation a second time in higher precision, on the very inputs it had, forward and
// backward, and ranks operations by the relative error they introduce, ||y - reference|| / ||reference||. What was lost
// before an operation is not charged to it. Slow; the training's bits stay as they are.
//
//   amp::ShadowExecution shadow({.reference = amp::ShadowReference::f64});
//   {
//     const ObserverScope watching(shadow);
//     const amp::Autocast autocast(DType::f16);
//     scaler.scale(cross_entropy(model(x), y)).backward();
//   }
//   shadow.step();
//   std::cout << shadow.table();                    // worst first, and what to keep in FP32
//   std::ofstream("shadow.json") << shadow.json();  // fields: docs/observatory.md
#pragma once
#include <map>
#include <string>
#include <vector>

#include "binade/core/autograd/observer.h"

namespace binade::amp {

enum class ShadowReference {
  loops,  // forward: Op::reference, plain f64 loops written independently of the kernels; the slowest
  f64,    // the operation itself on f64 copies of its inputs; so always in backward, f32 aside
  f32     // the same in f32: quick, for operations in 16 bits
};

struct ShadowOptions {
  ShadowReference reference = ShadowReference::loops;
  bool include_casts = false;  // charge autocast's rounding of inputs to the operation that asked for it
  std::int64_t every = 1;      // shadows steps 0, every, 2 every, ..
  // An operation in 16 bits is suggested for FP32 from this many unit roundoffs of its dtype; a result that is
  // correctly rounded is off by at most one.
  double suspicious = 8;
};

struct ShadowError {
  double difference = 0, norm = 0;  // sums of squares over all calls
  std::int64_t calls = 0, skipped = 0;  // skipped: no reference could be had
  std::int64_t not_finite = 0;  // elements that are infinite or NaN, and finite in the reference
  double relative() const;      // infinite where not_finite > 0
};

struct ShadowEntry {
  std::string operation, module;  // the module is empty for a root, and in by_operation()
  DType dtype = DType::f32;       // of the last output; the gradients' dtype follows it
  ShadowError forward, backward;
  double worst() const;  // the larger relative error
};

class ShadowExecution final : public Observer {
 public:
  explicit ShadowExecution(ShadowOptions options = {});

  void step();  // ends a training step
  std::vector<ShadowEntry> entries() const;       // one for each operation of each module, worst first
  std::vector<ShadowEntry> by_operation() const;  // worst first
  std::vector<ShadowEntry> keep_in_fp32() const;  // those above ShadowOptions::suspicious, worst first
  std::string table() const;
  std::string json() const;

  void on_forward_call(const ForwardCall& call) override;
  void on_gradients(const BackwardCall& call) override;

 private:
  struct Recorded {  // kept from forward to backward
    OpPtr op;
    Tensors inputs;
  };
  ShadowEntry& entry(std::string_view operation);
  Tensor shadow_forward(const Op& op, Inputs inputs) const;
  Tensors widened(Inputs inputs) const;
  DType wide(Inputs inputs) const;

  ShadowOptions options_;
  std::int64_t step_ = 0;
  std::map<std::pair<std::string, std::string>, ShadowEntry> entries_;  // (module, operation)
  std::map<std::uint64_t, Recorded> recorded_;                          // by sequence
};

}  // namespace binade::amp
