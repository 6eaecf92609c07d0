// MNIST's IDX files and the 8x8 digits.
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "binade/core/backend/memory.h"
#include "binade/core/data/datasets.h"
#include "binade/core/data/file_bytes.h"

namespace binade::data {

namespace {

struct Idx {  // big-endian: 0, 0, type 8 (u8), number of dims; the dims; the values
  std::vector<std::int64_t> dims;
  std::string bytes;
  std::size_t start = 0;
};

Idx read_idx(const std::string& path, int dims) {
  Idx idx{.dims = {}, .bytes = file_bytes(path, "idx_images")};
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(idx.bytes[i]); };
  const std::size_t header = 4 + 4 * static_cast<std::size_t>(dims);
  check(idx.bytes.size() >= header, "idx_images: ", path, ": truncated: expected a header of ", header,
        " bytes, found ", idx.bytes.size());
  check(byte(0) == 0 && byte(1) == 0 && byte(2) == 8 && byte(3) == dims, "idx_images: ", path,
        ": wrong magic number: expected 0 0 8 ", dims, ", found ", int{byte(0)}, " ", int{byte(1)}, " ", int{byte(2)},
        " ", int{byte(3)});
  std::uint64_t count = 1;
  for (std::size_t d = 0; d < static_cast<std::size_t>(dims); ++d) {
    std::uint32_t size = 0;
    for (std::size_t i = 0; i < 4; ++i) size = size << 8 | byte(4 + 4 * d + i);
    // Sizes are bounded before they are multiplied: a damaged header must not overflow or ask for huge memory.
    check(size <= (d == 0 ? 1U << 28 : 1U << 16), "idx_images: ", path, ": implausible size in the header: ", size);
    idx.dims.push_back(size);
    count *= size;
  }
  check(idx.bytes.size() - header == count, "idx_images: ", path, ": expected ", count, " values after the header, found ",
        idx.bytes.size() - header);
  idx.start = header;
  return idx;
}

std::string idx_path(const std::string& folder, const std::string& name) {
  const std::string path = first_existing({folder + "/" + name, folder + "/" + name + ".gz"});
  check(!path.empty(), "idx_images: no such file: ", folder, "/", name, " (or .gz)");
  return path;
}

TensorDataset idx_dataset(const std::string& folder, const std::string& part) {
  const MemoryTagScope tag(MemoryTag::data);
  const std::string image_path = idx_path(folder, part + "-images-idx3-ubyte");
  const std::string label_path = idx_path(folder, part + "-labels-idx1-ubyte");
  const Idx images = read_idx(image_path, 3), labels = read_idx(label_path, 1);
  const std::int64_t n = images.dims[0];
  check(images.bytes.size() > images.start, "idx_images: ", image_path, ": no images inside");
  check(labels.dims[0] == n, "idx_images: counts disagree: ", image_path, " has ", n, " images, ", label_path, " has ",
        labels.dims[0], " labels");
  const Tensor x = empty({n, images.dims[1] * images.dims[2]}), y = empty({n}, {.dtype = DType::i64});
  const std::span<float> pixels = x.data<float>();
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    pixels[i] = static_cast<float>(static_cast<std::uint8_t>(images.bytes[images.start + i])) / 255.0F;
  }
  const std::span<std::int64_t> classes = y.data<std::int64_t>();
  for (std::size_t i = 0; i < classes.size(); ++i) {
    classes[i] = static_cast<std::uint8_t>(labels.bytes[labels.start + i]);
  }
  return {x, y};
}

bool has_idx(const std::string& folder) {
  const std::string name = folder + "/train-images-idx3-ubyte";
  return !first_existing({name, name + ".gz"}).empty();
}

}  // namespace

TrainTest idx_images(const std::string& folder) {
  TrainTest sets{.train = idx_dataset(folder, "train"), .test = idx_dataset(folder, "t10k")};
  const std::int64_t pixels = sets.train.inputs().size(1), test_pixels = sets.test.inputs().size(1);
  check(pixels == test_pixels, "idx_images: ", folder, ": sizes disagree: training images have ", pixels,
        " pixels, test images ", test_pixels);
  return sets;
}

TrainTest fashion_mnist() {
  std::vector<std::string> folders;
  const char* root = std::getenv("BINADE_DATA");
  if (root != nullptr && *root != '\0') folders = {root, std::string(root) + "/fashion-mnist"};
  folders.insert(folders.end(), {"/usr/share/datasets/fashion-mnist", "data/fashion-mnist", "data"});
  for (const std::string& folder : folders) {
    if (has_idx(folder)) return idx_images(folder);
  }
  fail({"fashion_mnist: data not found: run scripts/get_data.sh, or set BINADE_DATA"});
}

TrainTest digits() {
  for (const char* name : {"digits.csv.gz", "digits.csv", "digits/digits.csv.gz"}) {
    const std::string path = find_data(name);
    if (!path.empty()) return digits(path);
  }
  fail({"digits: data not found: run scripts/get_data.sh, or set BINADE_DATA"});
}

TrainTest digits(const std::string& file) {
  const MemoryTagScope tag(MemoryTag::data);
  const std::string text = file_bytes(file, "digits");
  std::vector<float> pixels;
  std::vector<std::int64_t> labels;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (std::int64_t line = 1; at < end; ++line) {
    for (int column = 0; column <= 64; ++column) {
      double value = -1;
      const auto [stop, error] = std::from_chars(at, end, value);
      const bool last = column == 64;
      check(error == std::errc() && value >= 0 && value <= (last ? 9 : 16), "digits: ", file, ": line ", line,
            ", column ", column + 1, ": expected a number from 0 to ", last ? 9 : 16);
      at = stop;
      if (last) {
        labels.push_back(static_cast<std::int64_t>(value));
        if (at < end && *at == '\r') ++at;
        check(at == end || *at == '\n', "digits: ", file, ": line ", line, ": expected 65 columns, found more");
        if (at < end) ++at;
      } else {
        pixels.push_back(static_cast<float>(value / 16));
        check(at < end && *at == ',', "digits: ", file, ": line ", line, ": expected 65 columns, found ", column + 1);
        ++at;
      }
    }
  }
  const auto n = static_cast<std::int64_t>(labels.size());
  check(n >= 5, "digits: ", file, ": expected at least 5 lines, found ", n);
  const TensorDataset all(from_vector(pixels, {n, 64}), from_vector(labels, {n}));
  const std::vector<std::int64_t> order = permutation(n, {.seed = 0, .offset = 0});
  const std::span<const std::int64_t> indices(order);
  const auto train_count = static_cast<std::size_t>(n * 4 / 5);
  const Batch train = all.get(indices.first(train_count)), test = all.get(indices.subspan(train_count));
  return {.train = {train.inputs, train.targets}, .test = {test.inputs, test.targets}};
}

}  // namespace binade::data
