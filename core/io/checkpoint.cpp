#include "binade/core/io/checkpoint.h"

#include <charconv>

namespace binade::io {

namespace {

constexpr const char* format = "binade checkpoint 1";

void put(TensorMap& all, const std::string& prefix, const TensorMap& part) {
  for (const auto& [name, x] : part) all.emplace(prefix + name, x);
}

struct Reader {
  const std::string& path;
  const Metadata& metadata;

  template <class T>
  T number(const std::string& key, const std::string& text) const {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    check(error == std::errc() && end == text.data() + text.size(), "load_checkpoint: ", path, ": ", key,
          " is not a number: \"", text, "\"");
    return value;
  }
  template <class T>
  T number(const std::string& key) const {
    const auto found = metadata.find(key);
    check(found != metadata.end(), "load_checkpoint: ", path, ": missing: ", key);
    return number<T>(key, found->second);
  }
};

}  // namespace

void save_checkpoint(const std::string& path, const Checkpoint& checkpoint) {
  TensorMap tensors;
  put(tensors, "model/", checkpoint.model);
  put(tensors, "optimizer/", checkpoint.optimizer);
  put(tensors, "scaler/", checkpoint.scaler);
  Metadata metadata{{"format", format},
                    {"random.seed", std::to_string(checkpoint.random.seed)},
                    {"random.offset", std::to_string(checkpoint.random.offset)},
                    {"loader.epoch", std::to_string(checkpoint.loader.epoch)},
                    {"loader.next_batch", std::to_string(checkpoint.loader.next_batch)},
                    {"step", std::to_string(checkpoint.step)}};
  for (const auto& [name, value] : checkpoint.numbers) metadata["number/" + name] = to_text(value);
  save(path, tensors, metadata);
}

Checkpoint load_checkpoint(const std::string& path) {
  const TensorFile file = load_with_metadata(path);
  const auto found = file.metadata.find("format");
  check(found != file.metadata.end() && found->second == format, "load_checkpoint: ", path, ": expected the format \"",
        format, "\", found \"", found == file.metadata.end() ? std::string() : found->second, "\"");
  Checkpoint out;
  for (const auto& [name, x] : file.tensors) {
    const std::size_t slash = name.find('/');
    const std::string part = name.substr(0, slash);
    TensorMap* to = part == "model"       ? &out.model
                    : part == "optimizer" ? &out.optimizer
                    : part == "scaler"    ? &out.scaler
                                          : nullptr;
    check(to != nullptr && slash != std::string::npos, "load_checkpoint: ", path, ": unexpected tensor: ", name);
    to->emplace(name.substr(slash + 1), x);
  }
  const Reader reader{path, file.metadata};
  out.random = {reader.number<std::uint64_t>("random.seed"), reader.number<std::uint64_t>("random.offset")};
  out.loader = {reader.number<std::int64_t>("loader.epoch"), reader.number<std::int64_t>("loader.next_batch")};
  out.step = reader.number<std::int64_t>("step");
  for (const auto& [key, text] : file.metadata) {
    if (key.starts_with("number/")) out.numbers[key.substr(7)] = reader.number<double>(key, text);
  }
  return out;
}

}  // namespace binade::io
