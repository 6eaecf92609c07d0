#include "binade/cuda/libs/algorithm_file.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "binade/core/backend/trace.h"
#include "binade/core/base/error.h"
#include "binade/core/io/atomic_file.h"
#include "binade/cuda/libs/cublaslt_functions.h"
#include "binade/cuda/libs/fnv1a.h"

namespace binade::cuda {

namespace {

using nlohmann::json;

constexpr const char* kind = "binade: cuBLASLt algorithms by time";
constexpr int format = 1;
constexpr std::size_t words = std::size(cublasLtMatmulAlgo_t{}.data);

std::string hexadecimal(std::uint64_t word) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(word));
  return text;
}

std::string checksum(const std::string& text) { return hexadecimal(fnv1a(text)); }  // a byte that changed on disk shows

json words_of(const cublasLtMatmulAlgo_t& algorithm) {
  json list = json::array();
  for (const std::uint64_t word : algorithm.data) list.push_back(hexadecimal(word));
  return list;
}

cublasLtMatmulAlgo_t algorithm_of(const json& list) {
  check(list.size() == words, "an algorithm of another length");
  cublasLtMatmulAlgo_t algorithm{};
  for (std::size_t i = 0; i < words; ++i) algorithm.data[i] = std::stoull(list[i].get<std::string>(), nullptr, 16);
  return algorithm;
}

}  // namespace

AlgorithmFile* AlgorithmFile::of(Device device) {
  const char* path = std::getenv("BINADE_CUBLASLT_TUNE");
  if (!path || !*path) return nullptr;
  // Never destroyed, as what uses it is not. The caller holds the lock of all algorithms.
  static auto* files = new std::map<std::pair<std::string, int>, AlgorithmFile>;
  return &files->try_emplace({path, device.index}, path, device).first->second;
}

AlgorithmFile::AlgorithmFile(std::string path, Device device) : path_(std::move(path)), gpu_(device_description(device)) {
  read(choices_);
}

void AlgorithmFile::give_up(const std::string& why) {
  if (std::exchange(usable_, false)) {
    trace("warning", {"BINADE_CUBLASLT_TUNE: ", path_, " ", why,
                      "; it is left as it is, and products take the library's first choice"});
  }
  choices_.clear();
}

std::optional<cublasLtMatmulAlgo_t> AlgorithmFile::find(const std::string& product) const {
  const auto found = choices_.find(product);
  if (found == choices_.end()) return {};
  return found->second.algorithm;
}

bool AlgorithmFile::read(Choices& choices) {
  if (!std::filesystem::exists(path_)) return true;
  try {
    std::ifstream file(path_);
    const json all = json::parse(file);
    check(all.at("kind") == kind && all.at("format") == format, "it is of another kind or format");
    const std::size_t version = all.at("cublaslt");
    if (all.at("gpu") != gpu_ || version != cublaslt().version()) {
      give_up("is for " + all.at("gpu").get<std::string>() + " and cuBLASLt " + std::to_string(version) + ", this is " +
              gpu_ + " and " + std::to_string(cublaslt().version()));
      return false;
    }
    check(all.at("checksum") == checksum(all.at("choices").dump()), "its checksum does not fit");
    for (const auto& [product, choice] : all.at("choices").items()) {
      choices.insert_or_assign(product, Choice{algorithm_of(choice.at("algorithm")), choice.at("seconds").get<double>(),
                                               choice.at("first_seconds").get<double>()});
    }
    return true;
  } catch (const std::exception& error) {
    give_up(std::string("cannot be read (") + error.what() + ")");
    return false;
  }
}

void AlgorithmFile::add(const std::string& product, const cublasLtMatmulAlgo_t& algorithm, double seconds,
                        double first_seconds) {
  choices_.insert_or_assign(product, Choice{algorithm, seconds, first_seconds});
  Choices all = choices_;
  if (!read(all)) return;  // what others wrote first stays
  write(all);
}

void AlgorithmFile::write(const Choices& choices) {
  json entries = json::object();
  for (const auto& [product, choice] : choices) {
    entries[product] = {{"algorithm", words_of(choice.algorithm)}, {"seconds", choice.seconds},
                        {"first_seconds", choice.first_seconds}};
  }
  const json all = {{"kind", kind},         {"format", format},       {"gpu", gpu_}, {"cublaslt", cublaslt().version()},
                    {"choices", entries}, {"checksum", checksum(entries.dump())}};
  const std::string text = all.dump(1) + '\n';
  try {
    io::AtomicFile file(path_);
    file.write(std::as_bytes(std::span(text)));
    file.commit();
  } catch (const Error& error) {
    give_up(std::string("cannot be written (") + error.what() + ")");
  }
}

}  // namespace binade::cuda
