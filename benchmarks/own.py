"""Measures rfaas beside its limits, without peers: what `make bench` runs, in about ten minutes.

Usage: python benchmarks/own.py [--into DIRECTORY] [--quick]

Each step leaves its files in DIRECTORY (benchmarks/results/DATE): what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "raw"), str(HERE.parent)]

import loopback  # noqa: E402
import programs  # noqa: E402 - after the path is set
import records  # noqa: E402

LIMIT_S = 900
RAW_MEDIA = (
    *("raw-shm", "raw-futex", "raw-unix", "raw-unix-asleep", "raw-tcp", "raw-tcp-asleep", "raw-pipe-asleep"),
    *("shm", "shm-asleep", "unix", "tcp"),
)
SIZES = (64, 1024, 65_536, 1 << 20, 64 << 20)


def raw(quick: bool) -> list[str]:
    """Bare media, and channels of frames over them, by two C processes."""
    lines = []
    for medium in RAW_MEDIA:
        for size_bytes in SIZES[:3] if quick else SIZES:
            rounds = 200 if quick else max(20, min(20_000, (2 << 30) // size_bytes))
            lines.append(json.dumps(programs.pingpong(medium, size_bytes, rounds)))
            print(lines[-1], flush=True)
    return lines + encrypted(quick)


def encrypted(quick: bool) -> list[str]:
    """TLS over loopback by OpenSSL itself, and by a channel; where this machine can build it."""
    lines: list[str] = []
    for how in ("raw", "channel"):
        for size_bytes in (64, 65_536) if quick else SIZES:
            rounds = 200 if quick else max(20, min(20_000, (1 << 30) // size_bytes))
            try:
                found = programs.run("tls_echo", how, size_bytes, rounds, *programs.two_cpus())
            except (RuntimeError, OSError) as error:
                print(f"TLS is not measured: {error}", file=sys.stderr)
                return lines
            lines.append(json.dumps({"medium": f"tls-{how}", **found}))
            print(lines[-1], flush=True)
    return lines


@contextlib.contextmanager
def over(medium: str) -> Iterator[list[str]]:
    """Options of `rfaas bench` for workers that are reached over this medium."""
    if medium == "shm":
        yield ["--allocator", "embedded", "--transport", "shm"]
        return
    with loopback.workers() as state_dir:
        yield ["--allocator", str(state_dir), "--transport", "tcp"]


def bench(path: Path, arguments: list[str]) -> None:
    """`rfaas bench …` into a file of its own, as text; shown too."""
    command = [sys.executable, "-m", "rfaas", "bench", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=True)
    print(done.stdout, flush=True)
    path.write_text(done.stdout)


def steps(into: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """What is measured: file, medium, arguments."""
    for medium in ("shm", "tcp"):
        pictures = ["--plot", str(into / f"latency-{medium}.svg"), "--cdf", str(into / f"distribution-{medium}.svg")]
        yield into / f"latency-{medium}.txt", medium, ["latency", *pictures]
        yield into / f"rate-{medium}.txt", medium, ["rate"]
        yield into / f"bandwidth-{medium}.txt", medium, ["bandwidth"]
    yield into / "cold.txt", "shm", ["cold"]


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    asked = parser.parse_args()
    into = records.directory("own", asked.quick, asked.into)
    (into / "own.meta.json").write_text(json.dumps(records.about("make bench"), indent=1) + "\n")
    limits = into / "raw.jsonl"
    if not limits.exists() or asked.quick:
        limits.write_text("\n".join(raw(asked.quick)) + "\n")
    quick = ["--quick"] if asked.quick else []
    for path, medium, arguments in steps(into):
        if path.exists() and not asked.quick:
            continue
        print(f"== {path.stem}", flush=True)
        with over(medium) as where:
            bench(path, [*arguments, *where, *quick])
    print(into)


if __name__ == "__main__":
    main()
