#!/bin/bash
# The first run on a machine with an NVIDIA GPU: builds the CUDA backend, runs the operation suite, the trainings and the
# precision tools on the device, compute-sanitizer on the kernel tests, and writes one JSON file and one readable summary.
#   scripts/gpu_acceptance.sh [--out FOLDER]     needs a GPU; exit code 1 if anything failed
#   scripts/gpu_acceptance.sh --rehearse         the same steps, shortened, on the simulated device: no GPU, no speeds
#   --built FOLDER   the tests and examples are built there: nothing is installed, configured or built
#   --no-sanitizers  without compute-sanitizer, which takes longer than the rest
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
out=$root/reports/gpu_acceptance rehearse=0 built= sanitizers=1
while [ $# -gt 0 ]; do
  case $1 in
    --rehearse) rehearse=1 ;;
    --no-sanitizers) sanitizers=0 ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    --built) built=$(cd "${2:?--built needs a folder}" && pwd); shift ;;
    *) echo "gpu_acceptance: unknown argument '$1' (--rehearse, --out FOLDER, --built FOLDER, --no-sanitizers)" >&2; exit 2 ;;
  esac
  shift
done
mkdir -p "$out" build
rm -f "$out"/{mlp,gpt}_*.jsonl "$out/profile_records.json"  # losses are compared by what is there
: >"$out/steps.tsv"
started=$SECONDS

if [ $rehearse = 0 ]; then
  device=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
  [ -n "$device" ] || { echo "gpu_acceptance: nvidia-smi shows no GPU; --rehearse runs the steps on the simulated device" >&2; exit 1; }
  preset=cuda
else
  device="simulated device (no GPU)"
  preset=release
fi
build=${built:-$root/build/$preset}
echo "== gpu acceptance on: $device"

# step NAME COMMAND...: runs it, keeps its output, notes how it ended.
step() {
  local name=$1 begin=$SECONDS status=passed
  shift
  if ! "$@" >"$out/$name.log" 2>&1; then status=failed; fi
  printf '%-28s %s (%d s)\n' "$name" "$status" $((SECONDS - begin))
  [ $status = passed ] || tail -n 5 "$out/$name.log" | sed 's/^/    /'
  printf '%s\t%s\t%d\n' "$name" "$status" $((SECONDS - begin)) >>"$out/steps.tsv"
}
# beside STEP...: at the same time as others until `wait`, where processors are many; the simulated device needs them itself.
beside() {
  if [ $rehearse = 0 ]; then "$@" & else "$@"; fi
}
skip() {
  printf '%-28s skipped: %s\n' "$1" "$2"
  printf '%s\tskipped: %s\t0\n' "$1" "$2" >>"$out/steps.tsv"
}
suite() {  # suite NAME PROGRAM FILTER
  step "$1" "$build/tests/test_$2" --gtest_filter="$3" --gtest_output="json:$out/$1.json"
}

if [ -z "$built" ]; then
  [ "${SKIP_INSTALL:-0}" = 1 ] || step install scripts/install_deps.sh
  step data scripts/get_data.sh
  step configure cmake --preset $preset
  step build cmake --build "$build" -j "$(nproc)" --target tests
fi
export BINADE_DATA=${BINADE_DATA:-$root/data} BINADE_TEST_DEVICE=cuda OMP_WAIT_POLICY=passive
if [ -n "$built" ] && { [ ! -s "$BINADE_DATA/kjv.txt" ] || [ ! -d "$BINADE_DATA/fashion-mnist" ]; }; then
  echo "gpu_acceptance: skipped, the examples' data is absent (scripts/get_data.sh)"
  exit 77
fi
if [ $rehearse = 1 ]; then
  export BINADE_CUDA_PLUGIN=$build/device_sim/libbinade_cuda_sim_fast.so BINADE_SIM_LEAKS=0 BINADE_SIM_PROTECT=0
  operations='Samples/OpSuite.*_f32' cuda='CudaDevice.*:*Kernels.*:*CudaTraining*' mlp_steps=5 gpt_steps=2 batch=(--batch 2 --context 16)
  parallel_batch=(--batch 8 --context 16) collectives='Collectives.*/f32:Collectives.*/bf16:DataParallel.Deter*'
  profile=(--model mlp --batch 16 --pairs 1)
else
  operations='Samples*' cuda='*' mlp_steps=1000 gpt_steps=300 batch=()
  parallel_batch=(--batch 16) collectives='-Launched*:DeviceJobs*'
  profile=(--model gpt2 --batch 8 --seq 1024 --pairs 8)
fi

