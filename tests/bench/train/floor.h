// The floor of a training step: its matrix products alone, each in plain layouts. On the CPU they are called from oneDNN
// directly with all threads; it is written from the model's dimensions and shares no code with binade's kernels, so that it
// cannot become slower or smaller together with them. On a GPU they are kernel::matmul: cuBLASLt's products, by our call.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "step.h"

namespace bench {

// Linear layers: forward, input gradient (not for a first layer), weight gradient in f32. Attention: six products over
// full time x time matrices per layer, though a causal step skips half of them. Operands are f32, or bf16 for bf16 and
// fp8 where the CPU multiplies bf16 (emulated fp8 is exact in it); fp16 is multiplied in f32. A GPU multiplies fp16 too.
class Floor {
 public:
  explicit Floor(const Case& c);
  ~Floor();
  double operator()();  // seconds of all products, once, until the device is done
  double flops() const { return flops_; }
  std::size_t products() const { return products_; }
  std::string operand_dtype() const { return binade::to_text(low_); }

  struct Product;

 private:
  struct Operand;
  void add(std::int64_t matrices, const Operand& a, const Operand& b, const Operand& c);
  void add_linear(std::int64_t rows, std::int64_t in, std::int64_t out, bool input_gradient);
  void add_attention(std::int64_t matrices, std::int64_t time, std::int64_t width);
  binade::Device device_;
  binade::DType low_;
  double flops_ = 0;
  std::size_t products_ = 0;
  std::vector<std::unique_ptr<Product>> list_;
};

}  // namespace bench
