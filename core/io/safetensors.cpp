#include "binade/core/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "binade/core/tensor/grad_mode.h"
#include "binade/core/io/atomic_file.h"

namespace binade::io {

namespace {

using Json = nlohmann::json;
static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

constexpr std::uint64_t header_limit = 100'000'000;  // bytes, the format's own limit
constexpr const char* metadata_key = "__metadata__";

struct DTypeName {
  DType dtype;
  std::string_view name;
};
constexpr DTypeName dtype_names[] = {
    {DType::f64, "F64"},        {DType::f32, "F32"},        {DType::f16, "F16"}, {DType::bf16, "BF16"},
    {DType::f8e4m3, "F8_E4M3"}, {DType::f8e5m2, "F8_E5M2"}, {DType::i64, "I64"}, {DType::i32, "I32"},
    {DType::u8, "U8"},          {DType::boolean, "BOOL"},
};

std::span<const std::byte> bytes_of(const Tensor& x) {
  return {TensorView(x).data, static_cast<std::size_t>(x.numel() * size_of(x.dtype()))};
}

struct Entry {
  std::string name;
  Spec spec;
  std::uint64_t begin, end;
};

// Reads and checks a header; every rule of the format that protects a reader is here.
struct HeaderReader {
  const std::string& path;

  template <class... Parts>
  void rule(bool ok, const Parts&... parts) const {
    check(ok, "safetensors: ", path, ": ", parts...);
  }

  Json parse(const std::string& text) const {
    std::set<std::string> names;
    const auto each = [&](int depth, Json::parse_event_t event, Json& value) {
      rule(depth <= 4, "the header is nested too deeply");
      if (depth == 1 && event == Json::parse_event_t::key) {
        const auto name = value.get<std::string>();
        rule(names.insert(name).second, "duplicate name: ", name);
      }
      return true;
    };
    try {
      return Json::parse(text, each);
    } catch (const Json::exception& error) {
      fail({"safetensors: ", path, ": the header is not valid JSON: ", error.what()});
    }
  }

  std::uint64_t unsigned_number(const Json& value, const std::string& name) const {
    rule(value.is_number_unsigned(), name, ": expected a number that is not negative, got ", value.dump());
    return value.get<std::uint64_t>();
  }

  Entry entry(const std::string& name, const Json& value) const {
    rule(value.is_object() && value.size() == 3 && value.contains("dtype") && value.contains("shape") &&
             value.contains("data_offsets"),
         name, ": expected dtype, shape and data_offsets");
    const Json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
    const auto known = std::find_if(std::begin(dtype_names), std::end(dtype_names), [&](const DTypeName& d) {
      return dtype.is_string() && dtype.get_ref<const std::string&>() == d.name;
    });
    rule(known != std::end(dtype_names), name, ": unknown dtype ", dtype.dump());
    rule(shape.is_array() && shape.size() <= Shape::max_dims, name, ": expected a shape of at most 8 dimensions, got ",
         shape.dump());
    Entry out{.name = name, .spec = {.shape = {}, .dtype = known->dtype}, .begin = 0, .end = 0};
    std::uint64_t size = static_cast<std::uint64_t>(size_of(known->dtype));
    for (const Json& d : shape) {
      const std::uint64_t dim = unsigned_number(d, name);
      rule(dim <= (1ULL << 62) && !__builtin_mul_overflow(size, dim, &size) && size <= (1ULL << 62), name,
           ": the size overflows: ", shape.dump());
      out.spec.shape.push_back(static_cast<std::int64_t>(dim));
    }
    rule(offsets.is_array() && offsets.size() == 2, name, ": expected two data_offsets, got ", offsets.dump());
    out.begin = unsigned_number(offsets[0], name);
    out.end = unsigned_number(offsets[1], name);
    rule(out.begin <= out.end && out.end - out.begin == size, name, ": offsets ", offsets.dump(), " do not hold ", size,
         " bytes of shape ", shape.dump());
    return out;
  }
};

}  // namespace

void save(const std::string& path, const TensorMap& tensors, const Metadata& metadata) {
  const NoGrad guard;
  std::vector<std::pair<std::string, Tensor>> items(tensors.begin(), tensors.end());
  for (const auto& [name, x] : items) {
    check(x.defined(), "save: ", path, ": the tensor \"", name, "\" is undefined");
    check(name != metadata_key, "save: ", path, ": a tensor cannot be called ", metadata_key);
  }
  // Large elements first: each tensor then lies aligned to its own element size.
  std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) {
    return size_of(a.second.dtype()) > size_of(b.second.dtype());
  });
  Json header = Json::object();
  if (!metadata.empty()) header[metadata_key] = metadata;
  std::uint64_t at = 0;
  for (const auto& [name, x] : items) {
    const auto* known = std::find_if(std::begin(dtype_names), std::end(dtype_names),
                                     [dtype = x.dtype()](const DTypeName& d) { return d.dtype == dtype; });
    const std::uint64_t end = at + static_cast<std::uint64_t>(x.numel() * size_of(x.dtype()));
    header[name] = {{"dtype", known->name},
                    {"shape", std::vector<std::int64_t>(x.shape().begin(), x.shape().end())},
                    {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception&) {
    fail({"save: ", path, ": names and metadata must be UTF-8"});
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  check(text.size() <= header_limit, "save: ", path, ": the header has ", text.size(), " bytes, the limit is ",
        header_limit);
  const std::uint64_t size = text.size();
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&size, 1)));
  file.write(std::as_bytes(std::span(text)));
  for (const auto& [name, x] : items) {
    const Tensor here = x.detach().to(Device{}).contiguous();
    file.write(bytes_of(here));
  }
  file.commit();
}

