#!/bin/sh
# Installs what binade needs to build, test and run its examples, on Debian or Ubuntu. Quiet when all is there.
set -eu

# ocl-icd-opencl-dev: the CMake package of Debian's oneDNN asks for OpenCL.
packages="build-essential cmake ninja-build ccache pkg-config
  libdnnl-dev ocl-icd-opencl-dev libhwy-dev libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev zlib1g-dev
  libgtest-dev libbenchmark-dev python3 python3-venv
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
[ -n "$missing" ] || exit 0

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
echo "install_deps: done"
