// ShardedOptimizer (ZeRO-1) against the plain optimizer on every rank.
#include <cstdio>

#include "binade/core/backend/memory.h"
#include "binade/core/io/safetensors.h"
#include "binade/distributed/sharded_optimizer.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/data/folder.h"
#include "binade/tests/distributed/models.h"

namespace {

using namespace binade;
using namespace binade::test;

using Sharded = Ranks;

std::size_t optimizer_bytes() { return memory_stats(device()).current[static_cast<std::size_t>(MemoryTag::optimizer)]; }
constexpr optim::AdamWOptions adamw{.lr = 3e-3, .weight_decay = 0.1};

// small_mlp trained with AdamW, step by step, so that runs can be stopped, saved and compared.
class Trainer {
 public:
  Trainer(std::shared_ptr<dist::ProcessGroup> group, bool sharded, DType dtype = DType::f32, DType autocast = DType::f32)
      : group_(group), autocast_(autocast), model_(small_mlp()) {
    model_.to(dtype);
    parallel_ = std::make_unique<dist::DataParallel>(model_, small_buckets(group, 8));
    const std::size_t before = optimizer_bytes();
    if (sharded) optimizer_ = dist::shard<optim::AdamW>(*parallel_, adamw);
    else optimizer_ = std::make_unique<optim::AdamW>(model_.parameters(), adamw);
    scaler_ = amp::GradScaler({.init_scale = 256, .enabled = autocast == DType::f16});
    before_ = before;
  }
  dist::ShardedOptimizer& sharded() { return dynamic_cast<dist::ShardedOptimizer&>(*optimizer_); }
  nn::Sequential& model() { return model_; }
  optim::Optimizer& optimizer() { return *optimizer_; }
  amp::GradScaler& scaler() { return scaler_; }
  std::size_t state_bytes() const { return optimizer_bytes() - before_; }
  void steps(std::int64_t first, std::int64_t last, double clip_norm = 0, std::int64_t spoiled = -1) {
    const data::Batch set = small_batch(32 * 20);
    for (std::int64_t s = first; s < last; ++s) {
      const std::int64_t share = 32 / group_->size(), at = 32 * s + group_->rank() * share;
      const data::Batch batch{set.inputs.narrow(0, at, share), set.targets.narrow(0, at, share)};
      for (const auto& [x, y] : parallel_->split(batch)) {
        const amp::Autocast autocast(autocast_);
        Tensor loss = cross_entropy(model_(x.to(model_.parameters()[0].dtype())), y);
        if (s == spoiled && group_->rank() == group_->size() - 1) loss = loss * INFINITY;
        scaler_.scale(loss).backward();
      }
      for (optim::ParamGroup& g : optimizer_->param_groups()) g.lr = adamw.lr / static_cast<double>(s + 1);
      const Tensor before = scaler_.step(*optimizer_, {.max_norm = clip_norm});
      if (before) norm = before.item<double>();
      scaler_.update();
      optimizer_->zero_grad();
    }
  }
  Tensors parameters() const {
    Tensors out;
    for (const Tensor& x : model_.parameters()) out.push_back(x.detach().to(Device{}).clone());
    return out;
  }
  double norm = 0;

