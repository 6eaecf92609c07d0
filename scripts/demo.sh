#!/bin/bash
# From nothing to trained models: installs, builds, gets data, trains an MLP and a GPT in three precisions,
# compares them and says where the report is.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

# How much to train. The defaults keep the whole demo under 10 minutes on 2 cores.
precisions=${PRECISIONS:-fp32 bf16 fp16}
mlp_steps=${MLP_STEPS:-4000} mlp_batch=${MLP_BATCH:-128}
gpt_size=${GPT_SIZE:-tiny} gpt_steps=${GPT_STEPS:-500} gpt_generate=${GPT_GENERATE:-200}
compare_mlp_steps=${COMPARE_MLP_STEPS:-1000} compare_gpt_steps=${COMPARE_GPT_STEPS:-200}
compare_seeds=${COMPARE_SEEDS:-1}
seed=${SEED:-42}

reports=$root/reports
bin=$root/build/release/examples
started=$SECONDS
step() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }

step "dependencies"
scripts/install_deps.sh

step "build"
mkdir -p build "$reports"
cmake --preset release >build/release.log 2>&1 || { tail -n 30 build/release.log; exit 1; }
cmake --build build/release -j "$(nproc)" --target mlp gpt precision_compare

step "data"
scripts/get_data.sh
export BINADE_DATA=${BINADE_DATA:-$root/data}
export OMP_PROC_BIND=${OMP_PROC_BIND:-close} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

for precision in $precisions; do
  step "mlp on Fashion-MNIST, $precision"
  "$bin/mlp" --precision "$precision" --seed "$seed" --steps "$mlp_steps" --batch "$mlp_batch" \
    --metrics "$reports/mlp_$precision.jsonl"
done

for precision in $precisions; do
  step "gpt ($gpt_size) on the King James text, $precision"
  "$bin/gpt" --precision "$precision" --seed "$seed" --size "$gpt_size" --steps "$gpt_steps" \
    --generate "$gpt_generate" --metrics "$reports/gpt_$precision.jsonl"
done

modes=${precisions// /,}
step "comparison: the same weights and data in $modes"
"$bin/precision_compare" --model mlp --modes "$modes" --seeds "$compare_seeds" --steps "$compare_mlp_steps" \
  --json "$reports/compare_mlp.json" --html "$reports/compare_mlp.html"
"$bin/precision_compare" --model gpt --size "$gpt_size" --modes "$modes" --seeds "$compare_seeds" \
  --steps "$compare_gpt_steps" --json "$reports/compare_gpt.json" --html "$reports/compare_gpt.html"

step "done"
echo "Reports, to open in a browser:"
echo "  $reports/compare_mlp.html"
echo "  $reports/compare_gpt.html"
echo "The same as JSON, and the metrics of every run, are beside them in $reports/"
