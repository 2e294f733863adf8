#!/bin/bash
#SBATCH --job-name=rfaas-verbs
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=00:20:00
#SBATCH --output=rfaas-verbs-%j.txt
# verbs_two_nodes.sh - what calls cost over RDMA from one node to another, beside bare RDMA and perftest, in one job.
#
# usage: sbatch [--partition=NAME] [--account=NAME] benchmarks/verbs_two_nodes.sh [DEVICE]
#
#   DEVICE                 mlx5_0, …: the first with an active port
#   RFAAS_PYTHON           an interpreter that has rfaas and that both nodes see (python3)
#   RFAAS_BENCH_TRANSPORT  verbs; tcp: does the script work here at all?
#
# The first node runs the allocator and calls, the second lends one core. Their state is below the directory that sbatch
# was called in, which both nodes must see; nothing is left there but the output. How to read it: docs/rdma.md.
set -euo pipefail

python=${RFAAS_PYTHON:-python3}
transport=${RFAAS_BENCH_TRANSPORT:-verbs}
fail() { echo "verbs_two_nodes: $*" >&2; exit 1; }
[ -n "${SLURM_JOB_NODELIST:-}" ] || fail "to be submitted: sbatch benchmarks/verbs_two_nodes.sh"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
[ "${#nodes[@]}" -eq 2 ] || fail "${#nodes[@]} nodes: two are needed"
lender=${nodes[1]}
on_lender() { srun --nodes=1 --ntasks=1 --nodelist="$lender" --overlap --cpu-bind=none "$@"; }

first_device() {
    local state
    for state in /sys/class/infiniband/*/ports/*/state; do
        grep -q ACTIVE "$state" 2>/dev/null && basename "$(dirname "$(dirname "$(dirname "$state")")")" && return
    done
}

# The second CPU of those next to the device (the first one serves interrupts on many nodes); of all, if that is unknown.
near_cpu() { # $1: device
    local list cpus cpu
    list=$(cat "/sys/class/infiniband/$1/device/local_cpulist" 2>/dev/null || cat /sys/devices/system/cpu/online)
    cpus=$("$python" -c '
import os, sys
near = {n for part in sys.argv[1].split(",") for a, _, b in [part.partition("-")] for n in range(int(a), int(b or a) + 1)}
usable = sorted(near & os.sched_getaffinity(0)) or sorted(os.sched_getaffinity(0))
print(usable[min(1, len(usable) - 1)])' "$list")
    for cpu in $cpus; do echo "$cpu"; done
}

about() { # what a figure depends on, of the node that this runs on
    local device=$1 file
    echo "== $(hostname): $(grep -m 1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ *//'), Linux $(uname -r)"
    for file in "/sys/class/infiniband/$device/device/"{numa_node,local_cpulist} \
                /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor /sys/kernel/mm/transparent_hugepage/enabled; do
        [ -r "$file" ] && echo "$file: $(cat "$file")"
    done
    for file in "/sys/class/infiniband/$device/device/net/"*/mtu; do
        [ -r "$file" ] && echo "$file: $(cat "$file")"
    done
    echo "locked memory (ulimit -l): $(ulimit -l)"
    command -v systemctl >/dev/null && echo "irqbalance: $(systemctl is-active irqbalance 2>/dev/null)"
    "$python" -m rfaas devices
}

device=${1:-$(first_device)}
[ -n "$device" ] || [ "$transport" = tcp ] || fail "no RDMA device with an active port on $(hostname): rfaas doctor"
cpu=$(near_cpu "$device")
lender_cpu=$(on_lender bash -c "python=$python; $(declare -f near_cpu); near_cpu '$device'")
interface=$(basename "$(ls -d "/sys/class/infiniband/$device/device/net/"* 2>/dev/null | head -n 1)" || true)

state=$(mktemp -d "${SLURM_SUBMIT_DIR:-$PWD}/.rfaas-verbs.XXXXXX")
pids=()
cleanup() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait || true
    rm -rf "$state"
}
trap cleanup EXIT

echo "# calls from CPU $cpu of $(hostname) to CPU $lender_cpu of $lender, device ${device:--}, $(date -Is)"
about "$device" || true
on_lender bash -c "python=$python; $(declare -f about); about '$device'" || true

if [ "$transport" = verbs ] && command -v ib_write_lat >/dev/null; then
    for size in 2 128 1024 65536; do
        echo "== ib_write_lat, $size bytes (half a round trip)"
        on_lender taskset -c "$lender_cpu" ib_write_lat -d "$device" -F -s "$size" >/dev/null &
        server=$!
        for _ in 1 2 3 4 5 6 7 8 9 10; do # until the server listens
            sleep 1
            taskset -c "$cpu" ib_write_lat -d "$device" -F -s "$size" "$lender" 2>/dev/null && break
        done
        kill "$server" 2>/dev/null || true
        wait "$server" || true
    done
fi

address=$(ip -o -4 addr show ${interface:+dev "$interface"} scope global | awk '{ sub("/.*", "", $4); print $4; exit }')
"$python" -m rfaas_allocator --state-dir "$state/state" --listen "${address:-$(hostname)}" &
pids+=($!)
for _ in $(seq 100); do [ -e "$state/state/tls.crt" ] && "$python" -m rfaas status --state-dir "$state/state" >/dev/null 2>&1 && break; sleep 0.3; done
on_lender "$python" -m rfaas agent --allocator "$state/state" --cores 1 --grace 1s ${interface:+--listen "$interface"} &
pids+=($!)

bench() {
    echo "== rfaas bench $*"
    RFAAS_SESSION_INTERFACE=$interface "$python" -m rfaas bench "$@" --allocator "$state/state" --transport "$transport" \
        --client-cpu "$cpu" --worker-cpu "$lender_cpu"
}
bench latency --kind native,raw,python --call invoke --sizes 1,128,1KiB,64KiB -n 20000 --seconds 3
bench bandwidth --sizes 64KiB,1MiB,64MiB
bench rate
