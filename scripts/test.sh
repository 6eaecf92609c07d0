#!/bin/bash
# Installs, builds and runs every test, then the unit tests again under the address and undefined sanitizers.
#   scripts/test.sh [--quick]    --quick leaves the sanitizers out
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
jobs=$(nproc)
started=$SECONDS

sanitized="core amp compare distributed lowp nn data observatory op_suite"  # test folders that run again under the sanitizers
[ "${1:-}" = --quick ] && sanitized=""

step() { echo "== $* ($((SECONDS - started)) s)"; }

step "dependencies and data"
scripts/install_deps.sh
scripts/get_data.sh || echo "test: some data is absent; tests that need it are skipped"

# Python's safetensors reads our files back in some tests.
venv=$root/build/venv
if [ ! -e "$venv/.ready" ]; then
  mkdir -p build
  if python3 -m venv "$venv" >/dev/null && "$venv/bin/pip" install -q safetensors numpy; then
    touch "$venv/.ready"
  else
    echo "test: no Python packages numpy and safetensors; tests that need them are skipped"
  fi
fi
[ ! -e "$venv/.ready" ] || export BINADE_PYTHON=$venv/bin/python

# build PRESET [TARGET...]
build() {
  step "build $1"
  local preset=$1
  shift
  cmake --preset "$preset" >"build/$preset.log" 2>&1 || { tail -n 30 "build/$preset.log"; return 1; }
  local targets=()
  [ $# -eq 0 ] || targets=(--target "$@")
  cmake --build "build/$preset" -j "$jobs" "${targets[@]}"
}

# run_tests PRESET [CTEST ARGUMENTS]
failed=0
run_tests() {
  step "test $1"
  local preset=$1
  shift
  rm -f "build/$preset/results/"*.json
  ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure --no-tests=error "$@" || failed=1
}

mkdir -p build
build release tests
python3 scripts/cuda_coverage.py --clear
run_tests release
if compgen -G "build/release/device_sim/libbinade_cuda_sim_fast.so" >/dev/null; then
  step "lines of cuda/ executed by these tests (the table: build/release/cuda_coverage.txt)"
  python3 scripts/cuda_coverage.py >build/release/cuda_coverage.txt || failed=1
  tail -n 2 build/release/cuda_coverage.txt
fi
summarised=build/release
if [ -n "$sanitized" ]; then
  targets=() labels=""
  for folder in $sanitized; do
    compgen -G "tests/$folder/*.cpp" >/dev/null || continue
    targets+=("test_$folder")
    labels="$labels|$folder"
  done
  if [ ${#targets[@]} -gt 0 ]; then
    build asan "${targets[@]}"
    summarised="$summarised build/asan"
    run_tests asan -L "^(${labels#|})\$"
  fi
fi

step "summary"
python3 scripts/test_summary.py $summarised || failed=1
if [ "$failed" = 0 ]; then
  echo "test: PASSED in $((SECONDS - started)) s"
else
  echo "test: FAILED after $((SECONDS - started)) s"
  exit 1
fi
