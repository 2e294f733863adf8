#!/bin/bash
# Can CRIU save programs that don't save themselves? Dumps and restores a few here, and says what came of each.
#
# usage: benchmarks/criu.sh [PYTHON [CASES]]     root, criu; CASES: a part of their names, e.g. rfaas
# Where the kernel is too new for it, in the guest of the RDMA tests (emulated: some minutes):
#        tests/rdma/rig/guest -q -t 600 -c "benchmarks/criu.sh $PWD/.venv/bin/python"
set -u
python=${1:-python3}
cases=${2:-}
project=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d /tmp/criu.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# CRIU asks the kernel for sockets by these, and stops packets with nftables; the guest has no /lib/modules of its own
modules=$project/.cache/rdma-guest/kernel/modules
for module in tun nfnetlink nf_tables unix_diag inet_diag tcp_diag udp_diag af_packet_diag netlink_diag; do
    modprobe $module 2>/dev/null || { [[ -d $modules ]] && modprobe -d "$modules" $module; }
done
echo "$(criu --version | head -1), Linux $(uname -r)"
criu check 2>&1 | tail -3

cat >count.c <<'C'
#include <stdio.h>
#include <unistd.h>
int main(void) {
    for (long i = 0;; i++) {
        FILE *file = fopen("progress", "w");
        fprintf(file, "%ld\n", i);
        fclose(file);
        usleep(1000);
    }
}
C
cc -O1 -o count count.c
cat >jacobi.py <<'P'
import hashlib, sys, time, numpy
ranks, last = None, 400
if sys.argv[1:] == ["mpi"]:
    from mpi4py import MPI
    ranks = MPI.COMM_WORLD
field, n = numpy.zeros((500, 500)), 0
field[0] = 1
while n < last:
    new = field.copy()
    new[1:-1, 1:-1] = (field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:]) / 4
    field, n = new, n + 1
    if ranks is not None:
        ranks.Barrier()
    if ranks is None or ranks.rank == 0:
        with open("progress", "w") as file:
            print(n, hashlib.sha256(field.tobytes()).hexdigest()[:16] if n == last else "", file=file)
    time.sleep(0.01)
time.sleep(300)  # the caller ends it
P
cat >calls.py <<'P'
import os, rfaas
with rfaas.Executor(1) as ex:
    for n in range(1_000_000):
        worker = ex.submit(os.getpid).result(60)
        with open("progress", "w") as file:
            print(n, worker, file=file)
P

errors() { grep -h Error "$1" | head -2 | sed 's/^([0-9.]*) *//' | paste -sd' '; }
ms() { echo $((($2 - $1) / 1000000)); }
wait_for() { # PATTERN SECONDS: in what the program writes
    for ((i = 0; i < $2 * 10; i++)); do grep -q "$1" progress 2>/dev/null && return; sleep 0.1; done
}
progress() { # which is empty while it is written
    local found=''
    for ((i = 0; i < 20; i++)); do found=$(cat progress 2>/dev/null); [[ -n $found ]] && break; sleep 0.01; done
    echo "$found"
}
end() { # the session that `try` began, by its number
    pkill -9 -s "$1"
}

# NAME OPTIONS [worker] COMMAND...: dump the process and its children, or its worker alone; restore them once they are gone
try() {
    local name=$1 options=$2 only='' image pid target begin_ns dumped_ns restored_ns saved
    shift 2
    [[ $name == *"$cases"* ]] || return
    [[ $1 == worker ]] && { only=1; shift; }
    image=$(mktemp -d "$work/image.XXXXXX")
    rm -f progress
    setsid "$@" </dev/null >"$image.out" 2>&1 &
    pid=$!
    disown # or bash tells each time that it was killed
    wait_for . 90
    sleep 1
    target=$pid
    [[ -z $only ]] || target=$(progress | cut -d' ' -f2)
    begin_ns=$(date +%s%N)
    # shellcheck disable=SC2086
    if ! timeout 60 criu dump -t "$target" -D "$image" -o dump.log -v2 $options 2>"$image.err"; then
        echo "$name: dump fails after progress '$(progress)': $(errors "$image/dump.log")"
        tail -n 2 "$image.out"
        end $pid
        return
    fi
    dumped_ns=$(date +%s%N)
    [[ -n $only ]] || while kill -0 $pid 2>/dev/null; do sleep 0.05; done
    saved=$(progress)
    # shellcheck disable=SC2086
    if ! timeout 60 criu restore -d -D "$image" -o restore.log -v2 $options 2>"$image.err"; then
        echo "$name: dumped in $(ms $begin_ns $dumped_ns) ms, $(du -sk "$image" | cut -f1) KiB; restore fails: $(errors "$image/restore.log")"
        end $pid
        return
    fi
    restored_ns=$(date +%s%N)
    sleep 3
    echo "$name: dumped in $(ms $begin_ns $dumped_ns) ms, $(du -sk "$image" | cut -f1) KiB, restored in $(ms $dumped_ns $restored_ns) ms;" \
        "progress '$saved' when dumped, '$(progress)' after 3 s"
    if [[ " $* " == *" jacobi.py "* ]]; then
        wait_for '[0-9a-f]\{16\}' 60
        echo "    at the end '$(cat progress)', undisturbed '$undisturbed'"
    fi
    end $pid
}

"$python" jacobi.py &
wait_for '[0-9a-f]\{16\}' 90
undisturbed=$(cat progress)
kill -9 $!
wait $! 2>/dev/null

export OMPI_MCA_mpi_yield_when_idle=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
tcp="--tcp-established --network-lock nftables"
more="$tcp --ext-unix-sk --file-locks --link-remap"
try "C" "" ./count
try "serial Jacobi" "" "$python" jacobi.py
try "MPI, one rank without mpirun" "" "$python" jacobi.py mpi
try "MPI, one rank without mpirun, more options" "$more" "$python" jacobi.py mpi
try "mpirun, two ranks" "$tcp" mpirun -n 2 --oversubscribe "$python" jacobi.py mpi
try "mpirun, two ranks, more options" "$more" mpirun -n 2 --oversubscribe "$python" jacobi.py mpi
try "rfaas client and its workers" "$tcp" "$python" calls.py
try "rfaas client and its workers, more options" "$more" "$python" calls.py
try "rfaas worker alone, more options" "$more" worker "$python" calls.py
