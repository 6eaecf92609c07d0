#!/usr/bin/env python3
"""Which lines of cuda/ the tests without a GPU execute: ring R2 (the real cuDNN's plans) and ring R3 (the simulated
device). Builds with counters in build/release, runs the tests, prints a table and the lines never executed.

  cuda_coverage.py [--least PERCENT] [--build FOLDER] [--report-only]
                   exit code 1 where a test fails or fewer lines than PERCENT (default 95) are executed
  cuda_coverage.py --self-test
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIMULATED = {"BINADE_TEST_DEVICE": "cuda", "BINADE_SIM_LEAKS": "0", "BINADE_SIM_PROTECT": "0"}
# name, program, filter, settings. Programs whose name ends in _coverage run without the simulated device.
RUNS = [
    ("plans", "test_cudnn_plans_coverage", "*", {}),
    ("probe", "test_cuda_coverage", "CudaProbe.*", {}),
    ("operations", "test_op_suite", "Samples*", {}),
    ("cuda", "test_cuda", "*", {}),
    ("optim", "test_optim", "*", {}),
    ("amp", "test_amp", "*", {}),
    ("lowp", "test_lowp", "*", {}),
    ("sync", "test_cuda", "CudaSync.*", {"BINADE_CUDA_SYNC": "1", "BINADE_NVTX": "1"}),
    ("before_fp8", "test_cuda", "*.Fp8Products*", {"BINADE_SIM_CAPABILITY": "80"}),
    ("ranks", "test_distributed", "-Launched*:DeviceJobs*", {"BINADE_SIM_DEVICES": "4", "OMP_NUM_THREADS": "1"}),
    ("library_sums", "test_distributed", "Collectives.*Reduc*",
     {"BINADE_SIM_DEVICES": "4", "OMP_NUM_THREADS": "1", "BINADE_TEST_LIBRARY_SUMS": "1"}),
]


def run_test(build, run):
    name, program, tests, settings = run
    command = [str(build / "tests" / program), f"--gtest_filter={tests}", "--gtest_brief=1"]
    if program == "test_distributed":
        command = ["mpiexec", "-n", "2", *command]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **settings}
    if not program.endswith("_coverage"):
        plugin = build / "device_sim" / "libbinade_cuda_sim_coverage.so"
        environment |= {**SIMULATED, "BINADE_CUDA_PLUGIN": str(plugin), **settings}
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(f"  {name:14} {'passed' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - begin:.0f} s", flush=True)
    if done.returncode != 0:
        print("\n".join(done.stdout.splitlines()[-20:]))
    return done.returncode == 0


def counts_of(data_file):
    """gcov's report of one object: [(file, line, count)]."""
    done = subprocess.run(["gcov", "--json-format", "--stdout", str(data_file)], cwd=data_file.parent,
                          capture_output=True, text=True, check=True)
    return [(pathlib.Path(file["file"]), line["line_number"], line["count"])
            for report in done.stdout.splitlines() if report.strip()
            for file in json.loads(report)["files"] for line in file["lines"]]


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
    parser.add_argument("--report-only", action="store_true", help="of the last run's counters")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    build, begin, passed = pathlib.Path(options.build), time.monotonic(), True
    jobs = os.cpu_count() or 1
    if not options.report_only:
        if not (build / "CMakeCache.txt").exists():
            subprocess.run(["cmake", "--preset", "release", "-B", str(build)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", str(build), "-j", str(jobs), "--target", "cuda_coverage"], check=True)
        for old in build.rglob("*.gcda"):
            old.unlink()
        print(f"tests, after {time.monotonic() - begin:.0f} s:", flush=True)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            passed = all(list(pool.map(lambda run: run_test(build, run), RUNS)))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        reports = [row for rows in pool.map(counts_of, sorted(build.rglob("*.gcda"))) for row in rows]
    enough = report(merge(reports, ROOT), ROOT, options.least)
    print(f"rings R2 and R3; nothing of this ran on a GPU. {time.monotonic() - begin:.0f} s in all")
    return 0 if passed and enough else 1


if __name__ == "__main__":
    sys.exit(main())
