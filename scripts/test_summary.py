#!/usr/bin/env python3
"""Prints what the last test run of each build folder did: counts, reasons for skipping, costs of installing.

  test_summary.py BUILD_FOLDER...      exit code 1 if a test failed
"""
import collections
import json
import pathlib
import sys


def counts(results):
    """(ran, failed, skipped) of one GoogleTest JSON file."""
    ran = failed = skipped = 0
    for suite in json.loads(results.read_text()).get("testsuites", []):
        for test in suite.get("testsuite", []):
            if test.get("result") == "SKIPPED":
                skipped += 1
            elif test.get("status") == "RUN":
                ran += 1
                failed += bool(test.get("failures"))
    return ran, failed, skipped


def main(folders):
    total = collections.Counter()
    for folder in map(pathlib.Path, folders):
        for results in sorted(folder.glob("results/*.json")):
            ran, failed, skipped = counts(results)
            total.update(ran=ran, failed=failed, skipped=skipped)
            print(f"{folder.name:8} {results.stem:10} {ran:6} ran {failed:5} failed {skipped:5} skipped")
        log = folder / "Testing/Temporary/LastTest.log"
        if not log.exists():
            continue
        lines = log.read_text(errors="replace").splitlines()
        reasons = collections.Counter(after for line, after in zip(lines, lines[1:]) if line.endswith(": Skipped"))
        for reason, count in reasons.most_common(10):
            print(f"{folder.name:8} skipped {count}: {reason}")
        for line in lines:
            if line.startswith("install: "):
                print(f"{folder.name:8} {line}")
    print(f"all      {total['ran']} ran, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
