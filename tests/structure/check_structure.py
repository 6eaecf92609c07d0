#!/usr/bin/env python3
"""Checks the rules of the tree: which room includes which, light public headers, file sizes and names.

  check_structure.py [ROOT]       exit code 1 and one line per violation
  check_structure.py --self-test  plants violations in a temporary tree and expects each to be found
"""
import os
import re
import sys
import tempfile

REPORT_LINES, MAX_LINES = 400, 600
SKIPPED_AT_TOP = {"build", "data", "reports", "shared"}
CODE = (".h", ".hpp", ".cpp", ".cu", ".cuh")
SIZED = CODE + (".py", ".sh", ".cmake", "CMakeLists.txt")
CORE_RANK = {"base": 0, "tensor": 1, "backend": 2, "autograd": 3,
             "amp": 4, "optim": 4, "data": 4, "io": 4, "profile": 4}
BANNED_STEMS = {"utils", "util", "common", "misc"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
BACKEND_SWITCH = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*\bBINADE_(?:\w+_)?CUDA\b")
STANDARD_HEADER = re.compile(r"^[a-z_]+$")  # <vector>, <cstdint>: no folder, no extension


def room_of(path):
    """'core/base', 'ops', 'ops/cpu', 'ops/nn', 'distributed', ... of a path inside the tree."""
    parts = path.split("/")
    if len(parts) == 1:
        return "umbrella"
    if parts[0] == "core":
        return "core/" + parts[1] if len(parts) > 2 else "core"
    if parts[0] == "ops" and len(parts) > 2:
        return "ops/" + parts[1]
    return parts[0]


def may_include(source, target):
    """Whether the file `source` may include the file `target`, both relative to the root."""
    a, b = room_of(source), room_of(target)
    if a.startswith("core/"):
        if not b.startswith("core/"):
            return False
        return CORE_RANK.get(a[5:], -1) >= CORE_RANK.get(b[5:], 99)
    in_core = b.startswith("core/")
    if a == "ops":
        return in_core or b == "ops"
    if a == "ops/nn":
        return in_core or b in ("ops", "ops/nn")
    if a == "ops/compare":
        return in_core or b in ("ops", "ops/nn", "ops/compare")
    if a in ("ops/cpu", "cuda"):
        return in_core or target in ("ops/formulas.h", "ops/formulas_inl.h") or b == a
    if a == "distributed":
        return in_core or b == "distributed"
    if a == "umbrella":
        return in_core or b in ("ops", "ops/nn", "ops/compare", "distributed")
    if a == "examples":
        return in_core or b in ("umbrella", "ops", "ops/nn", "ops/compare", "distributed", "examples")
    return True  # tests may include everything


def is_public_header(path):
    return path.endswith(".h") and (path == "binade.h" or path.startswith(("core/", "distributed/"))
                                    or room_of(path) in ("ops", "ops/nn", "ops/compare"))


def files_below(root):
    for folder, folders, names in os.walk(root):
        skipped = SKIPPED_AT_TOP if folder == root else {"__pycache__"}
        folders[:] = sorted(f for f in folders if f not in skipped and not f.startswith("."))
        for name in sorted(names):
            if name.endswith(SIZED):
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def check_includes(path, line_number, line, found, edges):
    match = INCLUDE.match(line)
    if not match:
        return
    quote, target = match.groups()
    where = f"{path}:{line_number}"
    if target.startswith("binade/"):
        target = target[len("binade/"):]
        if not may_include(path, target):
            found.append(f"direction: {where}: {room_of(path)} must not include {target}")
        elif path.startswith("core/") and room_of(path) != room_of(target):
            edges.setdefault(room_of(path), {})[room_of(target)] = where
        return
    if quote == '"' and path.startswith(("core/", "ops/", "distributed/")) and "/" not in target:
        found.append(f'spelling: {where}: write "binade/.../{target}", as everywhere')
    elif is_public_header(path) and not STANDARD_HEADER.match(target):
        found.append(f"heavy: {where}: a public header includes <{target}>, which is neither standard nor ours")


def find_cycle(edges):
    """One cycle among the rooms of core, as a list of rooms; None when there is none."""
    finished = set()

    def walk(room, trail):
        if room in trail:
            return trail[trail.index(room):] + [room]
        if room in finished:
            return None
        for target in edges.get(room, {}):
            cycle = walk(target, trail + [room])
            if cycle:
                return cycle
        finished.add(room)
        return None

    for room in edges:
        cycle = walk(room, [])
        if cycle:
            return cycle
    return None


def check_tree(root):
    """Returns (violations, long files)."""
    found, long_files, edges = [], [], {}
    for path in files_below(root):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            lines = file.read().splitlines()
        if len(lines) > MAX_LINES:
            found.append(f"size: {path}: {len(lines)} lines, more than {MAX_LINES}")
        elif len(lines) > REPORT_LINES:
            long_files.append(f"{path}: {len(lines)} lines")
        if not path.endswith(CODE):
            continue
        parts = path.split("/")
        if parts[-1].split(".")[0] in BANNED_STEMS or (BANNED_STEMS & set(parts[:-1]) and parts[0] != "examples"):
            found.append(f"name: {path}: says nothing about what is inside")
        if parts[0] == "core" and (len(parts) != 3 or parts[1] not in CORE_RANK):
            found.append(f"room: {path}: not in one of core/{{{','.join(CORE_RANK)}}}")
        for number, line in enumerate(lines, 1):
            if parts[0] in ("core", "ops") and BACKEND_SWITCH.match(line):
                found.append(f"backend: {path}:{number}: no #if for a backend in core/ or ops/")
            check_includes(path, number, line, found, edges)
    cycle = find_cycle(edges)
    if cycle:
        found.append("cycle: " + " -> ".join(cycle))
    return found, long_files


# ---- self-test

GOOD_TREE = {
    "binade.h": '#include "binade/core/amp/autocast.h"\n#include "binade/ops/ops.h"\n#include "binade/ops/nn/linear.h"\n',
    "core/base/error.h": "#include <string>\n#include <cstdint>\n",
    "core/tensor/tensor.h": '#include "binade/core/base/error.h"\n',
    "core/backend/kernels.h": '#include "binade/core/tensor/tensor.h"\n',
    "core/autograd/op.h": '#include "binade/core/backend/kernels.h"\n',
    "core/amp/autocast.h": '#include "binade/core/autograd/op.h"\n',
    "core/io/json.cpp": '#include <nlohmann/json.hpp>\n#include "binade/core/optim/adam.h"\n',
    "core/optim/adam.h": "",
    "ops/ops.h": '#include "binade/core/tensor/tensor.h"\n',
    "ops/formulas.h": "#if defined(__CUDACC__)\n#endif\n",
    "ops/norm.cpp": '#include "binade/ops/ops.h"\n#include "binade/ops/formulas.h"\n',
    "ops/nn/linear.h": '#include "binade/ops/ops.h"\n',
    "ops/compare/comparison.h": '#include "binade/ops/nn/linear.h"\n',
    "ops/cpu/norm.cpp": '#include <hwy/highway.h>\n#include "binade/ops/formulas.h"\n#include "binade/ops/cpu/simd.h"\n',
    "ops/cpu/simd.h": "#include <hwy/highway.h>\n",
    "distributed/bucket.h": '#include "binade/core/tensor/tensor.h"\n',
    "examples/common/flags.h": "#include <CLI/CLI.hpp>\n",
    "examples/mlp.cpp": '#include <binade/binade.h>\n#include "common/flags.h"\n',
    "tests/core/a.cpp": '#include "binade/ops/cpu/simd.h"\n',
}

# (expected rule, file, its text)
PLANTED = [
    ("direction", "core/base/dtype.h", '#include "binade/core/tensor/tensor.h"\n'),
    ("direction", "core/backend/memory.cpp", '#include "binade/core/autograd/op.h"\n'),
    ("direction", "core/autograd/run.cpp", '#include "binade/core/amp/autocast.h"\n'),
    ("direction", "core/optim/sgd.cpp", '#include "binade/ops/ops.h"\n'),
    ("direction", "core/data/loader.cpp", "  #  include <binade/binade.h>\n"),
    ("direction", "ops/loss.cpp", '#include "binade/ops/nn/linear.h"\n'),
    ("direction", "ops/loss.cpp", '#include "binade/ops/cpu/simd.h"\n'),
    ("direction", "ops/nn/conv.h", '#include "binade/ops/cpu/simd.h"\n'),
    ("direction", "ops/nn/linear.cpp", '#include "binade/ops/compare/comparison.h"\n'),
    ("direction", "ops/cpu/loss.cpp", '#include "binade/ops/ops.h"\n'),
    ("direction", "cuda/kernels/norm.cu", '#include "binade/ops/cpu/simd.h"\n'),
    ("direction", "distributed/launch.cpp", '#include "binade/ops/ops.h"\n'),
    ("direction", "examples/gpt/main.cpp", '#include "binade/ops/cpu/simd.h"\n'),
    ("heavy", "core/base/shape.h", "#include <fmt/format.h>\n"),
    ("heavy", "core/io/metrics.h", "#include <nlohmann/json.hpp>\n"),
    ("heavy", "ops/loss.h", "#include <omp.h>\n"),
    ("heavy", "ops/nn/conv.h", "#include <dnnl.hpp>\n"),
    ("heavy", "binade.h", "#include <spdlog/spdlog.h>\n"),
    ("spelling", "ops/loss.cpp", '#include "ops.h"\n'),
    ("size", "ops/long.cpp", "\n" * (MAX_LINES + 1)),
    ("name", "core/base/utils.h", ""),
    ("name", "ops/common.cpp", ""),
    ("name", "tests/misc/a.cpp", ""),
    ("room", "core/stray.h", ""),
    ("room", "core/nn/linear.h", ""),
    ("backend", "core/base/device.cpp", "#ifdef BINADE_CUDA\n#endif\n"),
    ("backend", "ops/cpu/loss.cpp", "#if defined(BINADE_WITH_CUDA)\n#endif\n"),
    ("cycle", "core/optim/clip.cpp", '#include "binade/core/io/file.h"\n'),
]


def check_planted(extra):
    with tempfile.TemporaryDirectory() as root:
        for path, text in {**GOOD_TREE, **extra}.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
        return check_tree(root)


def self_test():
    failures = []
    violations, _ = check_planted({})
    if violations:
        failures.append(f"the good tree was rejected: {violations}")
    for rule, path, text in PLANTED:
        violations, _ = check_planted({path: text})
        if [v.split(":")[0] for v in violations] != [rule]:
            failures.append(f"{path} with {text[:60]!r}: expected one '{rule}', got {violations}")
    _, long_files = check_planted({"ops/long.cpp": "\n" * (REPORT_LINES + 1)})
    if len(long_files) != 1:
        failures.append("a file of more than 400 lines was not reported")
    for failure in failures:
        print("self-test:", failure)
    print(f"self-test: {len(PLANTED) + 2 - len(failures)} of {len(PLANTED) + 2} cases as expected")
    return 1 if failures else 0


def main():
    if "--self-test" in sys.argv[1:]:
        return self_test()
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    violations, long_files = check_tree(root)
    for line in long_files:
        print(f"long: {line}")
    for line in violations:
        print(line)
    print(f"{len(violations)} violations, {len(long_files)} files over {REPORT_LINES} lines")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
