// A file that appears whole or not at all: written beside its place, flushed to disk, then renamed.
#pragma once
#include <span>
#include <string>
#include <cstddef>

namespace binade::io {

class AtomicFile {
 public:
  explicit AtomicFile(std::string path);  // throws when the folder cannot be written
  ~AtomicFile();                          // without commit(): the old file stays
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  [[noreturn]] void fail_with_errno(const std::string& doing) const;
  std::string path_, temporary_;
  int file_ = -1;
};

}  // namespace binade::io
