// The floor of a training step: its matrix products alone, each in plain layouts, called from oneDNN directly with all
// threads. It is written from the model's dimensions and shares no code with binade's kernels, so that it cannot become
// slower or smaller together with them.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "step.h"

namespace bench {

// Linear layers: forward, input gradient (not for a first layer), weight gradient in f32. Attention: six products over
// full time x time matrices per layer, though a causal step skips half of them. Operands are f32, or bf16 for bf16 and
// fp8 where the CPU multiplies bf16 (emulated fp8 is exact in it); fp16 is multiplied in f32.
class Floor {
 public:
  explicit Floor(const Case& c);
  ~Floor();
  double operator()();  // seconds of all products, once
  double flops() const { return flops_; }
  std::size_t products() const { return products_; }
  std::string operand_dtype() const { return bf16_ ? "bf16" : "f32"; }

 private:
  struct Product;
  void add_linear(std::int64_t rows, std::int64_t in, std::int64_t out, bool input_gradient);
  void add_attention(std::int64_t matrices, std::int64_t time, std::int64_t width);
  bool bf16_;
  double flops_ = 0;
  std::size_t products_ = 0;
  std::vector<std::unique_ptr<Product>> list_;
};

}  // namespace bench
