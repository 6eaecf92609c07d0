// A sharded optimizer's state in files, one per rank: PATH.<step>.<rank>-of-<ranks>.
#include <filesystem>
#include <map>
#include <optional>
#include <regex>

#include "binade/core/io/safetensors.h"
#include "binade/distributed/sharded_optimizer.h"

namespace binade::dist {

namespace {

namespace fs = std::filesystem;

struct FileSet {
  std::int64_t step, ranks;
  friend auto operator<=>(const FileSet&, const FileSet&) = default;
};

std::string file_name(const std::string& path, FileSet set, std::int64_t rank) {
  return path + "." + std::to_string(set.step) + "." + std::to_string(rank) + "-of-" + std::to_string(set.ranks);
}

std::map<FileSet, std::int64_t> files_beside(const std::string& path) {  // how many of each set are there
  std::map<FileSet, std::int64_t> sets;
  const fs::path folder = fs::absolute(path).parent_path();
  const std::string stem = fs::path(path).filename().string();
  static const std::regex pattern("\\.([0-9]{1,18})\\.([0-9]{1,9})-of-([0-9]{1,9})");
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(stem)) continue;
    const std::string rest = name.substr(stem.size());
    if (std::smatch match; std::regex_match(rest, match, pattern)) ++sets[{std::stoll(match[1]), std::stoll(match[3])}];
  }
  return sets;
}

}  // namespace

void ShardedOptimizer::save(const std::string& path, std::int64_t step, const std::function<void()>& then) const {
  check(step >= 0, "ShardedOptimizer: save: step must not be negative, got ", step);
  ProcessGroup& ranks = reducer_->group();
  const FileSet own{step, ranks.size()};
  io::save(file_name(path, own, ranks.rank()), state_dict(), {{"format", "binade optimizer shard 1"}});
  ranks.barrier().wait();  // all files of this step are on disk
  if (ranks.rank() > 0) return;
  const auto remove = [&](const auto& condition) {
    std::error_code ignored;
    for (const auto& [set, count] : files_beside(path)) {
      if (set == own || !condition(set)) continue;
      for (std::int64_t r = 0; r < set.ranks; ++r) fs::remove(file_name(path, set, r), ignored);
    }
  };
  remove([&](const FileSet& set) { return set.step >= step; });  // of a run that was ended and has been resumed before it
  if (then) then();
  remove([](const FileSet&) { return true; });
}

std::int64_t ShardedOptimizer::load(const std::string& path, std::optional<std::int64_t> step) {
  std::optional<FileSet> last;
  for (const auto& [set, count] : files_beside(path))
    if (count == set.ranks && set.step == step.value_or(set.step)) last = set;  // in order of steps
  check(last.has_value(), "ShardedOptimizer: load: there is no step whose files ", path, ".",
        step ? to_text(*step) : std::string("<step>"), ".<rank>-of-<ranks> are all there");
  optim::StateDict state;
  for (std::int64_t r = 0; r < last->ranks; ++r) {
    for (auto& [name, x] : io::load(file_name(path, *last, r))) state.insert_or_assign(name, x);
  }
  load_state_dict(state);
  return last->step;
}

}  // namespace binade::dist
