#!/usr/bin/env python3
"""Which lines of cuda/ the tests without a GPU have executed, by the counters in the simulated device's quick plugin, in
test_cuda and in test_cudnn_plans. Prints a table and the lines never executed.

  cuda_coverage.py [--least PERCENT] [--build FOLDER]
                   exit code 1 where fewer lines than PERCENT (default 95) were executed
  cuda_coverage.py --clear [--build FOLDER]      forgets what was counted, before tests
  cuda_coverage.py --self-test
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def counts_of(data_file):
    """gcov's report of one object: [(file, line, count)]."""
    done = subprocess.run(["gcov", "--json-format", "--stdout", str(data_file)], cwd=data_file.parent,
                          capture_output=True, text=True, check=True)
    reports = [json.loads(report) for report in done.stdout.splitlines() if report.strip()]
    return [(pathlib.Path(report["current_working_directory"], file["file"]), line["line_number"], line["count"])
            for report in reports for file in report["files"] for line in file["lines"]]


def merge(reports, root):
    """{file below cuda/: {line: count}}; a line counts as often as in all objects and instances together."""
    cuda, real, lines = (root / "cuda").resolve(), {}, {}
    for file, line, count in reports:
        if file not in real:
            path = (root / file).resolve()
            real[file] = str(path.relative_to(root.resolve())) if path.is_relative_to(cuda) else None
        if real[file]:
            of_file = lines.setdefault(real[file], {})
            of_file[line] = of_file.get(line, 0) + count
    return lines


def ranges(numbers):
    """[1, 2, 3, 7] -> '1-3 7'"""
    parts = []
    for n in sorted(numbers):
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def report(lines, root, least):
    total = executed = 0
    print(f"\n{'file':44} {'lines':>6} {'executed':>9}   never executed")
    for file, of_file in sorted(lines.items()):
        missed = [line for line, count in of_file.items() if count == 0]
        total += len(of_file)
        executed += len(of_file) - len(missed)
        share = 100 * (1 - len(missed) / len(of_file))
        print(f"{file:44} {len(of_file):6} {share:8.1f}%   {ranges(missed)}")
    for file in sorted(str(p.relative_to(root)) for p in (root / "cuda").rglob("*.*")):
        if file not in lines:
            print(f"{file:44}      -         -   no code of its own, or not compiled here")
    share = 100 * executed / total if total else 0
    print(f"{'cuda/':44} {total:6} {share:8.1f}%   at least {least:g} % wanted")
    return share >= least and total > 0


def self_test():
    root = ROOT
    lines = merge([(root / "cuda/a.cu", 1, 0), (root / "build/../cuda/a.cu", 1, 2), (root / "cuda/a.cu", 2, 0),
                   (root / "core/b.cpp", 1, 9)], root)
    wanted = {"cuda/a.cu": {1: 2, 2: 0}}
    ok = lines == wanted and ranges([3, 1, 2, 7]) == "1-3 7"
    ok = ok and not report(lines, root, 95) and report(lines, root, 50) and not report({}, root, 0)
    print("self-test:", "as expected" if ok else f"got {lines}")
    return 0 if ok else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=95)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--clear", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    build = pathlib.Path(options.build)
    counters = sorted(build.rglob("*.gcda"))
    if options.clear:
        for file in counters:
            file.unlink()
        return 0
    if not any(build.rglob("*.gcno")):
        print("cuda/ was not compiled with counters here (they are g++'s)")
        return 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        reports = [row for rows in pool.map(counts_of, counters) for row in rows]
    enough = report(merge(reports, ROOT), ROOT, options.least)
    print("rings R2 and R3; nothing of this ran on a GPU")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
