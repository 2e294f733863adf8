# kernel.sh - the guest's kernel: fetched with apt from the distribution, never installed, unpacked below .cache.
# Sourced by `guest`, which sets HERE and CACHE.

MODULES="virtio_pci virtio_console 9pnet_virtio 9p overlay veth ib_uverbs rdma_ucm rdma_rxe crc32_generic"

missing_tools() {
  local tool
  for tool in qemu-system-x86_64 cpio modprobe python3 xz apt-get rdma ip; do
    command -v "$tool" >/dev/null || printf '%s ' "$tool"
  done
  [ -x /usr/bin/busybox ] || printf 'busybox '
}

choose_kernel() {
  case $FLAVOUR in
    debian) KERNEL=$CACHE/kernel FETCH=fetch_kernel ;;
    sid) KERNEL=$CACHE/kernel-sid FETCH=fetch_sid_kernel ;;
    *) die "no such kernel: $FLAVOUR (debian, sid)" ;;
  esac
}

# an unpacked kernel saves the guest the decompression
unpack_kernel() { # $1: the image, $2: the directory of its modules
  mkdir -p "$KERNEL/modules/lib"
  python3 "$HERE/unpack_vmlinux.py" "$1" "$KERNEL/vmlinux" || die "cannot unpack the kernel"
  mv "$2" "$KERNEL/modules/lib/modules"
}

newest_kernel() { apt-cache depends linux-image-amd64 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }'; }

fetch_kernel() {
  local package
  package=$(newest_kernel)
  if [ -z "$package" ] || ! (cd "$KERNEL" && apt-get -q download "$package" >&2); then # lists absent, or out of date
    apt-get -q update >&2
    package=$(newest_kernel)
    [ -n "$package" ] || die "apt knows no package linux-image-amd64"
    (cd "$KERNEL" && apt-get -q download "$package" >&2) || die "cannot fetch $package"
  fi
  (cd "$KERNEL" && dpkg -x "$package"_*.deb x && rm -f "$package"_*.deb) || die "cannot unpack $package"
  unpack_kernel "$KERNEL"/x/boot/vmlinuz-* "$KERNEL/x/lib/modules"
}

# With lists of its own, from the archive that this machine's packages come from: what apt knows here stays as it is.
fetch_sid_kernel() {
  local archive release lists=$KERNEL/lists
  archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -E '/debian/?$' | head -n 1)
  [ -n "$archive" ] || die "no Debian archive is known to apt"
  mkdir -p "$lists/partial" "$KERNEL/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive sid main" >"$KERNEL/sources.list"
  local apt=(-q -o "Dir::Etc::SourceList=$KERNEL/sources.list" -o Dir::Etc::SourceParts=/dev/null
             -o "Dir::State::Lists=$lists" -o "Dir::Cache=$KERNEL/cache")
  apt-get "${apt[@]}" update >&2 || die "cannot fetch the list of sid's packages"
  release=$(apt-cache "${apt[@]}" depends linux-image-amd64 | sed -n 's/^ *Depends: linux-image-//p' | head -n 1)
  (cd "$KERNEL" && apt-get "${apt[@]}" download "linux-binary-$release" "linux-modules-$release" >&2 &&
    for package in linux-*.deb; do dpkg -x "$package" x; done && rm -f linux-*.deb) || die "cannot fetch Linux $release"
  unpack_kernel "$KERNEL/x/usr/lib/modules/$release/vmlinuz" "$KERNEL/x/usr/lib/modules"
  rm -rf "$lists" "$KERNEL/cache"
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
  if [ ! -s "$KERNEL/vmlinux" ]; then
    rm -rf "$KERNEL"
    mkdir -p "$KERNEL" || die "cannot make $KERNEL"
    $FETCH
    rm -rf "$KERNEL/x"
  fi
  if [ ! -s "$KERNEL/initramfs.gz" ] || [ "$HERE/init" -nt "$KERNEL/initramfs.gz" ] ||
     [ "$HERE/kernel.sh" -nt "$KERNEL/initramfs.gz" ]; then
    build_initramfs
  fi
  exec 8>&-
}
