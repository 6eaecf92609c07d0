#!/bin/bash
# Runs tests of build/release on an emulated processor with AVX-512 (Bochs' Skylake-X under a Debian kernel), for machines
# whose own has none. Correctness only: it is several hundred times slower.
#   scripts/emulate_avx512.sh [PROGRAM[=GTEST FILTER]...]     for example: test_optim test_op_suite='*norm*'
# Installs the emulator with apt, so it wants root. Prints what the tests print; BINADE_CPU_ISA works as elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- test_optim test_amp test_lowp='Fp8Conversion*:Fp8Quantize*' test_op_suite
tests=$PWD/build/release/tests
work=$PWD/build/emulated
packages="bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso cpio busybox-static binutils"

for package in $packages; do
  dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed && continue
  apt-get update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
  break
done
rm -rf "$work/root" "$work/iso"
mkdir -p "$work/kernel" "$work/root/"{bin,proc,sys,dev,tmp} "$work/iso/isolinux"
if ! compgen -G "$work/kernel/boot/vmlinuz*" >/dev/null; then
  kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/{print $2; exit}')
  (cd "$work/kernel" && apt-get download -qq "$kernel" 2>/dev/null && dpkg -x ./*.deb .)
fi

# The machine's whole file system: the tests, their libraries and reference values where they lie here, and what runs them.
mkdir -p "$work/root$PWD/tests"
cp -r tests/golden "$work/root$PWD/tests/"
cp /bin/busybox "$work/root/bin/"
for command in sh mount sleep poweroff; do ln -s busybox "$work/root/bin/$command"; done
commands=""
for test in "$@"; do
  program=$tests/${test%%=*}
  filter='*'
  [ "$test" = "${test%%=*}" ] || filter=${test#*=}
  for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
    mkdir -p "$work/root$(dirname "$file")"
    cp -L "$file" "$work/root$file"
    strip "$work/root$file" 2>/dev/null || true
  done
  commands+="$program --gtest_brief=1 --gtest_filter='$filter'; echo \"exit code \$? of ${test%%=*}\""$'\n'
done
cat >"$work/root/init" <<EOF
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
export OMP_NUM_THREADS=1 HOME=/tmp ${BINADE_CPU_ISA:+BINADE_CPU_ISA=$BINADE_CPU_ISA}
cd /tmp
$commands
echo "all done"
sleep 5
poweroff -f
EOF
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/iso/initrd"
cp "$work"/kernel/boot/vmlinuz* "$work/iso/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/isolinux/"
# clearcpuid: Bochs 2.7 misstates the size of what XSAVEC and XSAVES write, and Linux then would do without AVX.
cat >"$work/iso/isolinux/isolinux.cfg" <<'EOF'
DEFAULT tests
LABEL tests
  KERNEL /vmlinuz
  APPEND initrd=/initrd console=ttyS0 quiet mitigations=off clearcpuid=321,323 tsc=unstable lpj=4000000
EOF
xorriso -as mkisofs -quiet -o "$work/boot.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table "$work/iso" 2>/dev/null
cat >"$work/bochsrc" <<EOF
megs: 1024
cpu: model=corei7_skylake_x, count=1, ips=200000000, reset_on_triple_fault=0, ignore_bad_msrs=1
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0: enabled=1
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/output.txt
display_library: term
clock: sync=none
log: $work/bochs.log
panic: action=fatal
error: action=report
info: action=ignore
EOF
echo continue >"$work/commands"  # to Bochs' debugger, which Debian's stops in at first
rm -f "$work/output.txt"
touch "$work/output.txt"
tail -f -n +1 "$work/output.txt" &
shower=$!
trap 'kill $shower' EXIT
TERM=vt100 script -qfec "bochs -q -f '$work/bochsrc' -rc '$work/commands'" "$work/terminal.txt" >/dev/null 2>&1 </dev/null || true
sleep 1
grep -q "all done" "$work/output.txt" || { echo "emulate_avx512: the emulated machine stopped early; see $work" >&2; exit 1; }
! grep "^exit code" "$work/output.txt" | grep -vq "^exit code 0 "
