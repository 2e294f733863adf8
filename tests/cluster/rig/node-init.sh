#!/bin/bash
# PID 1 of a node. Runs in fresh network, hostname, mount, process and IPC namespaces, gives the node its own view of
# the files that name it, says so on a descriptor, then reaps orphans for as long as the node lives.
#
#   node-init.sh NAME STATE_DIR READY_FD MEMORY_MIB CGROUPS(0|1) ROOT [UID...]
#
# ROOT: the directory that is / on the node, with a Slurm of its own, or empty for the machine's own files; it is never
# written to. UIDs get a /run/user/UID.
set -euo pipefail
name=$1 state=$2 ready_fd=$3 memory_mib=$4 cgroups=$5 root=$6
shift 6
umask 022
cd /
hostname "$name"
mount --make-rprivate /

if [ -n "$root" ]; then
  mount --bind "$root" "$root"
  mount -o remount,bind,ro "$root"
  mount --rbind /dev "$root/dev"
  mount --rbind /sys "$root/sys"
  mount -t proc proc "$root/proc"
  mount -t tmpfs -o mode=1777 tmp "$root/var/tmp"
  mkdir "$root$state"
  mount --bind "$state" "$root$state"
fi
mount --bind "$state/etc" "$root/etc/slurm"
for file in hosts passwd group; do
  mount --bind "$state/etc/$file" "$root/etc/$file"
done
mount --bind "$state/nodes/$name/spool" "$root/var/lib/slurm"
mount --bind "$state/nodes/$name/log" "$root/var/log/slurm"
mount --bind "$state/home" "$root/home"
# as on a real node: nothing of the machine's own /run and /tmp, and gone with the node
mount -t tmpfs -o mode=0755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mkdir "$root/run/rig"
mount --bind "$state/run" "$root/run/rig"
for uid in "$@"; do
  install -d -m 0755 "$root/run/user"
  install -d -m 0700 -o "$uid" -g "$uid" "$root/run/user/$uid"
done

# cgroup v1: the node sees its own part of each hierarchy as the whole
enter_cgroup() {
  local base=/sys/fs/cgroup/$1 part
  local own=$base/${state##*/}/$name
  mkdir -p "$own"
  if [ "$1" = cpuset ]; then # an empty cpuset takes no process
    for part in "${own%/*}" "$own"; do
      cat "$base/cpuset.cpus" > "$part/cpuset.cpus"
      cat "$base/cpuset.mems" > "$part/cpuset.mems"
    done
  fi
  if [ "$1" = memory ]; then
    echo "${memory_mib}M" > "$own/memory.limit_in_bytes"
  fi
  mount --bind "$own" "$base"
}
if [ "$cgroups" = 1 ]; then
  for controller in freezer memory cpuset cpuacct cpu devices; do
    enter_cgroup "$controller"
  done
fi

ip link set lo up
if [ -n "$root" ]; then # who enters the node's mount namespace finds that directory as /
  cd "$root"
  pivot_root . .
  umount --lazy .
fi
trap '' HUP INT
trap 'exit 0' TERM
echo ready >&"$ready_fd"
exec {ready_fd}>&-
while :; do # bash reaps whatever is orphaned to it while it waits
  sleep infinity &
  wait $!
done
