// Data sets that are read from files: MNIST-like images, the 8x8 digits, text.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "binade/core/data/dataset.h"

namespace binade::data {

struct TrainTest {  // const auto [train, test] = fashion_mnist();
  TensorDataset train, test;
};

// Inputs f32 [n, rows * cols] in [0, 1], targets i64 [n]. Looked for in the folder named by the environment variable
// BINADE_DATA, in /usr/share/datasets and in ./data.
TrainTest fashion_mnist();
// Any folder with the four MNIST files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-…, plain or .gz.
TrainTest idx_images(const std::string& folder);
// 1797 handwritten digits of 8x8 (UCI): inputs f32 [n, 64] in [0, 1]; a fixed random fifth is the test set.
TrainTest digits();
TrainTest digits(const std::string& file);  // digits.csv or digits.csv.gz: 64 values of 0..16 and the label per line

enum class TextUnit { bytes, characters };        // characters: Unicode code points of UTF-8
enum class Windows { overlapping, sequential };  // a window at every position (shuffle them), or end to end

class TextWindows : public Dataset {  // inputs i64 [block_size], targets the same one position later
 public:
  std::int64_t size() const override { return count_; }
  Batch get(std::span<const std::int64_t> indices) const override;

 private:
  friend class TextDataset;
  std::shared_ptr<const std::vector<std::int32_t>> tokens_;
  std::int64_t begin_ = 0, stride_ = 1, count_ = 0, block_size_ = 0;
};

class TextDataset {
 public:
  TextDataset(const std::string& text, TextUnit unit, const std::string& name = "text");
  std::int64_t vocab_size() const { return static_cast<std::int64_t>(vocab_.size()); }
  std::int64_t size() const { return static_cast<std::int64_t>(tokens_->size()); }  // tokens
  const std::vector<std::string>& vocab() const { return vocab_; }                  // token -> its bytes
  std::vector<std::int64_t> encode(std::string_view text) const;  // throws for a character the text does not have
  std::string decode(const std::vector<std::int64_t>& tokens) const;
  TextWindows train(std::int64_t block_size, Windows windows = Windows::overlapping) const;       // the first 90 %
  TextWindows validation(std::int64_t block_size, Windows windows = Windows::sequential) const;  // the last 10 %

 private:
  TextWindows windows(std::int64_t begin, std::int64_t end, std::int64_t block_size, Windows kind,
                      std::string_view part) const;
  std::string name_;
  TextUnit unit_;
  std::vector<std::string> vocab_;
  std::shared_ptr<const std::vector<std::int32_t>> tokens_;
};

TextDataset text_file(const std::string& path, TextUnit unit = TextUnit::characters);  // plain or .gz

}  // namespace binade::data
