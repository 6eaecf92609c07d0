#!/usr/bin/env python3
"""Prints how many tests ran, failed and were skipped, and why they were skipped.

  test_summary.py RESULTS...                   folders of GoogleTest JSON files
  test_summary.py --log FILE --prefix TEXT     the lines of a CTest log that start with TEXT
"""
import collections
import json
import pathlib
import sys


def reason_of(test):
    """The text given to GTEST_SKIP(), where GoogleTest wrote one."""
    for entry in test.get("skipped", []):
        if isinstance(entry, dict) and entry.get("message"):
            return entry["message"].strip().splitlines()[-1]
    return "no reason recorded"


def summarise(folders):
    all_failed = 0
    for folder in map(pathlib.Path, folders):
        for path in sorted(folder.glob("*.json")):
            ran = failed = 0
            skipped = collections.Counter()
            for suite in json.loads(path.read_text()).get("testsuites", []):
                for test in suite.get("testsuite", []):
                    if test.get("result") == "SKIPPED":
                        skipped[reason_of(test)] += 1
                    elif test.get("status") == "RUN":
                        ran += 1
                        failed += bool(test.get("failures"))
            all_failed += failed
            print(f"{folder.parent.name:8} {path.stem:10} {ran:6} ran {failed:4} failed {skipped.total():5} skipped")
            for reason, count in skipped.most_common(5):
                print(f"{'':20} skipped {count}: {reason}")
    return 1 if all_failed else 0


def main(arguments):
    if arguments and arguments[0] == "--log":
        log, prefix = arguments[1], arguments[3]
        for line in pathlib.Path(log).read_text(errors="replace").splitlines():
            if line.startswith(prefix):
                print(line)
        return 0
    return summarise(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
