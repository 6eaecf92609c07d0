#include "binade/core/data/file_bytes.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include "binade/core/base/error.h"

namespace binade::data {

bool file_exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::string file_bytes(const std::string& path, const std::string& what) {
  check(file_exists(path), what, ": no such file: ", path);
  check(!std::filesystem::is_directory(path), what, ": expected a file, this is a folder: ", path);
  errno = 0;
  gzFile file = gzopen(path.c_str(), "rb");
  check(file != nullptr, what, ": cannot open ", path, ": ", std::strerror(errno));
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> closer(file, gzclose);
  gzbuffer(file, 1U << 18);
  std::string bytes;
  std::size_t used = 0;
  for (;;) {
    if (bytes.size() - used < (1U << 18)) bytes.resize(std::max<std::size_t>(bytes.size() * 2, 1U << 20));
    const int got = gzread(file, bytes.data() + used, 1U << 18);
    int code = Z_OK;
    const char* message = gzerror(file, &code);
    // A packed file that ends early reads as end of file with Z_BUF_ERROR.
    check(got >= 0 && (code == Z_OK || code == Z_STREAM_END), what, ": damaged or truncated file: ", path, ": ",
          std::string_view(message));
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
  }
  bytes.resize(used);
  return bytes;
}

std::string first_existing(std::initializer_list<std::string> paths) {
  for (const std::string& path : paths) {
    if (file_exists(path)) return path;
  }
  return {};
}

std::string find_data(const std::string& name) {
  const char* root = std::getenv("BINADE_DATA");
  if (root != nullptr && *root != '\0') {
    const std::string found = first_existing({std::string(root) + "/" + name});
    if (!found.empty()) return found;
  }
  return first_existing({"/usr/share/datasets/" + name, "data/" + name});
}

}  // namespace binade::data
