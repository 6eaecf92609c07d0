#!/bin/sh
# Installs what binade needs to build, test and run its examples, on Debian or Ubuntu. Quiet when all is there.
#
#   install_deps.sh          the above
#   install_deps.sh --cuda   also CUDA from PyPI, into build/cuda-venv, where CMake looks first: cudnn-frontend, and where
#                            the machine has none, the toolkit (nvcc), cuBLAS, cuDNN and NCCL. About 3 GB in that case.
#   install_deps.sh --cuda-wheels   the same, whatever the machine has
# The GPU's driver is not part of this.
set -eu

mode=${1:-}
case $mode in
  "" | --cuda | --cuda-wheels) ;;
  *) echo "install_deps: unknown option $mode; there are --cuda and --cuda-wheels" >&2; exit 2 ;;
esac

# One line of the toolkit, so that nvcc, headers and libraries fit each other.
cuda_toolkit="nvidia-cuda-nvcc==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-crt==13.0.* nvidia-cuda-runtime==13.0.*
  nvidia-cuda-cccl==13.0.* nvidia-cuda-nvrtc==13.0.*"
cuda_libraries="nvidia-cublas==13.* nvidia-cudnn-cu13==9.19.* nvidia-nccl-cu13==2.*"
cudnn_frontend="nvidia-cudnn-frontend>=1.32,<2"

install_cuda() {
  venv=$(cd "$(dirname "$0")/.." && pwd)/build/cuda-venv
  wanted=$cudnn_frontend
  if [ "$mode" = --cuda-wheels ] || { ! command -v nvcc >/dev/null 2>&1 && [ ! -x /usr/local/cuda/bin/nvcc ]; }; then
    wanted="$cuda_toolkit $cuda_libraries $wanted"
  fi
  [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
  # Without dependencies: what is needed is named above, and cudnn-frontend would bring Python packages.
  # shellcheck disable=SC2086
  "$venv/bin/pip" install -q --disable-pip-version-check --no-deps $wanted || {
    echo "install_deps: pip could not install" $wanted >&2
    exit 1
  }
  for toolkit in "$venv"/lib/python3*/site-packages/nvidia/cu13; do
    [ ! -e "$toolkit/lib/libcudart.so.13" ] || ln -sf libcudart.so.13 "$toolkit/lib/libcudart.so"  # the name CMake looks for
    [ ! -d "$toolkit/lib" ] || ln -sfn lib "$toolkit/lib64"                                        # where nvcc looks
  done
}

# iproute2: tests play two hosts. ocl-icd-opencl-dev: the CMake package of Debian's oneDNN asks for OpenCL.
packages="build-essential cmake ninja-build ccache pkg-config
  libdnnl-dev ocl-icd-opencl-dev libhwy-dev libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev zlib1g-dev
  libgtest-dev libbenchmark-dev iproute2 python3 python3-venv
  dataset-fashion-mnist bible-kjv libjs-chart.js"
# For several processes, one MPI: the one that is here, or MPICH.
command -v mpicxx >/dev/null 2>&1 && command -v mpirun >/dev/null 2>&1 || packages="$packages libmpich-dev mpich"

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
  echo "install_deps: this is not Debian or Ubuntu; install the equivalents of:" $packages >&2
  exit 1
fi

missing=""
for package in $packages; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
  [ -z "$mode" ] || install_cuda
  exit 0
fi

if [ "$(id -u)" = 0 ]; then
  as_root=""
elif command -v sudo >/dev/null 2>&1; then
  as_root="sudo"
else
  echo "install_deps: missing:$missing" >&2
  echo "install_deps: run this as root, or install sudo" >&2
  exit 1
fi

echo "install_deps: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >"$log" 2>&1
}
if ! $as_root apt-get update >"$log" 2>&1; then
  echo "install_deps: apt-get update failed; trying with the package lists that are here" >&2
fi
if ! install; then
  tail -n 20 "$log" >&2
  echo "install_deps: apt-get install failed for:$missing" >&2
  exit 1
fi
[ -z "$mode" ] || install_cuda
echo "install_deps: done"
