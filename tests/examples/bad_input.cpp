// Bad input: one clear line on stderr, exit code 2 for usage and 1 otherwise, and no file changed.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "binade/tests/examples/process.h"
#include "binade/tests/examples/small_data.h"

namespace {

using namespace binade::test;

std::map<std::string, std::string> contents(const Folder& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
    files[entry.path().string()] = entry.is_directory() ? "a folder" : read_file(entry.path().string());
  }
  return files;
}

class BadInput : public testing::Test {
 protected:
  BadInput() {
    for (const char* name : {"m.jsonl", "c.json", "c.html"}) write_file(folder_ / name, "precious");
  }
  // Whether the last flags of `arguments` are refused with `exit_code` and a line that has all the words.
  void refuses(int exit_code, const std::string& program, const Arguments& arguments,
               const std::vector<std::string>& words) {
    const auto before = contents(folder_);
    const Finished run = binade::test::run(program, arguments, {{"BINADE_DATA", folder_.path()}});
    std::string command = program;
    for (const std::string& word : arguments) command += " " + word;
    SCOPED_TRACE(command + "\n" + run.err);
    EXPECT_EQ(run.exit_code, exit_code);
    EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1);
    EXPECT_LT(run.err.size(), 500U);
    for (const std::string& word : words) EXPECT_NE(run.err.find(word), std::string::npos) << word;
    EXPECT_EQ(run.out.find("step "), std::string::npos) << "trained before it looked";
    EXPECT_EQ(contents(folder_), before);
  }
  Arguments mlp(Arguments more) const {
    return joined({"--data", folder_.path(), "--batch", "16", "--steps", "3"}, more);
  }
  Arguments gpt(Arguments more) const {
    return joined({"--data", folder_ / "kjv.txt", "--context", "16", "--batch", "2", "--steps", "3"}, more);
  }
  static Arguments joined(Arguments a, const Arguments& b) {
    // A flag given again replaces the one before.
    for (std::size_t i = 0; i < b.size(); ++i) {
      const auto found = std::find(a.begin(), a.end(), b[i]);
      if (found != a.end() && b[i].starts_with("--") && i + 1 < b.size()) {
        *(found + 1) = b[++i];
      } else {
        a.push_back(b[i]);
      }
    }
    return a;
  }
  DataFolder folder_;
};

TEST_F(BadInput, Flags) {
  const std::string metrics = folder_ / "m.jsonl";
  for (const char* program : {"mlp", "gpt"}) {
    const auto flags = [&](Arguments more) {
      more.insert(more.end(), {"--metrics", metrics});
      return program == std::string("mlp") ? mlp(more) : gpt(more);
    };
    refuses(2, program, flags({"--frobnicate"}), {"--frobnicate", "--help"});
    refuses(2, program, flags({"--precision", "fp64"}), {"--precision", "fp64", "bf16"});
    refuses(2, program, flags({"--lr", "nan"}), {"--lr", "nan"});
    refuses(2, program, flags({"--lr", "inf"}), {"--lr", "inf"});
    refuses(2, program, flags({"--lr", "-1"}), {"--lr", "-1"});
    refuses(2, program, flags({"--lr", "0"}), {"--lr", "0"});
    refuses(2, program, flags({"--lr", "fast"}), {"--lr", "fast"});
    refuses(2, program, flags({"--steps", "0"}), {"--steps"});
    refuses(2, program, flags({"--batch", "-3"}), {"--batch"});
    refuses(2, program, flags({"--batch", "1000000"}), {"--batch", "1000000", "training samples"});
    refuses(2, program, flags({"--seed", "-1"}), {"--seed"});
    refuses(2, program, flags({"--device", "cuda"}), {"--device", "no CUDA"});
    refuses(2, program, flags({"--device", "gpu"}), {"--device", "gpu", "cpu"});
    refuses(2, program, flags({"--resume"}), {"--resume", "--checkpoint"});
    refuses(2, program, flags({"--every", "2"}), {"--every", "--checkpoint"});
  }
  refuses(2, "gpt", gpt({"--size", "huge"}), {"--size", "huge", "tiny"});
  refuses(2, "gpt", gpt({"--generate", "5", "--prompt", "Ω"}), {"--prompt", "Ω"});
}

TEST_F(BadInput, Images) {
  const std::string images = folder_ / "train-images-idx3-ubyte.gz", labels = folder_ / "train-labels-idx1-ubyte.gz";
  const std::string good_images = read_file(images), good_labels = read_file(labels);
  const Arguments flags = mlp({"--metrics", folder_ / "m.jsonl"});
  refuses(1, "mlp", mlp({"--data", folder_ / "absent"}), {"absent", "no such file"});
  write_file(images, good_images.substr(0, good_images.size() / 2));
  refuses(1, "mlp", flags, {"train-images", "truncated"});
  write_file(images, gzipped(idx_labels(200) + std::string(32, 'x')));
  refuses(1, "mlp", flags, {"train-images", "wrong magic number"});
  write_file(images, good_images);
  write_file(labels, gzipped(idx_labels(199)));
  refuses(1, "mlp", flags, {"200 images", "199 labels"});
  write_file(labels, good_labels);
  write_file(folder_ / "t10k-images-idx3-ubyte", idx_header(3, {40, 4, 4}) + std::string(640, 'x'));
  refuses(1, "mlp", flags, {"sizes disagree"});
}

