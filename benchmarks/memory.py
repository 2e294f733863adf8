"""Measures borrowed memory: bytes per second each way and the lender's CPU time, beside bare copies and bare TCP.

Usage: python benchmarks/memory.py [--into DIRECTORY] [--quick] [--media shm,tcp] [--region-mib 256]

Everything is on one machine: both sides share its cores and its memory's bandwidth. Rounds go by turns through limits
and media; each figure is the median of the rounds, with the least and the most beside it. Leaves memory.jsonl and
memory.md. Medium "verbs" needs an RDMA device; on an emulated one figures compare software.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "raw"), str(HERE.parent)]

import loopback  # noqa: E402 - after the path is set
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import records  # noqa: E402

import rfaas  # noqa: E402

Bytes = npt.NDArray[np.uint8]
SIZES = (64, 4096, 65_536, 1 << 20, 64 << 20)
MEDIA = ("shm", "unix", "tcp")
FOR_S = 0.25
COLUMNS = ("medium", "what", "bytes", "round", "mb_s", "us", "lender_cpu")


def timed(step: Callable[[], object], for_s: float) -> tuple[int, float]:
    """Repeat for about so long; how often, and the seconds."""
    n, began_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < for_s or n < 3:
        step()
        n += 1
    return n, took_s


def cpu_s(pid: int) -> float:
    """CPU seconds of a process that lives, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def server_pid() -> int:
    """The one memory server of this user's that lives."""
    pids = [
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and (Path(f"/proc/{entry}/comm").exists())
        if Path(f"/proc/{entry}/comm").read_text() == "rfaas-memory\n"
    ]
    if len(pids) != 1:
        raise SystemExit(f"{len(pids)} memory servers run on this machine: end the others first")
    return pids[0]


def of_copy(size_bytes: int, for_s: float) -> dict[str, Any]:
    """A copy within this process, of memory that is not in the cache as far as the size says."""
    source, target = (np.ones(max(size_bytes, 1), "u1") for _ in range(2))
    n, took_s = timed(lambda: np.copyto(target, source), for_s)
    return {"mb_s": n * size_bytes / took_s / 1e6, "us": took_s / n * 1e6}


def _sink(sock: socket.socket, other: socket.socket, size_bytes: int) -> None:
    """Answers each `size_bytes` by one byte, in a process of its own, until the other end is closed."""
    other.close()  # the copy of it here would keep the connection alive
    data = bytearray(size_bytes)
    view = memoryview(data)
    while True:
        got = 0
        while got < size_bytes:
            n = sock.recv_into(view[got:])
            if n == 0:
                return
            got += n
        sock.sendall(b"1")


def of_tcp(size_bytes: int, for_s: float) -> dict[str, Any]:
    """Bytes to another process over a bare loopback connection, a byte back for each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    for sock in (here, there):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    child = multiprocessing.get_context("fork").Process(target=_sink, args=(there, here, size_bytes))
    child.start()
    there.close()
    data = bytes(size_bytes)

    def step() -> None:
        here.sendall(data)
        here.recv(1)

    with here:
        n, took_s = timed(step, for_s)
    child.join()
    return {"mb_s": n * size_bytes / took_s / 1e6, "us": took_s / n * 1e6}


class Borrowed:
    """A region, written once whole, and its server."""

    def __init__(self, region_bytes: int, **options: Any) -> None:  # noqa: ANN401 - of RemoteMemory
        self.memory = rfaas.RemoteMemory(region_bytes, acquire_timeout_s=60, **options)
        self.pid = server_pid()
        self.data = np.ones(region_bytes, "u1")
        self.memory.write(0, self.data)
        self._at = 0

    def measure(self, what: str, size_bytes: int, for_s: float) -> dict[str, Any]:
        """Read or write so many bytes at a time, through the region from the beginning to its end."""
        act = self.memory.readinto if what == "read" else self.memory.write
        mine = self.data[:size_bytes]
        self._at = 0

        def step() -> None:
            act(self._at, mine)
            self._at = (self._at + size_bytes) % (len(self.data) - size_bytes + 1)

        step()
        used_s = cpu_s(self.pid)
        n, took_s = timed(step, for_s)
        used_s = cpu_s(self.pid) - used_s
        return {"mb_s": n * size_bytes / took_s / 1e6, "us": took_s / n * 1e6, "lender_cpu": used_s / took_s}


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    media: tuple[str, ...]
    region_bytes: int
    sizes: tuple[int, ...]
    rounds: int
    for_s: float


def measure(plan: Plan, add: Callable[[dict[str, Any]], None]) -> None:
    """All of it, by turns."""
    for medium in plan.media:
        if medium == "tcp":
            with loopback.workers() as state_dir:
                one_medium(medium, plan, add, allocator=str(state_dir), transport="tcp")
        else:
            one_medium(medium, plan, add, allocator="embedded", transport="tcp" if medium == "unix" else medium)


def one_medium(medium: str, plan: Plan, add: Callable[[dict[str, Any]], None], **options: str) -> None:
    """One medium beside its limit."""
    borrowed = Borrowed(plan.region_bytes, **options)
    with borrowed.memory:
        if borrowed.memory.medium != medium:
            raise SystemExit(f"{medium} was wanted, {borrowed.memory.medium} came")
        limit = of_copy if medium == "shm" else of_tcp
        for number in range(plan.rounds):
            for size_bytes in plan.sizes:
                at = {"medium": medium, "bytes": size_bytes, "round": number}
                add({**at, "what": "copy" if medium == "shm" else "bare tcp", **limit(size_bytes, plan.for_s)})
                for what in ("write", "read"):
                    add({**at, "what": what, **borrowed.measure(what, size_bytes, plan.for_s)})


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each medium, size and direction."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["medium"], row["bytes"], row["what"]), []).append(row)
    lines = [
        "| medium | bytes | what | MB/s (median) | least … most | µs each | lender's CPU | lender's CPU ns per KiB |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (medium, size_bytes, what), found in groups.items():
        rates = [row["mb_s"] for row in found]
        each_us = statistics.median(row["us"] for row in found)
        used, per_kib = "-", "-"
        if "lender_cpu" in found[0]:
            share = statistics.median(row["lender_cpu"] for row in found)
            used = f"{share:.0%}"
            per_kib = f"{share * each_us * 1000 / (size_bytes / 1024):.0f}"
        span = f"{min(rates):.0f} … {max(rates):.0f}"
        lines.append(
            f"| {medium} | {size_bytes} | {what} | {statistics.median(rates):.0f} | {span} "
            f"| {each_us:.1f} | {used} | {per_kib} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="directory of the results")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--media", default=",".join(MEDIA), help="of shm, unix, tcp, verbs")
    parser.add_argument("--region-mib", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="does it work? a few seconds, small sizes")
    arguments = parser.parse_args()
    directory = records.directory("memory", arguments.quick, arguments.into)
    rows: list[dict[str, Any]] = []
    with (directory / "memory.jsonl").open("w") as file:

        def add(row: dict[str, Any]) -> None:
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()

        plan = Plan(
            media=tuple(arguments.media.split(",")),
            region_bytes=arguments.region_mib << 20,
            sizes=tuple(
                size for size in (SIZES[:3] if arguments.quick else SIZES) if size < arguments.region_mib << 20
            ),
            rounds=1 if arguments.quick else arguments.rounds,
            for_s=0.05 if arguments.quick else FOR_S,
        )
        measure(plan, add)
    text = table(rows)
    command = " ".join(["python benchmarks/memory.py", *sys.argv[1:]])
    (directory / "memory.md").write_text(f"# Borrowed memory: `{command}`\n\n{text}")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
