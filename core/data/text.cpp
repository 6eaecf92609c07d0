// Text as tokens: bytes or characters, and windows of it.
#include <algorithm>
#include <set>

#include "binade/core/data/datasets.h"
#include "binade/core/data/file_bytes.h"

namespace binade::data {

namespace {

// The length of the UTF-8 character at the front of `text`; 0 where there is none. Overlong forms, surrogates and
// values above U+10FFFF are none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f)) return 0;
  if ((lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f)) return 0;
  return length;
}

// Calls body(piece) for each unit of the text.
template <class Body>
void each_unit(std::string_view text, TextUnit unit, const std::string& name, Body&& body) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = unit == TextUnit::bytes ? 1 : utf8_length(text.substr(at));
    check(length > 0, name, ": not UTF-8 at byte ", at, "; TextUnit::bytes reads any file");
    body(text.substr(at, length));
    at += length;
  }
}

}  // namespace

TextDataset::TextDataset(const std::string& text, TextUnit unit, const std::string& name) : name_(name), unit_(unit) {
  check(!text.empty(), name, ": the text is empty");
  if (unit == TextUnit::bytes) {
    for (int b = 0; b < 256; ++b) vocab_.emplace_back(1, static_cast<char>(b));
  } else {
    std::set<std::string, std::less<>> seen;  // bytewise order of UTF-8 is the order of code points
    each_unit(text, unit, name, [&](std::string_view piece) {
      if (!seen.contains(piece)) seen.emplace(piece);
    });
    vocab_.assign(seen.begin(), seen.end());
  }
  auto tokens = std::make_shared<std::vector<std::int32_t>>();
  for (const std::int64_t token : encode(text)) tokens->push_back(static_cast<std::int32_t>(token));
  tokens_ = std::move(tokens);
}

std::vector<std::int64_t> TextDataset::encode(std::string_view text) const {
  std::vector<std::int64_t> tokens;
  tokens.reserve(text.size());
  each_unit(text, unit_, name_, [&](std::string_view piece) {
    if (unit_ == TextUnit::bytes) {
      tokens.push_back(static_cast<std::uint8_t>(piece[0]));
      return;
    }
    const auto found = std::lower_bound(vocab_.begin(), vocab_.end(), piece);
    check(found != vocab_.end() && *found == piece, name_, ": encode: the vocabulary has no character \"", piece, "\"");
    tokens.push_back(found - vocab_.begin());
  });
  return tokens;
}

std::string TextDataset::decode(const std::vector<std::int64_t>& tokens) const {
  std::string text;
  for (const std::int64_t token : tokens) {
    check(token >= 0 && token < vocab_size(), name_, ": decode: token ", token, " out of range for a vocabulary of ",
          vocab_size());
    text += vocab_[static_cast<std::size_t>(token)];
  }
  return text;
}

TextWindows TextDataset::windows(std::int64_t begin, std::int64_t end, std::int64_t block_size, Windows kind,
                                 std::string_view part) const {
  check(block_size > 0, name_, ": block_size must be positive, got ", block_size);
  check(end - begin > block_size, name_, ": the ", part, " part has ", end - begin,
        " tokens, block_size + 1 are needed: block_size is ", block_size);
  TextWindows out;
  out.tokens_ = tokens_;
  out.begin_ = begin;
  out.block_size_ = block_size;
  out.stride_ = kind == Windows::overlapping ? 1 : block_size;
  out.count_ = (end - begin - block_size - 1) / out.stride_ + 1;
  return out;
}

TextWindows TextDataset::train(std::int64_t block_size, Windows kind) const {
  return windows(0, size() - size() / 10, block_size, kind, "training");
}
TextWindows TextDataset::validation(std::int64_t block_size, Windows kind) const {
  return windows(size() - size() / 10, size(), block_size, kind, "validation");
}

Batch TextWindows::get(std::span<const std::int64_t> indices) const {
  const Shape shape{static_cast<std::int64_t>(indices.size()), block_size_};
  const Batch batch{empty(shape, {.dtype = DType::i64}), empty(shape, {.dtype = DType::i64})};
  std::int64_t* input = TensorView(batch.inputs).as<std::int64_t>();
  std::int64_t* target = TensorView(batch.targets).as<std::int64_t>();
  for (const std::int64_t i : indices) {
    check(i >= 0 && i < count_, "text windows: index ", i, " out of range for ", count_, " windows");
    const std::int32_t* from = tokens_->data() + begin_ + i * stride_;
    input = std::copy_n(from, block_size_, input);
    target = std::copy_n(from + 1, block_size_, target);
  }
  return batch;
}

TextDataset text_file(const std::string& path, TextUnit unit) {
  return TextDataset(file_bytes(path, "text_file"), unit, "text_file: " + path);
}

}  // namespace binade::data
