#!/bin/sh
# Puts the examples' data into data/ (or $BINADE_DATA): kjv.txt, digits.csv.gz, fashion-mnist/. Does nothing twice.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
data=${BINADE_DATA:-$root/data}
mkdir -p "$data"
work=$(mktemp -d "$data/.tmp.XXXXXX")
trap 'rm -rf "$work"' EXIT
failed=0

fail() {
  echo "get_data: $*" >&2
  failed=1
}

# The King James text, one verse a line, without its references such as "Ge1:1".
get_kjv() {
  [ ! -s "$data/kjv.txt" ] || return 0
  command -v bible >/dev/null 2>&1 || { fail "kjv.txt: no 'bible' command; install the package bible-kjv"; return 0; }
  bible -f gen1:1-rev22:21 </dev/null | sed -E 's/^[0-9]?[A-Za-z]+[0-9]+:[0-9]+ //' >"$work/kjv.txt"
  lines=$(wc -l <"$work/kjv.txt")
  bytes=$(wc -c <"$work/kjv.txt")
  if [ "$lines" -ne 31102 ] || [ "$bytes" -lt 4000000 ] || [ "$bytes" -gt 4300000 ]; then
    fail "kjv.txt: expected 31102 lines and about 4.1 MB, got $lines lines and $bytes bytes"
    return 0
  fi
  mv "$work/kjv.txt" "$data/kjv.txt"
  echo "get_data: $data/kjv.txt ($bytes bytes)"
}

# scikit-learn's 8x8 digits. Its package is only unpacked, since installing it would pull in much more.
get_digits() {
  [ ! -s "$data/digits.csv.gz" ] || return 0
  file=usr/lib/python3/dist-packages/sklearn/datasets/data/digits.csv.gz
  if [ -s "/$file" ]; then
    cp "/$file" "$work/digits.csv.gz"
  else
    echo "get_data: fetching the package python3-sklearn for digits.csv.gz"
    chmod 755 "$work"
    if ! (cd "$work" && apt-get -qq download python3-sklearn) >"$work/log" 2>&1; then
      cat "$work/log" >&2
      fail "digits.csv.gz: apt-get could not download python3-sklearn (try apt-get update)"
      return 0
    fi
    if ! dpkg-deb --fsys-tarfile "$work"/python3-sklearn_*.deb | tar -x -C "$work" "./$file"; then
      fail "digits.csv.gz: python3-sklearn no longer has $file"
      return 0
    fi
    mv "$work/$file" "$work/digits.csv.gz"
  fi
  rows=$(gzip -dc "$work/digits.csv.gz" | wc -l)
  [ "$rows" -eq 1797 ] || { fail "digits.csv.gz: expected 1797 rows, got $rows"; return 0; }
  mv "$work/digits.csv.gz" "$data/digits.csv.gz"
  echo "get_data: $data/digits.csv.gz ($rows rows)"
}

# Fashion-MNIST stays where its package puts it; data/ gets a link.
get_fashion_mnist() {
  [ ! -e "$data/fashion-mnist/train-images-idx3-ubyte.gz" ] || return 0
  installed=/usr/share/datasets/fashion-mnist
  for name in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
    [ -s "$installed/$name-ubyte.gz" ] ||
      { fail "fashion-mnist: $installed/$name-ubyte.gz is absent; install dataset-fashion-mnist"; return 0; }
  done
  ln -sfn "$installed" "$data/fashion-mnist"
  echo "get_data: $data/fashion-mnist -> $installed"
}

get_kjv
get_digits
get_fashion_mnist
exit $failed
