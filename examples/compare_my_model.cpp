// Which precision can my model train in? The comparison for a module and data of your own: here a small convolutional
// network on the 8x8 digits.
#include <binade/binade.h>

#include <cstdio>
#include <memory>

using namespace binade;

struct ConvNet : nn::Module {
  nn::Conv2d conv1 = add("conv1", nn::Conv2d(1, 16, 3, {.padding = {1, 1}}));
  nn::Conv2d conv2 = add("conv2", nn::Conv2d(16, 32, 3, {.padding = {1, 1}}));
  nn::MaxPool2d pool{2};
  nn::Linear fc1 = add("fc1", nn::Linear(32 * 2 * 2, 64)), fc2 = add("fc2", nn::Linear(64, 64)),
             fc3 = add("fc3", nn::Linear(64, 10));

  Tensor operator()(const Tensor& pixels) const {
    Tensor x = pixels.reshape({-1, 1, 8, 8});
    x = pool(relu(conv1(x)));
    x = pool(relu(conv2(x)));
    return fc3(relu(fc2(relu(fc1(x.flatten(1))))));
  }
};

int main() try {
  const auto [train, test] = data::digits();
  // A task from a seed alone: the same weights and batches in each mode.
  const compare::TaskFactory factory = [train = train, test = test](std::uint64_t seed) {
    manual_seed(seed);
    const ConvNet model;
    const auto loader = std::make_shared<data::Loader>(
        train, data::LoaderOptions{.batch_size = 64, .shuffle = true, .drop_last = true, .seed = seed});
    const auto at = std::make_shared<data::Loader::Iterator>(loader->begin());
    return compare::Task{
        .model = model,
        .training_loss =
            [=] {
              if (*at == loader->end()) *at = loader->begin();  // the next epoch
              const auto& [pixels, labels] = **at;
              const Tensor loss = cross_entropy(model(pixels), labels);
              ++*at;
              return loss;
            },
        .validation_loss = [=] { return cross_entropy(model(test.inputs()), test.targets()).item<double>(); },
        .items_per_step = 64,
    };
  };
  const compare::Comparison result = compare::run(
      factory, {.modes = compare::modes("fp32,bf16,fp16,fp8-current"), .seeds = 3, .steps = 200, .model = "ConvNet"});
  std::fputs(compare::table(result).c_str(), stdout);
  compare::write_html(result, "convnet.html");
  std::puts("wrote convnet.html");
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
