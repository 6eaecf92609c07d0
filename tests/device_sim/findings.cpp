#include "findings.h"

#include <dlfcn.h>
#include <elf.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

namespace simt {

namespace {

std::vector<Finding>& findings() {
  static auto* all = new std::vector<Finding>;  // outlives static destructors
  return *all;
}

std::string first_line(FILE* pipe) {
  std::string line;
  for (int c = std::fgetc(pipe); c != EOF && c != '\n'; c = std::fgetc(pipe)) line += static_cast<char>(c);
  return line;
}

CodePlace find_place(const void* code) {
  CodePlace place{"unknown function", "unknown place"};
  Dl_info info{};
  if (!code || !dladdr(code, &info) || !info.dli_fname) return place;
  if (info.dli_sname) place.function = info.dli_sname;
  auto address = reinterpret_cast<std::uintptr_t>(code);
  const auto* header = static_cast<const Elf64_Ehdr*>(info.dli_fbase);
  if (header->e_type == ET_DYN) address -= reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  char command[1024];
  std::snprintf(command, sizeof command, "addr2line -s -f -C -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
                static_cast<std::size_t>(address));
  FILE* pipe = popen(command, "r");
  if (!pipe) return place;
  const std::string function = first_line(pipe), line = first_line(pipe);
  pclose(pipe);
  if (!function.empty() && function != "??") place.function = function;
  if (!line.empty() && line[0] != '?') place.line = line.substr(0, line.find(" (discriminator"));
  return place;
}

}  // namespace

void report(std::string_view kind, const std::string& text) {
  std::fprintf(stderr, "simulated device: %.*s: %s\n", static_cast<int>(kind.size()), kind.data(), text.c_str());
  findings().push_back({std::string(kind), text});
}

std::vector<Finding> take_findings() { return std::exchange(findings(), {}); }
bool has_findings() { return !findings().empty(); }

CodePlace place_of(const void* code) {
  static std::mutex mutex;
  static auto* known = new std::map<const void*, CodePlace>;  // asking takes a tenth of a second
  const std::lock_guard lock(mutex);
  const auto [found, added] = known->try_emplace(code);
  if (added) found->second = find_place(code);
  return found->second;
}

}  // namespace simt