TEST_F(BadInput, Text) {
  const Arguments flags = gpt({"--data", folder_ / "text", "--metrics", folder_ / "m.jsonl"});
  refuses(1, "gpt", flags, {"text", "no such file"});
  write_file(folder_ / "text", "too short");
  refuses(1, "gpt", flags, {"text", "tokens"});
  write_file(folder_ / "text", "");
  refuses(1, "gpt", flags, {"text"});
  write_file(folder_ / "text", "abc\xff" + small_text());
  refuses(1, "gpt", flags, {"text", "byte 3"});
  std::filesystem::remove(folder_ / "kjv.txt");
  refuses(1, "gpt", {"--steps", "3"}, {"kjv.txt", "scripts/get_data.sh"});
}

TEST_F(BadInput, Checkpoints) {
  const std::string file = folder_ / "x.ckpt";
  for (const char* program : {"mlp", "gpt"}) {
    SCOPED_TRACE(program);
    const auto flags = [&](Arguments more) {
      more.insert(more.end(), {"--checkpoint", file});
      return program == std::string("mlp") ? mlp(more) : gpt(more);
    };
    const auto resume = [&](Arguments more) {
      more.insert(more.end(), {"--resume", "--metrics", folder_ / "m.jsonl"});
      return flags(more);
    };
    std::filesystem::remove(file);
    refuses(1, program, resume({}), {"x.ckpt"});
    ASSERT_EQ(run(program, flags({})).exit_code, 0);
    refuses(2, program, resume({}), {"--steps", "3 steps already"});
    const std::string good = read_file(file);
    write_file(file, good.substr(0, good.size() - 5));
    refuses(1, program, resume({"--steps", "5"}), {"x.ckpt", "bytes"});
    write_file(file, "precious");
    refuses(1, program, resume({"--steps", "5"}), {"x.ckpt"});
    write_file(file, good);
    const Arguments other = program == std::string("mlp") ? Arguments{"--hidden", "32"} : Arguments{"--context", "8"};
    refuses(1, program, resume(joined({"--steps", "5"}, other)), {"--resume", "x.ckpt", "does not fit", "expected"});
  }
}

TEST_F(BadInput, UnwritableOutput) {
  write_file(folder_ / "file", "not a folder");
  for (const std::string& place : {folder_ / "absent/out", folder_ / "file/out", folder_.path()}) {
    for (const char* flag : {"--metrics", "--checkpoint"}) {
      refuses(1, "mlp", mlp({flag, place}), {flag, "cannot write", place});
      refuses(1, "gpt", gpt({flag, place}), {flag, "cannot write", place});
    }
    for (const char* flag : {"--json", "--html"}) {
      refuses(1, "precision_compare", {"--steps", "3", "--batch", "4", flag, place}, {flag, "cannot write", place});
    }
  }
}

TEST_F(BadInput, Comparison) {
  const auto flags = [&](const Arguments& more) {
    return joined({"--steps", "3", "--batch", "4", "--json", folder_ / "c.json", "--html", folder_ / "c.html"}, more);
  };
  refuses(2, "precision_compare", flags({"--modes", "fp32,foo"}), {"--modes", "foo", "bf16"});
  refuses(2, "precision_compare", flags({"--modes", ""}), {"--modes", "fp32"});
  refuses(2, "precision_compare", flags({"--modes", "fp32,,bf16"}), {"--modes"});
  refuses(2, "precision_compare", flags({"--model", "cnn"}), {"--model", "cnn", "mlp"});
  refuses(2, "precision_compare", flags({"--lr", "nan"}), {"--lr", "nan"});
  refuses(2, "precision_compare", flags({"--lr", "-1"}), {"--lr", "-1"});
  refuses(2, "precision_compare", flags({"--seed", "-1"}), {"--seed", "-1"});
  refuses(2, "precision_compare", flags({"--seeds", "0"}), {"--seeds"});
  refuses(2, "precision_compare", flags({"--device", "cuda"}), {"--device", "no CUDA"});
  refuses(2, "precision_compare", flags({"--batch", "1000000"}), {"--batch", "training samples"});
  refuses(2, "precision_compare", flags({"--model", "gpt", "--batch", "1000000"}), {"--batch", "training samples"});
  refuses(2, "precision_compare", flags({"--whatever"}), {"--whatever"});
}

}  // namespace
