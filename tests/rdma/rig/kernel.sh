# kernel.sh - the guest's kernel: fetched with apt from the distribution, never installed, unpacked below .cache.
# Sourced by `guest`, which sets HERE and CACHE.

KERNEL=$CACHE/kernel
MODULES="virtio_pci virtio_console 9pnet_virtio 9p overlay veth ib_uverbs rdma_ucm rdma_rxe crc32_generic"

missing_tools() {
  local tool
  for tool in qemu-system-x86_64 cpio modprobe python3 xz apt-get rdma ip; do
    command -v "$tool" >/dev/null || printf '%s ' "$tool"
  done
  [ -x /usr/bin/busybox ] || printf 'busybox '
}

fetch_kernel() {
  local package
  package=$(apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" { print $2; exit }')
  [ -n "$package" ] || die "no package linux-image-amd64 is known: apt-get update"
  rm -rf "$KERNEL"
  mkdir -p "$KERNEL" || die "cannot make $KERNEL"
  (cd "$KERNEL" && apt-get -q download "$package" >&2 && dpkg -x "$package"_*.deb x && rm -f "$package"_*.deb) ||
    die "cannot fetch $package"
  mkdir -p "$KERNEL/modules"
  mv "$KERNEL/x/lib" "$KERNEL/modules/lib"
  # an unpacked kernel saves the guest the decompression
  python3 "$HERE/unpack_vmlinux.py" "$KERNEL"/x/boot/vmlinuz-* "$KERNEL/vmlinux" || die "cannot unpack the kernel"
  rm -rf "$KERNEL/x"
}

build_initramfs() {
  local release root module
  release=$(ls "$KERNEL/modules/lib/modules") || die "no modules in $KERNEL"
  root=$(mktemp -d) || die mktemp
  mkdir -p "$root"/{bin,dev,proc,sys,mod,host,ctl,rw,new}
  cp /usr/bin/busybox "$root/bin/busybox"
  cp "$HERE/init" "$root/init"
  chmod 755 "$root/init"
  [ -f "$KERNEL/modules/lib/modules/$release/modules.dep" ] || depmod -b "$KERNEL/modules" "$release" 2>/dev/null
  : >"$root/mod/order"
  for module in $MODULES; do
    modprobe -d "$KERNEL/modules" -S "$release" --show-depends "$module" 2>/dev/null
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
    name=$(basename "${file%.xz}")
    case $file in *.xz) xz -dc "$file" >"$root/mod/$name" ;; *) cp "$file" "$root/mod/$name" ;; esac
    echo "$name" >>"$root/mod/order"
  done
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$KERNEL/initramfs.gz.$$" &&
    mv "$KERNEL/initramfs.gz.$$" "$KERNEL/initramfs.gz"
  rm -rf "$root"
}

prepare() {
  mkdir -p "$CACHE"
  exec 8>"$CACHE/lock"
  flock 8 # two at once: the second finds the work done
  [ -s "$KERNEL/vmlinux" ] || fetch_kernel
  if [ ! -s "$KERNEL/initramfs.gz" ] || [ "$HERE/init" -nt "$KERNEL/initramfs.gz" ] ||
     [ "$HERE/kernel.sh" -nt "$KERNEL/initramfs.gz" ]; then
    build_initramfs
  fi
  exec 8>&-
}
