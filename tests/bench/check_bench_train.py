#!/usr/bin/env python3
"""Runs bench_train on the smallest cases and checks what its records must satisfy whatever the speed.

  check_bench_train.py BENCH_TRAIN

BINADE_TEST_DEVICE names another device than the CPU.
"""
import json
import math
import os
import subprocess
import sys
import tempfile

BENCH = sys.argv[1]
FIELDS = """model precision batch seq threads cpu device tokens_per_s step_ms floor_ms step_over_floor step_over_floor_quartiles pairs
disturbed_pairs quiet floor_products floor_dtype floor_gflops loss triad_gb_per_s families kernels peak_bytes
peak_bytes_by_tag system_allocations_per_step heap_allocations_per_step""".split()


def records(*arguments):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "records.json")
        subprocess.run([BENCH, "--pairs", "1", "--json", path, *arguments], check=True, stdout=subprocess.DEVNULL)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def check_record(r, products, roles):
    assert sorted(r) == sorted(FIELDS), set(r) ^ set(FIELDS)
    assert r["floor_products"] == products, r["floor_products"]
    low, high = r["step_over_floor_quartiles"]
    assert 0 < low <= r["step_over_floor"] <= high
    assert r["pairs"] == 1 if r["quiet"] else r["pairs"] == r["disturbed_pairs"] == 3, r["pairs"]  # one was asked for
    assert r["system_allocations_per_step"] == 0
    assert sum(r["peak_bytes_by_tag"].values()) == r["peak_bytes"] > 0
    assert math.isfinite(r["loss"])
    shares = {name: row["share"] for name, row in r["families"].items()}
    assert math.isclose(sum(shares.values()), 1, abs_tol=1e-6), shares
    assert math.isclose(sum(row["share"] for row in r["kernels"].values()), 1 - shares["outside kernels"], abs_tol=1e-6)
    assert min(shares.values()) >= -1e-9, shares  # time counted twice would leave less than nothing outside kernels
    calls = [r["kernels"]["matmul " + role]["calls"] for role in ("forward", "dX", "dW")]
    assert calls[0] * roles[1] == calls[1] * roles[0] and calls[0] * roles[2] == calls[2] * roles[0], calls


def check_device(device):
    for r in records("--device", device, "--model", "mlp", "--batch", "16", "--precision", "fp32,bf16,fp16"):
        check_record(r, products=5, roles=(2, 1, 2))
        assert r["triad_gb_per_s"] is None and r["device"] != r["cpu"], r["device"]
        assert r["floor_dtype"] == {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[r["precision"]], r["floor_dtype"]
        assert r["families"]["matrix products"]["share"] > 0 and r["families"]["optimizer"]["share"] > 0, r["families"]
        assert r["kernels"]["adam"]["share"] == r["families"]["optimizer"]["share"]
    print(f"bench_train: the records of {device} are sound")


def main():
    if os.environ.get("BINADE_TEST_DEVICE"):
        check_device(os.environ["BINADE_TEST_DEVICE"])
        return
    for r in records("--model", "mlp", "--batch", "16", "--precision", "fp32,bf16,fp16,fp8,fp8_current"):
        check_record(r, products=5, roles=(2, 1, 2))  # the first layer's input needs no gradient
    for r in records("--model", "char", "--batch", "1", "--seq", "16", "--precision", "fp32,fp8"):
        check_record(r, products=3 * 25 + 6 * 6, roles=(1, 1, 1))
    tiny, = records("--model", "tiny-op", "--count", "50")
    assert tiny["ns_per_operation"] > 0 and tiny["count"] == 50
    served = subprocess.run([BENCH, "--serve", "--model", "mlp", "--batch", "16"], input="2\n1\n", text=True, check=True,
                            stdout=subprocess.PIPE).stdout.split()
    assert served[0] == "ready" and len(served) == 3 and all(float(s) > 0 for s in served[1:]), served
    assert subprocess.run([BENCH, "--precision", "fp7"], stderr=subprocess.DEVNULL).returncode == 1
    print("bench_train: all records are sound")


if __name__ == "__main__":
    main()