 private:
  std::shared_ptr<dist::ProcessGroup> group_;
  DType autocast_;
  nn::Sequential model_;
  std::unique_ptr<dist::DataParallel> parallel_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  amp::GradScaler scaler_;
  std::size_t before_ = 0;
};

TEST_F(Sharded, SameBitsAsDataParallelAfterTwentySteps) {
  struct Case {
    DType dtype, autocast;
  };
  for (const Case c : {Case{DType::f32, DType::f32}, Case{DType::f32, DType::f16}, Case{DType::bf16, DType::f32}}) {
    SCOPED_TRACE(std::string(name(c.dtype)) + " " + std::string(name(c.autocast)));
    Trainer plain(shared_group(), false, c.dtype, c.autocast), sharded(shared_group(), true, c.dtype, c.autocast);
    const Tensors start = plain.parameters();
    plain.steps(0, 20), sharded.steps(0, 20);
    expect_same_bits(sharded.parameters(), plain.parameters());
    EXPECT_GT(largest_difference(plain.parameters()[0], start[0]), 0.001);  // they did move
    for (const Tensor& x : sharded.parameters()) EXPECT_TRUE(same_on_all_ranks(x));
  }
}

TEST_F(Sharded, StateIsAnNthOfIt) {
  std::size_t whole = 0, part = 0;
  {
    Trainer plain(shared_group(), false, DType::bf16);
    plain.steps(0, 1);
    whole = plain.state_bytes();
  }
  {
    Trainer sharded(shared_group(), true, DType::bf16);
    sharded.steps(0, 1);
    part = sharded.state_bytes();
  }
  std::printf("    rank %d of %d: optimizer state %zu bytes, %zu without sharding\n", rank(), size(), part, whole);
  // Exactly 1/N of the elements; each tensor is rounded up to its allocation's size class, an eighth more, 64 bytes at least.
  EXPECT_LT(static_cast<double>(part), 1.15 * static_cast<double>(whole) / size() + 64 * 4 * 6);
  EXPECT_GT(part, 0U);
}

TEST_F(Sharded, ClippingUsesTheNormOverAllRanks) {
  Trainer plain(shared_group(), false), sharded(shared_group(), true);
  plain.steps(0, 5, 0.1), sharded.steps(0, 5, 0.1);
  EXPECT_GT(plain.norm, 0.1);  // it did clip
  // The sum of squares is taken in FP64 in another order: at most the last bit of the norm differs.
  EXPECT_NEAR(sharded.norm, plain.norm, 0x1p-22 * plain.norm);
  for (std::size_t i = 0; i < plain.parameters().size(); ++i)
    EXPECT_LT(largest_difference(sharded.parameters()[i], plain.parameters()[i]), 0x1p-24 * 40);
}

TEST_F(Sharded, OverflowOnOneRankSkipsTheStepEverywhere) {
  Trainer plain(shared_group(), false, DType::f32, DType::f16), sharded(shared_group(), true, DType::f32, DType::f16);
  plain.steps(0, 6, 0, 3), sharded.steps(0, 6, 0, 3);
  EXPECT_EQ(sharded.scaler().skipped_steps(), 1);
  EXPECT_EQ(sharded.scaler().get_scale(), 128);
  expect_same_bits(sharded.parameters(), plain.parameters());
}

// An infinity in one rank's part alone: only that rank sees it.
TEST_F(Sharded, AnInfinityInOnePartSkipsTheStepEverywhere) {
  Trainer run(shared_group(), true, DType::f32, DType::f16);
  run.steps(0, 1);
  const Tensors before = run.parameters();
  for (Tensor piece : run.optimizer().params()) piece.set_grad(full(piece.shape(), rank() == size() - 1 ? INFINITY : 1, {.device = device()}));
  run.scaler().step(run.optimizer());
  run.scaler().update();
  EXPECT_TRUE(run.scaler().last_step_skipped());
  expect_same_bits(run.parameters(), before);
}

// The folder of rank 0 for all.
std::string path_of(const Folder* folder) {
  Tensor path = zeros({256}, {.dtype = DType::u8});
  for (std::size_t i = 0; folder && i < folder->path().size(); ++i) path.set(static_cast<std::int64_t>(i), folder->path()[i]);
  group().broadcast(path).wait();
  std::string shared;
  for (std::int64_t i = 0; path.at(i) != 0; ++i) shared += static_cast<char>(path.at(i));
  return shared;
}

TEST_F(Sharded, SavedByManyLoadedByOneAndBack) {
  const std::unique_ptr<Folder> folder = rank() == 0 ? std::make_unique<Folder>() : nullptr;
  const std::string shared = path_of(folder.get());
  Trainer whole(shared_group(), true);
  whole.steps(0, 12);
  {
    Trainer many(shared_group(), true);
    many.steps(0, 3);
    many.sharded().save(shared + "/optimizer", 3);
    many.steps(3, 6);
    many.sharded().save(shared + "/optimizer", 6);  // takes the place of step 3
    if (rank() == 0) io::save(shared + "/model", many.model().state_dict());
  }
  group().barrier().wait();
  EXPECT_FALSE(std::filesystem::exists(shared + "/optimizer.3.0-of-" + std::to_string(size())));
  if (rank() == 0) write_file(shared + "/optimizer.9.0-of-3", "cut short");  // a save that did not finish
  group().barrier().wait();
  Trainer one(alone(), true);  // every process on its own: another world size
  one.model().load_state_dict(io::load(shared + "/model"));
  EXPECT_EQ(one.sharded().load(shared + "/optimizer"), 6);
  one.steps(6, 9);
  group().barrier().wait();
  if (rank() == 0) {
    one.sharded().save(shared + "/optimizer", 9);
    io::save(shared + "/model", one.model().state_dict());
  }
  group().barrier().wait();
  Trainer again(shared_group(), true);
  again.model().load_state_dict(io::load(shared + "/model"));
  EXPECT_EQ(again.sharded().load(shared + "/optimizer"), 9);
  again.steps(9, 12);
  expect_same_bits(again.parameters(), whole.parameters());
  group().barrier().wait();  // rank 0 removes the folder
}

// A job that ends between the optimizer's files and the checkpoint that names their step: the step before is still whole.
TEST_F(Sharded, EarlierFilesStayUntilTheCheckpointIsThere) {
  const std::unique_ptr<Folder> folder = rank() == 0 ? std::make_unique<Folder>() : nullptr;
  const std::string path = path_of(folder.get()) + "/optimizer";
  Trainer run(shared_group(), true);
  run.steps(0, 1);
  std::string order;
  run.sharded().save(path, 1, [&] { order += std::filesystem::exists(path + ".1.0-of-" + std::to_string(size())) ? "files, then this" : ""; });
  EXPECT_EQ(order, rank() == 0 ? "files, then this" : "");
  const optim::StateDict first = run.optimizer().state_dict();
  run.steps(1, 2);
  const std::string problem = error_of([&] { run.sharded().save(path, 2, [] { fail({"the disk is full"}); }); });
  EXPECT_EQ(problem, rank() == 0 ? "the disk is full" : "");
  group().barrier().wait();
  if (rank() == 0) write_file(path + ".2.0-of-64", "left by a run that was ended");
  group().barrier().wait();
  EXPECT_EQ(run.sharded().load(path, 1), 1);
  for (const auto& [name, x] : run.optimizer().state_dict()) EXPECT_EQ(x.to_vector<double>(), first.at(name).to_vector<double>()) << name;
  EXPECT_EQ(run.sharded().load(path), 2);
  expect_error([&] { run.sharded().load(path, 3); }, "ShardedOptimizer: load: there is no step whose files ");
  // Back at step 1 and on from there: what a later step left is gone before the checkpoint is written.
  group().barrier().wait();
  bool stale = true;
  run.sharded().save(path, 2, [&] { stale = std::filesystem::exists(path + ".2.0-of-64"); });
  EXPECT_EQ(stale, rank() > 0);
  group().barrier().wait();
  EXPECT_FALSE(std::filesystem::exists(path + ".1.0-of-" + std::to_string(size())));
  group().barrier().wait();  // rank 0 removes the folder
}

TEST_F(Sharded, Mistakes) {
  Trainer run(shared_group(), true);
  run.steps(0, 1);
  optim::StateDict state = run.optimizer().state_dict();
  for (auto& [name, x] : state)
    if (name.ends_with("exp_avg")) x = x.narrow(0, 0, x.numel() - 1).clone();
  expect_error([&] { run.optimizer().load_state_dict(state); }, "ShardedOptimizer: load: exp_avg of ");
  expect_error([&] { run.sharded().load("/nowhere/optimizer"); }, "ShardedOptimizer: load: there is no step whose files");
  const nn::Sequential model = small_mlp();
  const dist::DataParallel parallel(model, {.group = shared_group()});
  expect_error([&] { dist::ShardedOptimizer(parallel, {optim::ParamGroup{.params = {model.parameters()[0]}}}, nullptr); },
               "ShardedOptimizer: the groups hold 1 parameters, the model has 6");
}

}  // namespace
