"""Measures rfaas and its peers by turns, in rounds, and writes one table.

Usage: python benchmarks/peers/run.py [--rounds 5] [--only NAME,…] [--into DIRECTORY] [--quick]

Each (round, peer) is one process in the peer's own venv, and one line in DIRECTORY/peers.jsonl, written when it is
done: what was cut off goes on where it stopped, with the same command. The order within a round is another in each.
DIRECTORY is benchmarks/results/DATE unless it is named; --quick measures too little to quote, into out/peers-quick/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "raw"), str(ROOT)]

import programs  # noqa: E402 - after the path is set
import records  # noqa: E402
import table  # noqa: E402
import venvs  # noqa: E402
from adapters import PEERS, Peer  # noqa: E402

from rfaas.bench.noise import WATCH_S, Machine, findings  # noqa: E402
from rfaas.bench.statistics import summary  # noqa: E402

FULL = {
    **{"places": ["none", "split", "same"], "latency_n": 2000, "latency_s": 0.7, "burst_n": 10_000, "burst_s": 8.0},
    **{"echo_bytes": [1 << 20, 64 << 20], "echo_n": 40, "echo_s": 1.5},
}
QUICK = {
    **{"places": ["none", "split"], "latency_n": 50, "latency_s": 0.2, "burst_n": 200, "burst_s": 1.0},
    **{"echo_bytes": [1 << 20], "echo_n": 2, "echo_s": 0.2},
}
RAW = {"raw_shm": "raw-shm", "raw_tcp": "raw-tcp", "raw_futex": "raw-futex", "raw_pipe": "raw-pipe-asleep"}
"""Limits, measured in each round beside the peers, by pingpong.c."""

RUN_LIMIT_S = 240
MARK = "RFAAS_PEERS_RUN"  # in the environment of everything that a run starts


def command_of(peer: Peer, python: Path, arguments: list[str]) -> list[str]:
    """How the driver is started for a peer."""
    driver = [str(HERE / "driver.py"), *arguments]
    if not peer.launch:
        return [str(python), *driver]
    mpirun = [
        str(python.parent / "mpirun"),
        "--bind-to",
        "none",
        "--oversubscribe",
        "--mca",
        "mpi_yield_when_idle",
        "0",
    ]
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    module = ["-m", "mpi4py.futures"] if peer.launch == "mpi-futures" else []
    return [*mpirun, *root, "-n", "2", str(python), *module, *driver]


def run_peer(peer: Peer, plan: dict[str, Any]) -> dict[str, Any]:
    """One process: what it measured, or why not."""
    python = venvs.python_of(peer.venv)
    if python is None:
        return {"error": f"its venv is not there: python benchmarks/peers/venvs.py {peer.venv}"}
    token = os.urandom(8).hex()
    environ = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}", MARK: token}
    environ["PATH"] = f"{python.parent}:{environ.get('PATH', os.defpath)}"  # peers start programs of their own
    environ |= {"MPI4PY_FUTURES_BACKOFF": "0", "MPI4PY_FUTURES_USE_PKL5": "1"}
    with tempfile.TemporaryDirectory(prefix="rfaas-peers-") as directory:
        out = Path(directory) / "out.json"
        exec_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        command = command_of(peer, python, [peer.name, str(exec_ns), str(out), json.dumps(plan)])
        with open(Path(directory) / "said", "w+") as said:
            process = subprocess.Popen(command, cwd=HERE, env=environ, stdout=said, stderr=said, start_new_session=True)
            try:
                status: int | str = process.wait(RUN_LIMIT_S)
            except subprocess.TimeoutExpired:
                status = f"not done after {RUN_LIMIT_S} s"
            finally:
                end_all(token)
                process.wait()
            said.seek(0)
            words = said.read()[-600:]
        if status != 0 or not out.exists():
            return {"error": f"{status}: {words.strip()}"}
        return summarized(json.loads(out.read_text()))


def summarized(found: dict[str, Any]) -> dict[str, Any]:
    """Samples to percentiles."""
    places = {place: summary([samples])._asdict() for place, samples in found["places"].items()}
    echoes = {size: summary([samples])._asdict() for size, samples in found["echo"].items()}
    return {**found, "places": places, "echo": echoes}


def run_raw(medium: str, plan: dict[str, Any]) -> dict[str, Any]:
    """The bare medium, in the form of a peer; a compiler is all it needs."""
    try:
        places = {"split": programs.pingpong(medium, 64, 10 * plan["latency_n"])}
        sizes = plan["echo_bytes"] if medium in ("raw-shm", "raw-tcp") else []
        echoes = {str(size): programs.pingpong(medium, size, plan["echo_n"]) for size in sizes}
    except (RuntimeError, OSError) as error:
        return {"error": str(error)}
    return {"cold_ns": None, "places": places, "best": "split", "burst": None, "echo": echoes}


def end_all(token: str) -> None:
    """Kill what a run has left: every process that has its mark in the environment it was started with."""
    mark = f"{MARK}={token}".encode()
    for _ in range(50):
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in environment_of(pid)]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def environment_of(pid: int) -> list[bytes]:
    """Environment of a process at its exec; nothing if it is gone, another user's, or ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def turns(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Every peer in every round; the order of a round is its own, and the same each time it is asked for."""
    for number in range(1, rounds + 1):
        order = list(names)
        random.Random(number).shuffle(order)
        yield from ((number, name) for name in order)


def measure(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """One turn, with what disturbed it."""
    before = Machine.read(WATCH_S)
    found = run_raw(RAW[name], plan) if name in RAW else run_peer(PEERS[name], plan)
    after = Machine.read()
    seen = findings(before, after, client_cpu=None, worker_cpu=None)
    noise = [one._asdict() for one in seen if one.what != "unpinned"]
    return {**found, "noise": noise, "loadavg": before.loadavg.split()[0], "took_s": round(after.at_s - before.at_s, 1)}


def versions() -> dict[str, dict[str, str]]:
    """What is installed in each venv that is there."""
    names = sorted({peer.venv for peer in PEERS.values()} - {""})
    return {name: venvs.versions_of(name) for name in names if venvs.python_of(name) is not None}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=0, help="5; 1 with --quick")
    parser.add_argument("--only", default="", help="names, comma between; raw limits and process_pool always")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Set up, measure what is missing, write the table."""
    asked = arguments()
    wanted = [name for name in asked.only.split(",") if name] or list(PEERS)
    if unknown := set(wanted) - set(PEERS):
        sys.exit(f"no peer is called {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    names = [*RAW, *(name for name in PEERS if name in wanted or name == "process_pool")]
    plan, rounds = (QUICK, asked.rounds or 1) if asked.quick else (FULL, asked.rounds or 5)
    into = records.directory("peers", asked.quick, asked.into)
    for venv in sorted({PEERS[name].venv for name in names if name in PEERS} - {""}):
        if problem := venvs.make(venv):
            print(f"not measured, {problem}", file=sys.stderr)
    path = into / "peers.jsonl"
    done = records.load(path, "peer")
    for number, name in turns(names, rounds):
        if (number, name) in done:
            continue
        print(f"round {number} of {rounds}: {name}", end=" ", flush=True)
        records.add(path, {"round": number, "peer": name, **measure(name, plan)})
    command = shlex.join(["python", "benchmarks/peers/run.py", *sys.argv[1:]])
    about = {**records.about(command), "plan": plan, "versions": versions()}
    (into / "peers.meta.json").write_text(json.dumps(about, indent=1) + "\n")
    table.write(into, list(records.load(path, "peer").values()), about, PEERS)
    print(f"{into}/peers.md")


if __name__ == "__main__":
    main()
