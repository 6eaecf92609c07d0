// Saved files: round trips of every dtype, damaged files, checkpoints, metrics.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "binade/core/io/checkpoint.h"
#include "binade/core/io/metrics.h"
#include "binade/core/tensor/tensor.h"
#include "binade/tests/data/folder.h"

namespace {

using namespace binade;
using namespace binade::test;

std::string raw(const Tensor& x) {
  const TensorView view = x;
  return {reinterpret_cast<const char*>(view.data), static_cast<std::size_t>(x.numel() * size_of(x.dtype()))};
}

constexpr DType all_dtypes[] = {DType::f64,    DType::f32, DType::f16, DType::bf16, DType::f8e4m3,
                                DType::f8e5m2, DType::i64, DType::i32, DType::u8,   DType::boolean};

io::TensorMap one_of_every_dtype() {  // by the dtype's name
  io::TensorMap tensors;
  for (const DType dtype : all_dtypes) {
    Tensor x = empty({3, 5}, {.dtype = dtype});
    for (std::int64_t i = 0; i < x.numel(); ++i) x.set(i, static_cast<double>(dtype == DType::boolean ? i % 2 : i));
    tensors[to_text(dtype)] = x;
  }
  return tensors;
}

TEST(Safetensors, RoundTripOfEveryDtype) {
  const Folder folder;
  io::TensorMap saved = one_of_every_dtype();
  saved["scalar"] = full({}, -0.0);
  saved["empty"] = empty({0, 4});
  saved["strided"] = arange(0, 6).reshape({2, 3}).t();
  saved["name with \"quotes\" and ä"] = full({1}, std::nan(""));
  io::save(folder / "all.safetensors", saved, {{"key", "value ä"}});
  const io::TensorFile loaded = io::load_with_metadata(folder / "all.safetensors");
  ASSERT_EQ(loaded.tensors.size(), saved.size());
  for (const auto& [name, x] : saved) {
    const Tensor& y = loaded.tensors.at(name);
    EXPECT_EQ(y.dtype(), x.dtype()) << name;
    EXPECT_EQ(y.shape(), x.shape()) << name;
    EXPECT_EQ(raw(y), raw(x.contiguous())) << name;
  }
  EXPECT_EQ(loaded.metadata, (io::Metadata{{"key", "value ä"}}));
  std::uint64_t header = 0;
  std::memcpy(&header, read_file(folder / "all.safetensors").data(), 8);
  EXPECT_EQ(header % 8, 0U);
}

// What Python's safetensors makes of a file of ours: names, dtypes, shapes, values and metadata.
TEST(Safetensors, PythonReadsTheFile) {
  const char* python = std::getenv("BINADE_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "BINADE_PYTHON does not name a Python that has numpy and safetensors";
  const Folder folder;
  io::TensorMap saved = one_of_every_dtype();
  saved["scalar"] = full({}, -0.5);
  saved["empty"] = empty({0, 4});
  saved["strided"] = arange(0, 6).reshape({2, 3}).t();
  io::save(folder / "x.safetensors", saved, {{"key", "value ä"}});
  write_file(folder / "read.py", R"(
import json, struct, sys
import numpy, safetensors
path = sys.argv[1]
with open(path, "rb") as file:
    raw = file.read()
size, = struct.unpack("<Q", raw[:8])
header = json.loads(raw[8:8 + size])
formats = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
with open(path, "rb") as file:
    parts = dict(safetensors.deserialize(file.read()))
print("parsed", len(parts))
with safetensors.safe_open(path, framework="numpy") as file:
    print("metadata", file.metadata()["key"].encode("utf-8").hex())
    for name in sorted(parts):
        part = parts[name]
        start, end = header[name]["data_offsets"]
        assert bytes(part["data"]) == raw[8 + size + start:8 + size + end], name
        assert part["shape"] == header[name]["shape"], name
        if part["dtype"] in formats:  # numpy has no bfloat16 and FP8
            x = file.get_tensor(name)
            assert x.dtype == numpy.dtype(formats[part["dtype"]]), (name, x.dtype)
            print(name, list(x.shape), [float(v) for v in x.ravel()])
)");
  const std::string command = "'" + std::string(python) + "' '" + (folder / "read.py") + "' '" +
                              (folder / "x.safetensors") + "' > '" + (folder / "out") + "' 2>&1";
  const int status = std::system(command.c_str());
  const std::string out = read_file(folder / "out");
  ASSERT_EQ(status, 0) << out;
  const auto expect = [&](const std::string& line) { EXPECT_NE(out.find(line + "\n"), std::string::npos) << line << "\n" << out; };
  expect("parsed " + std::to_string(saved.size()));
  expect("metadata 76616c756520c3a4");
  const std::string counting = " [3, 5] [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0]";
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::i64, DType::i32, DType::u8}) {
    expect(to_text(dtype) + counting);
  }
  expect("scalar [] [-0.5]");
  expect("empty [0, 4] []");
  expect("strided [3, 2] [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]");
}

std::string file_of(const std::string& header, const std::string& data) {
  std::uint64_t size = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &size, 8);
  return out + header + data;
}

