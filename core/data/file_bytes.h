// Whole files, plain or gzip, as bytes.
#pragma once
#include <string>

namespace binade::data {

bool file_exists(const std::string& path);
// The whole content, unpacked when it is gzip. Throws Error naming `what` and the file when it is missing or damaged.
std::string file_bytes(const std::string& path, const std::string& what);
// The first of the paths that exists; empty when none does.
std::string first_existing(std::initializer_list<std::string> paths);
// $BINADE_DATA/name, /usr/share/datasets/name, ./data/name: the first that exists; else empty.
std::string find_data(const std::string& name);

}  // namespace binade::data
