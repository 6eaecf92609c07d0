#!/usr/bin/env python3
"""What ptxas says about the kernels: registers, spills, stack and shared memory, and the occupancy that follows from the
largest blocks that the simulated device has seen.

  cuda_resources.py capture COMPILER ARGUMENTS...   runs nvcc -Xptxas -v; its report goes to OBJECT.ptxas
  cuda_resources.py table FOLDER ARCHITECTURES [--all]
                                                    one line per kernel and architecture (without --all: the kernels
                                                    with most registers); exit code 1 on any spill, without kernels, or
                                                    unless each was compiled for exactly these: 80,90
  cuda_resources.py compare FOLDER BASELINE NVCC    exit code 1 where a kernel is worse off than in the baseline, or the
                                                    baseline does not name the kernels there are; NVCC: its version
  cuda_resources.py refresh FOLDER BASELINE NVCC LAUNCHES
                                                    writes the baseline; LAUNCHES: what BINADE_SIM_LAUNCHES collected
  cuda_resources.py --self-test
"""
import pathlib
import re
import subprocess
import sys

from cuda_occupancy import LIMITS, occupancy

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
REFRESH = "scripts/refresh_kernel_resources.sh"


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


def rows_of(folder):
    return [row for file in sorted(pathlib.Path(folder).rglob("*.ptxas")) for row in parse(file.read_text())]


def table(folder, expected, everything):
    rows = rows_of(folder)
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


# ---- the baseline: a line per kernel, `name | threads dynamic | registers/static/spills/stack per architecture | percent`

def launches(path):
    """{short name: (threads, dynamic shared bytes)} of the largest launches that the simulated device noted."""
    places = {}
    for line in pathlib.Path(path).read_text().splitlines():
        library, offset, threads, shared = line.rsplit(" ", 3)
        of_library = places.setdefault(library, {})
        old = of_library.get(int(offset, 16), (0, 0))
        of_library[int(offset, 16)] = (max(old[0], int(threads)), max(old[1], int(shared)))
    found = {}
    for library, of_library in places.items():
        symbols = subprocess.run(["nm", "-C", "--defined-only", library], capture_output=True, text=True, check=True).stdout
        for symbol in symbols.splitlines():
            address, _, name = symbol.split(" ", 2)
            if (launch := of_library.get(int(address, 16))) is not None and "_kernel" in name:
                found[short(name)] = launch
    return found


def by_kernel(rows, seen):
    """{name: (threads, dynamic, {architecture: (registers, shared, spills, stack)})}"""
    names, kernels = demangle(sorted({row[0] for row in rows})), {}
    for kernel, arch, registers, spills, stack, shared in rows:
        name = short(names[kernel])
        threads, dynamic = seen.get(name, (0, 0))
        of_kernel = kernels.setdefault(name, (threads, dynamic, {}))
        of_kernel[2][arch.removeprefix("sm_")] = (registers, shared, spills, stack)
    return kernels


def line_of(name, kernel):
    threads, dynamic, use = kernel
    order = sorted(use, key=int)
    numbers = " ".join("/".join(map(str, use[a])) for a in order)
    held = " ".join(str(occupancy(a, use[a][0], threads, use[a][1] + dynamic)) for a in order) if threads else "-"
    return f"{name} | {threads or '-'} {dynamic} | {numbers} | {held}"


def read_baseline(path):
    """nvcc's version, architectures, {name: kernel as by_kernel()}"""
    lines = [line for line in pathlib.Path(path).read_text().splitlines() if line and not line.startswith("#")]
    version, architectures = lines[0].split()[1], lines[1].split()[1:]
    kernels = {}
    for line in lines[2:]:
        name, launch, numbers, _ = line.split(" | ")
        threads, dynamic = launch.split()
        use = {a: tuple(map(int, n.split("/"))) for a, n in zip(architectures, numbers.split())}
        kernels[name] = (0 if threads == "-" else int(threads), int(dynamic), use)
    return version, architectures, kernels


def worse(now, before):
    """[what is worse]: more spills or stack, or fewer warps at once."""
    found = []
    threads, dynamic, old = before
    for arch, (registers, shared, spills, stack) in now[2].items():
        if arch not in old:
            continue
        if spills > old[arch][2] or stack > old[arch][3]:
            found.append(f"sm_{arch}: spills {old[arch][2]} -> {spills}, stack {old[arch][3]} -> {stack} bytes")
        if threads:
            was = occupancy(arch, old[arch][0], threads, old[arch][1] + dynamic)
            is_now = occupancy(arch, registers, threads, shared + dynamic)
            if is_now < was:
                found.append(f"sm_{arch}: occupancy {was} -> {is_now} % (registers {old[arch][0]} -> {registers}, "
                             f"shared {old[arch][1]} -> {shared} bytes)")
    return found


