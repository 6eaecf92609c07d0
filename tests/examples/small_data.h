// Data small enough for a test: images in MNIST's format, and a text.
#pragma once
#include <zlib.h>

#include <cstdint>
#include <string>

#include "binade/tests/data/folder.h"

namespace binade::test {

inline std::string idx_header(int dims, std::initializer_list<std::uint32_t> sizes) {
  std::string out{0, 0, 8, static_cast<char>(dims)};
  for (const std::uint32_t size : sizes) {
    for (const int shift : {24, 16, 8, 0}) out += static_cast<char>(size >> shift & 255);
  }
  return out;
}
// 8x8 images of ten classes: row `label % 8` is bright, the rest is noise.
inline std::string idx_images(std::uint32_t n) {
  std::string out = idx_header(3, {n, 8, 8});
  std::uint32_t noise = 1;
  for (std::uint32_t i = 0; i < n; ++i) {
    for (std::uint32_t pixel = 0; pixel < 64; ++pixel) {
      noise = noise * 1664525U + 1013904223U;
      out += static_cast<char>((noise >> 26) + (pixel / 8 == i % 10 % 8 ? 150 : 0));
    }
  }
  return out;
}
inline std::string idx_labels(std::uint32_t n) {
  std::string out = idx_header(1, {n});
  for (std::uint32_t i = 0; i < n; ++i) out += static_cast<char>(i % 10);
  return out;
}
inline std::string gzipped(const std::string& bytes) {
  const Folder folder;
  gzFile file = gzopen((folder / "x").c_str(), "wb");
  gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
  return read_file(folder / "x");
}
inline std::string small_text(int lines = 400) {
  const char* words[] = {"and ", "the ", "water ", "was ", "light ", "upon ", "day ", "earth "};
  std::string text;
  std::uint32_t state = 7;
  for (int line = 0; line < lines; ++line) {
    for (int word = 0; word < 9; ++word) {
      state = state * 1664525U + 1013904223U;
      text += words[state >> 29];
    }
    text += '\n';
  }
  return text;
}

// A folder of data as the programs expect it: 200 + 40 images, and kjv.txt; it also takes what a test writes.
class DataFolder : public Folder {
 public:
  DataFolder() {
    write_file(*this / "train-images-idx3-ubyte.gz", gzipped(idx_images(200)));
    write_file(*this / "train-labels-idx1-ubyte.gz", gzipped(idx_labels(200)));
    write_file(*this / "t10k-images-idx3-ubyte", idx_images(40));
    write_file(*this / "t10k-labels-idx1-ubyte", idx_labels(40));
    write_file(*this / "kjv.txt", small_text());
  }
};

}  // namespace binade::test
