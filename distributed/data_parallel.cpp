#include "binade/distributed/data_parallel.h"

#include <algorithm>
#include <map>

#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::dist {

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

// Every rank's text, of any length.
std::vector<std::string> all_texts(ProcessGroup& group, const std::string& own) {
  const std::int64_t ranks = group.size();
  const Tensor sizes = zeros({ranks}, {.dtype = DType::i64});
  group.all_gather(sizes, from_vector(std::vector<std::int64_t>{std::ssize(own)}, {1})).wait();
  const std::vector<std::int64_t> lengths = sizes.to_vector<std::int64_t>();
  const std::int64_t longest = std::ranges::max(lengths);
  std::vector<std::uint8_t> bytes(own.begin(), own.end());
  bytes.resize(static_cast<std::size_t>(longest));
  const Tensor all = zeros({ranks * longest}, {.dtype = DType::u8});
  group.all_gather(all, from_vector(bytes, {longest})).wait();
  const std::vector<std::uint8_t> text = all.to_vector<std::uint8_t>();
  std::vector<std::string> texts;
  for (std::int64_t r = 0; r < ranks; ++r)
    texts.emplace_back(text.begin() + r * longest, text.begin() + r * longest + lengths[static_cast<std::size_t>(r)]);
  return texts;
}

// The error names the first parameter or buffer that is not the same everywhere, and who has what.
void check_agreement(ProcessGroup& group, const NamedTensors& tensors) {
  if (group.size() == 1) return;
  std::string own;
  for (const auto& [name, x] : tensors) own += name + " " + to_text(x.shape()) + " " + to_text(x.dtype()) + "\n";
  const std::vector<std::string> texts = all_texts(group, own);
  std::size_t most = 0;
  std::vector<std::vector<std::string>> lines;
  for (const std::string& text : texts) {
    lines.push_back(lines_of(text));
    most = std::max(most, lines.back().size());
  }
  for (std::size_t i = 0; i < most; ++i) {
    std::map<std::string, std::string> who;  // what -> ranks
    for (std::size_t r = 0; r < lines.size(); ++r) {
      std::string& ranks = who[i < lines[r].size() ? lines[r][i] : "nothing"];
      ranks += (ranks.empty() ? "" : ", ") + std::to_string(r);
    }
    if (who.size() == 1) continue;
    std::string text;
    for (const auto& [what, ranks] : who) text += (text.empty() ? "" : "; ") + what + " on rank " + ranks;
    fail({"DataParallel: the ranks' models differ: ", text});
  }
}

void broadcast_all(ProcessGroup& group, const NamedTensors& tensors) {
  for (const auto& [name, x] : tensors) {
    check(x.is_contiguous(), "DataParallel: ", name, " of shape ", x.shape(), " is not contiguous");
    if (group.size() > 1) group.broadcast(x).wait();
  }
}

}  // namespace

DataParallel::DataParallel(const NamedTensors& parameters, const NamedTensors& buffers, DataParallelOptions options)
    : reducer_(std::make_shared<Reducer>(parameters, buffers, std::move(options))) {
  const NoGrad guard;
  NamedTensors all = parameters;
  all.insert(all.end(), buffers.begin(), buffers.end());
  check_agreement(group(), all);
  broadcast_all(group(), all);
  reducer_->watch();
}

DataParallel::NoSync::NoSync(std::shared_ptr<Reducer> reducer) : reducer_(std::move(reducer)), before_(reducer_->synchronizing()) {
  check(!reducer_->deterministic(), "DataParallel: no_sync: with micro_batches, gradients of a step add up by themselves");
  reducer_->synchronize(false);
}
DataParallel::NoSync::~NoSync() { reducer_->synchronize(before_); }

std::vector<data::Batch> DataParallel::split(const data::Batch& batch) const {
  const std::int64_t parts = reducer_->passes();
  if (parts == 1) return {batch};
  const std::int64_t rows = batch.inputs.size(0), each = rows / parts;
  check(rows % parts == 0, "DataParallel: split: ", rows, " samples on this rank cannot be cut into ", parts, " equal parts");
  std::vector<data::Batch> out;
  for (std::int64_t i = 0; i < parts; ++i)
    out.push_back({batch.inputs.narrow(0, i * each, each), batch.targets.narrow(0, i * each, each)});
  return out;
}

double DataParallel::mean(std::span<const double> parts) const {
  check(std::ssize(parts) == reducer_->passes(), "DataParallel: mean: expected ", reducer_->passes(), " numbers, got ",
        std::ssize(parts));
  TreeSum sum;
  Tensor x;
  for (std::int64_t i = 0; i < std::ssize(parts); ++i) {
    x = from_vector(std::vector<double>{parts[static_cast<std::size_t>(i)]}, {1});
    sum.add(x, i, std::ssize(parts));
  }
  group().all_reduce(x).wait();
  return x.item<double>() / static_cast<double>(std::ssize(parts) * group().size());
}

std::vector<DataParallel::BucketInfo> DataParallel::buckets() const {
  std::vector<BucketInfo> out;
  for (const Reducer::Bucket& bucket : reducer_->buckets()) {
    BucketInfo info{{}, bucket.gradients.numel() * size_of(bucket.gradients.dtype())};
    for (const std::size_t i : bucket.members) info.names.push_back(reducer_->parameters()[i].name);
    out.push_back(std::move(info));
  }
  return out;
}

}  // namespace binade::dist
