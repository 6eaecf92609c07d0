#include "binade/core/io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "binade/core/base/error.h"

namespace binade::io {

void AtomicFile::fail_with_errno(const std::string& doing) const {
  fail({"save: cannot ", doing, " ", path_, ": ", std::strerror(errno)});
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  static std::atomic<unsigned> counter{0};  // two threads may save to one path
  temporary_ = path_ + ".tmp" + std::to_string(::getpid()) + "." + std::to_string(counter++);
  file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file_ < 0) fail_with_errno("create");
}

AtomicFile::~AtomicFile() {
  if (file_ >= 0) ::close(file_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), std::min<std::size_t>(bytes.size(), 1U << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_with_errno("write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::commit() {
  if (::fsync(file_) != 0) fail_with_errno("flush");
  const int file = file_;
  file_ = -1;
  if (::close(file) != 0) fail_with_errno("close");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail_with_errno("rename to");
  temporary_.clear();
  // The new name is only safe once the folder is on disk. Some file systems do not offer that: not an error.
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  const int handle = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (handle < 0) return;
  const bool ok = ::fsync(handle) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EBADF;
  ::close(handle);
  if (!ok) fail_with_errno("flush the folder of");
}

}  // namespace binade::io
