#!/bin/sh
# Installs the build in $1, builds consumer/ against it with compiler $2, and prints what that costs.
set -eu
build_dir=$1
compiler=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build_dir" --prefix "$work/prefix" --strip >"$work/log" || { cat "$work/log"; exit 1; }

library=$(find "$work/prefix" -name 'libbinade.so.*.*.*' -o -name 'libbinade.a' | head -n 1)
[ -n "$library" ] || { echo "install: no libbinade in the prefix"; exit 1; }
size=$(stat -c %s "$library")
echo "install: library size $((size / 1024)) KiB ($(basename "$library"), limit 20480 KiB)"
[ "$size" -lt $((20 * 1024 * 1024)) ] || { echo "install: the library is too large"; exit 1; }

cmake -S "$here/consumer" -B "$work/consumer" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_CXX_FLAGS_RELEASE="-O2" -DCMAKE_CXX_COMPILER_LAUNCHER= >"$work/log" || { cat "$work/log"; exit 1; }
python3 - "$work/consumer" <<'PYTHON'
import resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.run(["cmake", "--build", sys.argv[1], "--", "--quiet"]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)  # ru_maxrss: the largest single process, the compiler
print(f"install: the training loop compiles and links in {time.monotonic() - start:.2f} s "
      f"({used.ru_utime + used.ru_stime:.2f} s of CPU), compiler memory {used.ru_maxrss / 1024:.0f} MiB", flush=True)
sys.exit(code)
PYTHON

found=""
for data in "${BINADE_DATA:-$here/../../data}/fashion-mnist" /usr/share/datasets/fashion-mnist; do
  [ ! -e "$data/train-images-idx3-ubyte.gz" ] || found=$data
done
if [ -z "$found" ]; then
  echo "install: SKIPPED running it: Fashion-MNIST is absent (scripts/install_deps.sh installs it)"
  exit 77
fi
start=$(date +%s)
"$work/consumer/consumer"
echo "install: the program trained one epoch in $(($(date +%s) - start)) s"
