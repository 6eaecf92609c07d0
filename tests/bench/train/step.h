// The models and training steps that are measured.
#pragma once
#include <binade/binade.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace bench {

struct Case {
  std::string model = "char";  // mlp, char, gpt2
  std::string precision = "fp32";  // fp32, bf16, fp16 (dynamic loss scaling), fp8, fp8_current
  std::int64_t batch = 8, time = 256;
  binade::Device device;
  bool activation_checkpointing = false;  // of the GPTs
  std::int64_t loss_chunk = 0;            // of the GPTs
  bool graphed = false;                   // recorded once as a CUDA graph and replayed; on the CPU nothing changes
};

// What the models' linear layers and attention look like, for the floor and for the table of a case.
struct Dimensions {
  std::int64_t layers, heads, channels, vocabulary;
};
inline constexpr Dimensions gpt2_dimensions{12, 12, 768, 50257}, char_dimensions{6, 6, 384, 96};
inline constexpr std::int64_t mlp_sizes[] = {784, 256, 10};
const Dimensions* dimensions_of(const Case& c);  // null for the mlp; throws Error for another model

// Forward and loss, backward, gradient clipping, AdamW: the step of docs/mixed_precision.md on fixed random data.
class Step {
 public:
  explicit Step(const Case& c);
  double operator()();  // one step; its seconds, until the device is done

  std::int64_t items = 0;  // tokens, or images, per step
  double loss() const { return loss_.item<double>(); }  // of the last step

 private:
  binade::Tensor run(const binade::Tensor& inputs, const binade::Tensor& targets);  // its loss
  binade::DType autocast_;
  binade::Device device_;
  std::unique_ptr<binade::nn::Sequential> mlp_;
  std::unique_ptr<binade::nn::GPT> gpt_;
  binade::Tensor inputs_, targets_, loss_;
  std::unique_ptr<binade::optim::AdamW> optimizer_;
  std::unique_ptr<binade::amp::GradScaler> scaler_;
  std::unique_ptr<binade::cuda::GraphedStep> graphed_;
};

}  // namespace bench
