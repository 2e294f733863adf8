#!/usr/bin/env bash
# The main job on a Slurm of its own: starts a cluster on this machine, runs example 05 there as the ordinary user
# alice with the built wheel, and stops the cluster again, whatever happens. Needs root.
#
# usage: tools/demo-slurm.sh [OPTION OF examples/05_side_by_side.py]...
set -euo pipefail
cd "$(dirname "$0")/.."

if ((EUID != 0)); then
    echo "a cluster on this machine needs root; on a cluster that is there: python examples/05_side_by_side.py" >&2
    exit 1
fi
export RFAAS_RIG_ID=demo-$$ # beside any cluster that is running
rig=(.venv/bin/python tests/cluster/rig/slurm-cluster)
alice=("${rig[@]}" as alice head)

trap '"${rig[@]}" stop' EXIT
echo "starting a Slurm of four nodes; the first time this builds rfaas and installs numpy, scikit-learn and mpi4py"
"${rig[@]}" start --wheel >/dev/null
tar -c examples/*.py | "${alice[@]}" tar -x --no-same-owner
status=0
"${alice[@]}" python -u examples/05_side_by_side.py --out=timeline.svg "$@" || status=$?
mkdir -p out
if "${alice[@]}" test -e timeline.svg; then
    "${alice[@]}" cat timeline.svg >out/timeline.svg
    echo "and here: out/timeline.svg"
fi
exit "$status"