TEST(Safetensors, DamagedFiles) {
  const Folder folder;
  const auto error_with = [&](const std::string& bytes) {
    write_file(folder / "x.safetensors", bytes);
    return error_of([&] { io::load(folder / "x.safetensors"); });
  };
  const auto expect = [&](const std::string& bytes, const std::string& part) {
    const std::string message = error_with(bytes);
    EXPECT_NE(message.find(part), std::string::npos) << part << " expected in: " << message;
  };
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string good = file_of("{" + a + "}", "abcd");
  EXPECT_EQ(error_with(good), "");
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(error_with(good.substr(0, length)), "") << length;
  }
  expect(good + "e", "expected 4 bytes of data, found 5");
  expect(file_of("{" + a + "," + a + "}", "abcd"), "duplicate name: a");
  expect(std::string(7, '\xff') + '\x7f' + good, "the limit is");
  expect(file_of("[]", ""), "does not begin with {");
  expect(file_of("{" + a, "abcd"), "not valid JSON");
  expect(file_of(R"({"a":{"dtype":"U9","shape":[4],"data_offsets":[0,4]}})", "abcd"), "unknown dtype");
  expect(file_of(R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})", "abcd"), "not negative");
  expect(file_of(R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}})", "abcd"), "do not hold 5 bytes");
  expect(file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", "abcd"), "offsets");
  expect(file_of(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", "abcd"), "overflows");
  expect(file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", "abcde"), "expected to begin at byte 0");
  expect(file_of("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", "abcdef"), "b: expected to begin");
  expect(file_of(R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", "\x02"), "0 or 1, found 2");
  expect(file_of(R"({"__metadata__":{"a":1}})", ""), "must be a text");
  expect(file_of(R"({"a":[[[[[[[[]]]]]]]]})", ""), "nested");
  EXPECT_NE(error_of([&] { io::load(folder / "none"); }).find("cannot read"), std::string::npos);
}

TEST(Safetensors, AFailedSaveKeepsTheOldFile) {
  const Folder folder;
  const std::string path = folder / "x.safetensors";
  io::save(path, {{"a", ones({2})}});
  const std::string before = read_file(path);
  EXPECT_THROW(io::save(path, {{"a", Tensor()}}), Error);
  EXPECT_THROW(io::save(path, {{"\xff", ones({2})}}), Error);
  EXPECT_THROW(io::save(path, {{"__metadata__", ones({2})}}), Error);
  EXPECT_EQ(read_file(path), before);
  EXPECT_NE(error_of([&] { io::save(folder / "no/such/folder/x", {}); }).find("cannot create"), std::string::npos);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);  // nothing left behind
}

TEST(Checkpoint, RoundTrip) {
  const Folder folder;
  io::Checkpoint saved{.model = {{"a.weight", full({2}, 0.1)}},
                       .optimizer = {{"step", full({}, 7, {.dtype = DType::i64})}},
                       .scaler = {{"scale", full({}, 65536)}},
                       .random = {.seed = ~0ULL, .offset = 1ULL << 60},
                       .loader = {.epoch = 3, .next_batch = 11},
                       .step = 1234,
                       .numbers = {{"best", 0.1 + 0.2}, {"lowest", -HUGE_VAL}}};
  io::save_checkpoint(folder / "c", saved);
  const io::Checkpoint loaded = io::load_checkpoint(folder / "c");
  EXPECT_EQ(raw(loaded.model.at("a.weight")), raw(saved.model.at("a.weight")));
  EXPECT_EQ(loaded.optimizer.at("step").item<int>(), 7);
  EXPECT_EQ(loaded.scaler.at("scale").item<float>(), 65536);
  EXPECT_EQ(loaded.random.seed, saved.random.seed);
  EXPECT_EQ(loaded.random.offset, saved.random.offset);
  EXPECT_EQ(loaded.loader.epoch, 3);
  EXPECT_EQ(loaded.loader.next_batch, 11);
  EXPECT_EQ(loaded.step, 1234);
  EXPECT_EQ(loaded.numbers, saved.numbers);
  io::save(folder / "other", {{"a", ones({1})}});
  EXPECT_NE(error_of([&] { io::load_checkpoint(folder / "other"); }).find("expected the format"), std::string::npos);
}

TEST(Metrics, JsonLines) {
  const Folder folder;
  {
    io::MetricsWriter writer(folder / "m.jsonl");
    writer.write(1, {{"loss", 0.5}, {"tokens", std::int64_t{7}}, {"skipped", true}, {"name", "a\"b"}});
    EXPECT_EQ(read_file(folder / "m.jsonl"),
              "{\"step\":1,\"loss\":0.5,\"tokens\":7,\"skipped\":true,\"name\":\"a\\\"b\"}\n");
  }
  io::MetricsWriter(folder / "m.jsonl", true).write(2, {{"loss", std::nan("")}});
  EXPECT_NE(read_file(folder / "m.jsonl").find("\n{\"step\":2,\"loss\":\"nan\"}\n"), std::string::npos);
  EXPECT_NE(error_of([&] { io::MetricsWriter(folder / "no/such/m"); }).find("cannot write"), std::string::npos);
}

}  // namespace
