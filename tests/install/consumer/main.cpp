#include <binade/binade.h>
using namespace binade;

int main() {
  const Device device = default_device();               // CUDA where there is one, else the CPU
  manual_seed(42);

  const auto [train, test] = data::fashion_mnist();     // 28×28 images, flattened, and labels
  nn::Sequential model(nn::Linear(784, 256), nn::ReLU(), nn::Linear(256, 10));
  model.to(device);

  optim::AdamW optimizer(model.parameters(), {.lr = 1e-3});
  amp::GradScaler scaler;

  for (const auto& [images, labels] : data::Loader(train, {.batch_size = 64, .shuffle = true, .device = device})) {
    Tensor loss;
    {
      amp::Autocast autocast(DType::f16);
      loss = cross_entropy(model(images), labels);
    }
    scaler.scale(loss).backward();
    scaler.step(optimizer);
    scaler.update();
    optimizer.zero_grad();
  }
}
