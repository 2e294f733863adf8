"""A stretch of a day, compressed, on the real slurmctld of tests/cluster/rig: `make bench-replay` (root).

Usage: python benchmarks/replay.py [--into DIRECTORY] [--quick] [--hours H] [--compression N] [--seed N]

The same plan of rigid jobs three times: on the cluster alone, beside ordinary jobs of a low-priority partition, beside
rfaas with every worker busy. Goals: of the idle core-seconds in gaps of at least 60 s (compressed alike) 80 % or more
serve functions; batch jobs are delayed no more than beside the plain partition. Results: replay.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import records  # noqa: E402 - after the path is set


def main() -> None:
    """Replay by each fill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--hours", type=float, default=2.0, help="of the cluster's time [2]")
    parser.add_argument("--compression", type=float, default=30.0, help="so many times faster [30]")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    from cluster.replaying import FILLS, LONG_S, planned, replayed  # type: ignore[import-not-found]
    from cluster.rig import Cluster, Settings  # type: ignore[import-not-found]

    into = records.directory("replay", asked.quick, asked.into)
    span_s = 20.0 if asked.quick else 3600 * asked.hours / asked.compression
    cluster = Cluster("replay")
    cluster.start(Settings(nodes=asked.nodes, cpus=1, memory_mib=4000), with_starter=True)
    try:
        cluster.install_wheel()
        plan = planned(cluster.settings.node_names, span_s, asked.compression, asked.seed)
        found = {}
        for fill in FILLS:
            alice, bob = cluster.user("alice"), cluster.user("bob")
            outcome = replayed(cluster, alice, bob, fill, plan, span_s, LONG_S / asked.compression)
            found[fill] = outcome.about()
            print(f"{fill}: {json.dumps(found[fill])}", flush=True)
            cluster.remove_users_things()
    finally:
        cluster.stop()
    about = {"span_s": span_s, "compression": asked.compression, "nodes": asked.nodes, "seed": asked.seed}
    (into / "replay.json").write_text(
        json.dumps({**records.about("make bench-replay"), **about, "fills": found}, indent=1)
    )
    print(into)


if __name__ == "__main__":
    main()
