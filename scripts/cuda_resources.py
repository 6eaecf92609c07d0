#!/usr/bin/env python3
"""What ptxas says about the kernels: registers, spills, stack and shared memory.

  cuda_resources.py capture COMPILER ARGUMENTS...   runs nvcc -Xptxas -v; its report goes to OBJECT.ptxas
  cuda_resources.py table FOLDER ARCHITECTURES [--all]
                                                    one line per kernel and architecture (without --all: the kernels
                                                    with most registers); exit code 1 on any spill, without kernels, or
                                                    unless each was compiled for exactly these: 80,90
  cuda_resources.py --self-test
"""
import pathlib
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def capture(command):
    """Compiles; what ptxas reports of each kernel is kept in a file, everything else is shown."""
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    report, rest = [], []
    for line in run.stderr.splitlines():
        is_report = line.startswith("ptxas info") or FRAME.search(line)
        (report if is_report else rest).append(line)
    if rest:
        print("\n".join(rest), file=sys.stderr)
    if run.returncode == 0 and "-o" in command:
        pathlib.Path(command[command.index("-o") + 1] + ".ptxas").write_text("\n".join(report) + "\n")
    return run.returncode


def parse(text):
    """[(kernel, architecture, registers, spill bytes, stack bytes, shared bytes)]"""
    rows, entry, frame = [], None, (0, 0)
    for line in text.splitlines():
        if match := ENTRY.search(line):
            entry, frame = match.groups(), (0, 0)
        elif match := FRAME.search(line):
            stack, stores, loads = map(int, match.groups())
            frame = (stores + loads, stack)
        elif (match := USED.search(line)) and entry:
            rows.append((*entry, int(match[1]), *frame, int(match[2] or 0)))
            entry = None
    return rows


def demangle(names):
    try:
        run = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
        return dict(zip(names, run.stdout.splitlines()))
    except (OSError, subprocess.CalledProcessError):
        return {name: name for name in names}


def short(name):
    name = re.sub(r"^void |\(anonymous namespace\)::|binade::(cuda::|formulas::|kernel::)*", "", name)
    return re.sub(r"\(.*\)$", "", re.sub(r"\(\w+\)(?=\d)", "", name))  # no casts of enumerators, no parameters


def table(folder, expected, everything):
    files = sorted(pathlib.Path(folder).rglob("*.ptxas"))
    rows = [row for file in files for row in parse(file.read_text())]
    if not rows:
        print(f"cuda_resources: no kernels found below {folder}")
        return 1
    names = demangle(sorted({row[0] for row in rows}))
    spilled = [row for row in rows if row[3] > 0]
    shown = rows if everything else spilled + sorted(rows, key=lambda row: -row[2])[:12]
    print(f"{'kernel':60} {'arch':8} {'registers':>9} {'spills':>7} {'stack':>6} {'shared':>7}")
    for kernel, arch, registers, spill, stack, shared in shown:
        print(f"{short(names[kernel])[:60]:60} {arch:8} {registers:9} {spill:7} {stack:6} {shared:7}")
    kernels, architectures = len({row[0] for row in rows}), {row[1] for row in rows}
    print(f"{kernels} kernels for {', '.join(sorted(architectures))}: {len(spilled)} spill, at most "
          f"{max(row[2] for row in rows)} registers, {sum(row[4] > 0 for row in rows)} with a stack frame")
    if architectures != {"sm_" + a for a in expected.split(",")} or len(rows) != kernels * len(architectures):
        print(f"cuda_resources: expected every kernel for {expected}")
        return 1
    return 1 if spilled else 0


def self_test():
    report = """ptxas info    : Compiling entry function '_Z1av' for 'sm_80'
ptxas info    : Function properties for _Z1av
    8 bytes stack frame, {0} bytes spill stores, {0} bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem, 400 bytes cmem[0]
"""
    clean, spilling = parse(report.format(0)), parse(report.format(4))
    ok = clean == [("_Z1av", "sm_80", 40, 0, 8, 128)] and spilling == [("_Z1av", "sm_80", 40, 8, 8, 128)]
    print("self-test:", "as expected" if ok else f"got {clean} and {spilling}")
    return 0 if ok else 1


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) > 1 and arguments[0] == "capture":
        return capture([a for a in arguments[1:] if a])
    if len(arguments) in (3, 4) and arguments[0] == "table":
        return table(arguments[1], arguments[2], "--all" in arguments)
    print(__doc__.strip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
