// Reading data sets: IDX files whole and damaged, digits, text.
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>

#include "binade/core/data/datasets.h"
#include "binade/tests/data/folder.h"

namespace {

using namespace binade;
using namespace binade::test;

std::string big_endian(std::uint32_t x) {
  return {static_cast<char>(x >> 24), static_cast<char>(x >> 16 & 255), static_cast<char>(x >> 8 & 255),
          static_cast<char>(x & 255)};
}
std::string images(std::uint32_t n, std::uint32_t rows, std::uint32_t columns) {
  std::string out = big_endian(0x803) + big_endian(n) + big_endian(rows) + big_endian(columns);
  for (std::uint32_t i = 0; i < n * rows * columns; ++i) out += static_cast<char>(i % 256);
  return out;
}
std::string labels(std::uint32_t n) {
  std::string out = big_endian(0x801) + big_endian(n);
  for (std::uint32_t i = 0; i < n; ++i) out += static_cast<char>(i % 10);
  return out;
}
void gzip(const std::string& path, const std::string& bytes) {
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
}
void write_idx(const Folder& folder) {
  write_file(folder / "train-images-idx3-ubyte", images(30, 4, 5));
  write_file(folder / "train-labels-idx1-ubyte", labels(30));
  gzip(folder / "t10k-images-idx3-ubyte.gz", images(7, 4, 5));
  gzip(folder / "t10k-labels-idx1-ubyte.gz", labels(7));
}

TEST(IdxImages, PlainAndPacked) {
  const Folder folder;
  write_idx(folder);
  const auto [train, test] = data::idx_images(folder.path());
  EXPECT_EQ(train.inputs().shape(), (Shape{30, 20}));
  EXPECT_EQ(train.inputs().dtype(), DType::f32);
  EXPECT_EQ(train.targets().dtype(), DType::i64);
  EXPECT_EQ(train.inputs().at(255), 1.0);
  EXPECT_EQ(train.inputs().at(51), static_cast<double>(51.0F / 255.0F));
  EXPECT_EQ(test.size(), 7);
  EXPECT_EQ(test.targets().to_vector<int>(), (std::vector<int>{0, 1, 2, 3, 4, 5, 6}));
}

TEST(IdxImages, DamagedFiles) {
  const auto damaged = [](const std::string& name, const std::string& bytes) {
    const Folder folder;
    write_idx(folder);
    std::filesystem::remove(folder / name);
    if (!bytes.empty()) write_file(folder / name, bytes);
    return error_of([&] { data::idx_images(folder.path()); });
  };
  const std::string image_file = "train-images-idx3-ubyte", label_file = "train-labels-idx1-ubyte";
  EXPECT_NE(damaged(image_file, "").find("no such file"), std::string::npos);
  EXPECT_NE(damaged(image_file, "abc").find("truncated"), std::string::npos);
  EXPECT_NE(damaged(image_file, labels(30) + std::string(20, ' ')).find("expected 0 0 8 3, found 0 0 8 1"),
            std::string::npos);
  EXPECT_NE(damaged(image_file, images(30, 4, 5).substr(0, 400)).find("expected 600 values after the header, found 384"),
            std::string::npos);
  EXPECT_NE(damaged(label_file, labels(29)).find("30 images"), std::string::npos);
  EXPECT_NE(damaged(image_file, big_endian(0x803) + std::string(12, '\xff')).find("implausible"), std::string::npos);

  EXPECT_NE(damaged(image_file, images(30, 4, 4)).find("sizes disagree"), std::string::npos);
  EXPECT_NE(damaged(image_file, images(0, 4, 5)).find("no images"), std::string::npos);

  const Folder folder;
  write_idx(folder);
  const std::string packed = read_file(folder / "t10k-images-idx3-ubyte.gz");
  write_file(folder / "t10k-images-idx3-ubyte.gz", packed.substr(0, packed.size() / 2));
  const std::string message = error_of([&] { data::idx_images(folder.path()); });
  EXPECT_NE(message.find("t10k-images"), std::string::npos) << message;
}

TEST(FashionMnist, FoundThroughTheEnvironment) {
  const Folder folder;
  write_idx(folder);
  setenv("BINADE_DATA", folder.path().c_str(), 1);
  EXPECT_EQ(data::fashion_mnist().train.size(), 30);
  unsetenv("BINADE_DATA");
}

TEST(Digits, SplitAndErrors) {
  const Folder folder;
  std::string text;
  for (int line = 0; line < 10; ++line) {
    for (int column = 0; column < 64; ++column) text += column == line ? "16," : "0,";
    text += std::to_string(line) + "\n";
  }
  write_file(folder / "digits.csv", text);
  const auto [train, test] = data::digits(folder / "digits.csv");
  EXPECT_EQ(train.size(), 8);
  EXPECT_EQ(test.size(), 2);
  for (std::int64_t i = 0; i < test.size(); ++i) {
    EXPECT_EQ(test.inputs().at(i * 64 + test.targets().select(0, i).item<std::int64_t>()), 1.0);
  }
  write_file(folder / "digits.csv", text + "1,2,3\n");
  EXPECT_NE(error_of([&] { data::digits(folder / "digits.csv"); }).find("line 11"), std::string::npos);
}

TEST(Text, CharactersAndWindows) {
  const std::string text = "abcäbc€a" + std::string(92, 'b');  // 100 characters
  const data::TextDataset dataset(text, data::TextUnit::characters);
  EXPECT_EQ(dataset.vocab(), (std::vector<std::string>{"a", "b", "c", "ä", "€"}));
  EXPECT_EQ(dataset.size(), 100);
  EXPECT_EQ(dataset.encode("cä€"), (std::vector<std::int64_t>{2, 3, 4}));
  EXPECT_EQ(dataset.decode(dataset.encode(text)), text);
  EXPECT_THROW(dataset.encode("x"), Error);
  EXPECT_THROW(dataset.decode({5}), Error);

  const data::TextWindows train = dataset.train(4);
  EXPECT_EQ(train.size(), 86);  // positions 0 .. 85 of 90 tokens
  const std::vector<std::int64_t> at{0, 2};
  const data::Batch batch = train.get(at);
  EXPECT_EQ(batch.inputs.to_vector<int>(), (std::vector<int>{0, 1, 2, 3, 2, 3, 1, 2}));
  EXPECT_EQ(batch.targets.to_vector<int>(), (std::vector<int>{1, 2, 3, 1, 3, 1, 2, 4}));
  EXPECT_EQ(dataset.validation(4).size(), 2);  // sequential: 10 tokens
  EXPECT_EQ(dataset.validation(9).size(), 1);
  EXPECT_THROW(dataset.validation(10), Error);
}

TEST(Text, BytesAndErrors) {
  const data::TextDataset bytes("\xff\x01", data::TextUnit::bytes);
  EXPECT_EQ(bytes.vocab_size(), 256);
  EXPECT_EQ(bytes.encode("\xff"), (std::vector<std::int64_t>{255}));
  EXPECT_NE(error_of([] { data::TextDataset("ab\xff", data::TextUnit::characters); }).find("byte 2"),
            std::string::npos);
  EXPECT_NE(error_of([] { data::text_file("/no/such/file.txt"); }).find("/no/such/file.txt"), std::string::npos);
  EXPECT_THROW(data::TextDataset("", data::TextUnit::bytes), Error);
}

}  // namespace