TensorFile load_with_metadata(const std::string& path) {
  const HeaderReader reader{path};
  std::error_code error;
  const std::uint64_t file_size = std::filesystem::file_size(path, error);
  reader.rule(!error, "cannot read the file: ", error.message());
  std::ifstream file(path, std::ios::binary);
  reader.rule(file.is_open(), "cannot open the file");
  const auto read = [&](void* to, std::uint64_t count) {
    file.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    reader.rule(static_cast<std::uint64_t>(file.gcount()) == count, "truncated while reading");
  };

  std::uint64_t header_size = 0;
  reader.rule(file_size >= 8, "truncated: expected at least 8 bytes, found ", file_size);
  read(&header_size, 8);
  reader.rule(header_size <= header_limit, "the header claims ", header_size, " bytes, the limit is ", header_limit);
  reader.rule(header_size <= file_size - 8, "truncated: the header claims ", header_size, " bytes, the file has ",
              file_size - 8, " after its size");
  std::string text(header_size, '\0');
  read(text.data(), header_size);
  reader.rule(!text.empty() && text[0] == '{', "not a safetensors file: the header does not begin with {");
  const Json header = reader.parse(text);

  TensorFile out;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == metadata_key) {
      reader.rule(value.is_object(), metadata_key, " must map names to texts");
      for (const auto& [key, item] : value.items()) {
        reader.rule(item.is_string(), metadata_key, ": ", key, " must be a text, got ", item.dump());
        out.metadata[key] = item.get<std::string>();
      }
    } else {
      entries.push_back(reader.entry(name, value));
    }
  }
  // Without gaps or overlaps: nothing can hide between the tensors.
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t at = 0;
  for (const Entry& entry : entries) {
    reader.rule(entry.begin == at, entry.name, ": expected to begin at byte ", at, " of the data, begins at ",
                entry.begin);
    at = entry.end;
  }
  const std::uint64_t data_size = file_size - 8 - header_size;
  reader.rule(at <= data_size, "truncated: expected ", at, " bytes of data, found ", data_size);
  reader.rule(at == data_size, "expected ", at, " bytes of data, found ", data_size);

  for (const Entry& entry : entries) {
    const Tensor x = empty(entry.spec, Device{});
    read(TensorView(x).data, entry.end - entry.begin);
    if (entry.spec.dtype == DType::boolean) {
      for (const std::byte b : bytes_of(x)) {
        reader.rule(b <= std::byte{1}, entry.name, ": a bool must be 0 or 1, found ", static_cast<int>(b));
      }
    }
    out.tensors.emplace(entry.name, x);
  }
  return out;
}

TensorMap load(const std::string& path) { return load_with_metadata(path).tensors; }

}  // namespace binade::io
