#!/bin/sh
# binade's training steps against PyTorch's on this machine: same model, batch, dtype and threads, in turns.
#   scripts/bench_peers.sh [--models gpt2,char,mlp,tiny-op] [--precisions fp32,bf16] [--compile] [--json FILE] ...
# PyTorch comes from PyPI into build/peer-venv at the first run; PEER_PYTHON=python names one that has it already.
# BENCH_TRAIN names another bench_train than build/release/bench/bench_train. --help lists everything.
set -eu
cd "$(dirname "$0")/.."

venv=build/peer-venv
if [ -z "${PEER_PYTHON:-}" ]; then
  PEER_PYTHON=$venv/bin/python
  if ! "$PEER_PYTHON" -c 'import torch' 2>/dev/null; then
    python3 -m venv "$venv"
    # The CPU wheel where PyTorch's own index can be reached, else PyPI's: the same CPU code with CUDA beside it.
    "$venv/bin/pip" install --quiet torch numpy --index-url https://download.pytorch.org/whl/cpu ||
      "$venv/bin/pip" install --quiet torch numpy
  fi
fi
bench=${BENCH_TRAIN:-build/release/bench/bench_train}
if [ ! -x "$bench" ]; then
  echo "bench_peers: $bench is missing: cmake --preset release && cmake --build build/release --target bench_train" >&2
  exit 2
fi
exec "$PEER_PYTHON" scripts/bench_peers.py --bench "$bench" "$@"