def compare(folder, path, nvcc):
    version, _, baseline = read_baseline(path)
    now = by_kernel(rows_of(folder), {})
    if version != nvcc:
        print(f"cuda_resources: the baseline is of nvcc {version}, this is {nvcc}: not compared")
        return 0
    problems = [f"{name}: {text}" for name in sorted(now.keys() & baseline.keys())
                for text in worse(now[name], baseline[name])]
    problems += [f"{name}: new, not in the baseline" for name in sorted(now.keys() - baseline.keys())]
    problems += [f"{name}: in the baseline only" for name in sorted(baseline.keys() - now.keys())]
    changed = sum(now[name][2] != baseline[name][2] for name in now.keys() & baseline.keys())
    held = [occupancy(a, use[a][0], threads, use[a][1] + dynamic)
            for threads, dynamic, use in baseline.values() if threads for a in use]
    print(f"{len(now)} kernels, {changed} with other numbers than the baseline; occupancy of the baseline's: "
          f"{sum(h >= 50 for h in held)} of {len(held)} at least 50 %, the lowest {min(held, default=0)} %")
    for problem in problems:
        print(f"  {problem}")
    if problems:
        print(f"If that is meant: {REFRESH}, and let the difference be reviewed.")
    return 1 if problems else 0


def refresh(folder, path, nvcc, launched):
    kernels = by_kernel(rows_of(folder), launches(launched))
    architectures = sorted({a for kernel in kernels.values() for a in kernel[2]}, key=int)
    pathlib.Path(path).write_text("\n".join([
        f"# Written by {REFRESH}. A line per kernel: name | threads of its largest block, bytes of dynamic shared memory |",
        "# registers/static shared bytes/spilled bytes/stack bytes per architecture | occupancy in percent, as",
        "# scripts/cuda_occupancy.py computes it. -: never launched by the tests on the simulated device.",
        f"nvcc {nvcc}", "architectures " + " ".join(architectures)]
        + [line_of(name, kernels[name]) for name in sorted(kernels)]) + "\n")
    unseen = [name for name, kernel in kernels.items() if not kernel[0]]
    print(f"{path}: {len(kernels)} kernels, {len(unseen)} of them never launched by the tests {' '.join(unseen[:5])}")
    return 0


def self_test():
    report = """ptxas info    : Compiling entry function '_Z1av' for 'sm_80'
ptxas info    : Function properties for _Z1av
    8 bytes stack frame, {0} bytes spill stores, {0} bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem, 400 bytes cmem[0]
"""
    clean, spilling = parse(report.format(0)), parse(report.format(4))
    ok = clean == [("_Z1av", "sm_80", 40, 0, 8, 128)] and spilling == [("_Z1av", "sm_80", 40, 8, 8, 128)]
    before = (256, 0, {"80": (40, 128, 0, 8), "86": (40, 128, 0, 8)})
    held = [occupancy(a, r, t, s) for a, r, t, s in
            (("80", 40, 256, 128), ("86", 40, 256, 128), ("80", 64, 256, 0), ("90", 32, 1024, 0), ("86", 32, 128, 60000),
             ("80", 255, 512, 0), ("120", 24, 32, 0))]
    ok = ok and held == [75, 100, 50, 100, 8, 0, 50]
    ok = ok and worse(before, before) == [] and worse((0, 0, {"80": (32, 128, 0, 8)}), before) == []
    ok = ok and len(worse((0, 0, {"80": (41, 128, 8, 8)}), before)) == 2  # 48 registers per thread, and a spill
    ok = ok and set(LIMITS) >= {"80", "120"}
    print("self-test:", "as expected" if ok else f"got {clean}, {spilling}, {held}")
    return 0 if ok else 1


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) > 1 and arguments[0] == "capture":
        return capture([a for a in arguments[1:] if a])
    if len(arguments) in (3, 4) and arguments[0] == "table":
        return table(arguments[1], arguments[2], "--all" in arguments)
    if len(arguments) == 4 and arguments[0] == "compare":
        return compare(*arguments[1:])
    if len(arguments) == 5 and arguments[0] == "refresh":
        return refresh(*arguments[1:])
    print(__doc__.strip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
