#!/bin/bash
# Can CRIU save programs that don't save themselves? Dumps and restores a few here, and says what came of each.
#
# usage: benchmarks/criu.sh [PYTHON]     root, criu; where the kernel is too new for it, in the guest of the RDMA tests:
#        tests/rdma/rig/guest -t 400 -c "benchmarks/criu.sh $PWD/.venv/bin/python"
set -u
python=${1:-python3}
work=$(mktemp -d /tmp/criu.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
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
cat >field.py <<'P'
import time, numpy
field, n = numpy.zeros(1_000_000), 0
while True:
    field += 1
    n += 1
    with open("progress", "w") as file:
        file.write(f"{n} {field[5]:.0f}\n")
    time.sleep(0.01)
P
cat >ring.py <<'P'
import time, numpy
from mpi4py import MPI
comm, n = MPI.COMM_WORLD, 0
there = numpy.zeros(1000)
while True:
    comm.Sendrecv(there + 1, (comm.rank + 1) % comm.size, recvbuf=there, source=(comm.rank - 1) % comm.size)
    n += 1
    if comm.rank == 0:
        with open("progress", "w") as file:
            file.write(f"{n} {there[5]:.0f}\n")
    time.sleep(0.01)
P

# NAME OPTIONS SECONDS_BEFORE COMMAND...: dump the process and its children, wait until they are gone, restore them
try() {
    local name=$1 options=$2 before_s=$3 image=$work/image-$1 pid begin_ns end_ns
    shift 3
    mkdir "$image"
    rm -f progress
    setsid "$@" </dev/null >"$image.out" 2>&1 &
    pid=$!
    for ((i = 0; i < before_s * 10; i++)); do [[ -s progress ]] && break; sleep 0.1; done
    sleep 1
    begin_ns=$(date +%s%N)
    # shellcheck disable=SC2086
    if ! timeout 60 criu dump -t $pid -D "$image" -o dump.log -v2 $options 2>"$image.err"; then
        echo "$name: dump fails after progress '$(cat progress 2>/dev/null)':" "$(grep -h Error "$image/dump.log" | head -1)"
        tail -2 "$image.out"
        kill -9 -- -$pid
        wait $pid 2>/dev/null
        return
    fi
    end_ns=$(date +%s%N)
    wait $pid 2>/dev/null
    local saved
    saved=$(cat progress)
    # shellcheck disable=SC2086
    if ! timeout 60 criu restore -d -D "$image" -o restore.log -v2 $options 2>"$image.err"; then
        echo "$name: restore fails:" "$(grep -h Error "$image/restore.log" | head -1)"
        return
    fi
    sleep 3
    echo "$name: dumped in $(((end_ns - begin_ns) / 1000000)) ms, $(du -sk "$image" | cut -f1) KiB; progress $saved when dumped, $(cat progress) after"
    kill -9 -- -$pid
}

try "C" "" 10 ./count
try "Python with numpy" "" 60 "$python" field.py
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
try "MPI, one rank" "--tcp-established" 90 "$python" ring.py
try "MPI, mpirun and two ranks" "--tcp-established" 90 mpirun -n 2 --oversubscribe "$python" ring.py
try "MPI, mpirun and two ranks, sockets too" "--tcp-established --ext-unix-sk --file-locks --link-remap" 90 \
    mpirun -n 2 --oversubscribe "$python" ring.py