# What computes right, several programs at a time: the operation suite in as many parts as half the processors.
parts=1
if [ $rehearse = 0 ]; then
  parts=$((($(nproc) + 1) / 2))
  export OMP_NUM_THREADS=1
fi
for part in $(seq 0 $((parts - 1))); do
  export GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$part
  beside suite operations_$part op_suite "$operations"
done
unset GTEST_TOTAL_SHARDS GTEST_SHARD_INDEX
beside suite cuda cuda "$cuda"
beside suite optimizers optim '*'
beside suite mixed_precision amp '*'
beside suite low_precision lowp '*'
for tool in memcheck racecheck synccheck; do
  if [ $rehearse = 1 ]; then
    skip sanitizer_$tool "compute-sanitizer needs a GPU; the simulated device has its own checker"
  elif [ $sanitizers = 0 ]; then
    skip sanitizer_$tool "not wanted"
  elif ! command -v compute-sanitizer >/dev/null; then
    skip sanitizer_$tool "no compute-sanitizer; it comes with the CUDA toolkit"
  else
    beside step sanitizer_$tool compute-sanitizer --tool $tool --error-exitcode 1 \
      "$build/tests/test_cuda" --gtest_filter='*Kernels.*:*Graphed*'
  fi
done
wait
unset OMP_NUM_THREADS

# Both examples on the device and on the CPU: the losses are compared in the summary.
for precision in fp32 bf16 fp16; do
  for where in cuda cpu; do
    step mlp_${precision}_$where "$build/examples/mlp" --device $where --precision $precision --steps $mlp_steps \
      --metrics "$out/mlp_${precision}_$where.jsonl"
    step gpt_${precision}_$where "$build/examples/gpt" --device $where --precision $precision --size tiny \
      "${batch[@]}" --steps $gpt_steps --generate 0 --metrics "$out/gpt_${precision}_$where.jsonl"
  done
done

# Where a step's time goes, by the device's own events.
step profile "$build/bench/bench_train" --device cuda --precision bf16 "${profile[@]}" --json "$out/profile_records.json"

# Several GPUs: the collectives, and a training whose bits do not depend on how many they are. Among as many GPUs as make a
# power of two, eight at most: the training cuts its batch into eight parts.
if [ $rehearse = 1 ]; then gpus=2; else gpus=$(nvidia-smi --list-gpus | wc -l); fi
ranks=1
while [ $((2 * ranks)) -le "$gpus" ] && [ $ranks -lt 8 ]; do ranks=$((2 * ranks)); done
mpirun=$(sed -n 's/^MPIEXEC_EXECUTABLE:FILEPATH=//p' "$build/CMakeCache.txt")
losses() { grep -o '"loss": *[^,}]*' "$1"; }
# On one GPU and on all of them: the same losses, weights and optimizer, bit for bit.
parallel() {
  local flags=(--device cuda --size tiny --precision bf16 "${parallel_batch[@]}" --dropout 0.1 --steps $gpt_steps
    --deterministic-reduction --generate 0)
  "$build/examples/gpt" "${flags[@]}" --checkpoint "$out/parallel_1.ckpt" --metrics "$out/parallel_1.lines" || return 1
  "$mpirun" -n $ranks "$build/examples/gpt" "${flags[@]}" --checkpoint "$out/parallel_$ranks.ckpt" \
    --metrics "$out/parallel_$ranks.lines" || return 1
  [ "$(losses "$out/parallel_1.lines" | wc -l)" = $gpt_steps ] || { echo "$gpt_steps losses were expected"; return 1; }
  diff <(losses "$out/parallel_1.lines") <(losses "$out/parallel_$ranks.lines") || return 1
  cmp "$out/parallel_1.ckpt" "$out/parallel_$ranks.ckpt" || return 1
  echo "the losses and checkpoints of 1 and $ranks GPUs are the same"
}
if [ $ranks = 1 ]; then
  skip data_parallel "one GPU"
elif [ ! -e "$build/libbinade_mpi.so" ]; then
  skip data_parallel "built without MPI"
else
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  step collectives "$mpirun" -n $ranks "$build/tests/test_distributed" --gtest_filter="$collectives" \
    --gtest_output="json:$out/collectives.json"
  step data_parallel parallel
fi
if [ $rehearse = 1 ]; then
  skip compare "minutes on the simulated device"
else
  step compare "$build/examples/precision_compare" --model gpt --size tiny --modes all --seeds 3 --steps 200 \
    --device cuda --json "$out/compare.json" --html "$out/compare.html"
fi

python3 scripts/gpu_acceptance_summary.py "$out" "$device" $((SECONDS - started))
