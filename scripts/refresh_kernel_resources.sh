#!/bin/bash
# Writes tests/cuda/kernel_resources.txt anew: registers, memory and occupancy of every kernel on every architecture, as
# nvcc compiles them and as the simulated device sees them launched. Needs nvcc, no GPU.
#   scripts/refresh_kernel_resources.sh [BUILD]       default build/release
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(cd "${1:-build/release}" && pwd)
cmake --build "$build" -j "$(nproc)" --target binade_cuda binade_cuda_sim_fast test_op_suite test_cuda test_optim test_amp test_lowp
launches=$build/launches.txt
rm -f "$launches"
export BINADE_CUDA_PLUGIN=$build/device_sim/libbinade_cuda_sim_fast.so BINADE_TEST_DEVICE=cuda
export BINADE_SIM_LEAKS=0 BINADE_SIM_PROTECT=0 BINADE_SIM_LAUNCHES=$launches OMP_WAIT_POLICY=passive
for run in "op_suite Samples*" "cuda *" "optim *" "amp *" "lowp *"; do
  "$build/tests/test_${run%% *}" --gtest_filter="${run#* }" --gtest_brief=1
done
nvcc=$(sed -n 's/^set(CMAKE_CUDA_COMPILER_VERSION "\(.*\)")/\1/p' "$build"/CMakeFiles/*/CMakeCUDACompiler.cmake)
python3 scripts/cuda_resources.py refresh "$build/CMakeFiles/binade_cuda.dir" tests/cuda/kernel_resources.txt "$nvcc" "$launches"
