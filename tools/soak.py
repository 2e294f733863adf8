"""Runs the numbered fault tests with their full counts, part after part, and keeps what came of each.

usage: python tools/soak.py [--table | --check] [PART...]     e.g. T01; default: every part not done at this commit

A part is the files tests/faults/test_tNN_*.py, or tests that need an RDMA device (RDMA-CALLS and so on), which run
in a guest of tests/rdma/rig where this machine has none. Its result is a line of benchmarks/soak/results.jsonl,
from which the tables in benchmarks/soak/README.md are made; --table makes them again, --check says whether they are
those. Both are committed. What is interrupted is not written and runs again; a part named on the command line always
runs. Each part is bounded in time.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ROOT / "tests" / "faults"
RDMA_RING = ROOT / "tests" / "rdma" / "rig" / "ring"
RDMA_PARTS = {  # arguments of that ring
    "RDMA-CALLS": ["-k", "sixteen_bits or one_after_the_other"],
    "RDMA-CONNECTS": ["-k", "many_connects"],
    "RDMA-KEYS": ["-k", "t50"],
    "RDMA-TWO-HOSTS": ["two-hosts"],
}
RESULTS = ROOT / "benchmarks" / "soak" / "results.jsonl"
TABLES = RESULTS.with_name("README.md")
LOGS = ROOT / "out" / "soak"

LIMIT_S = 1800
LIMITS_S = {"T05": 3600}  # thirty power cuts, each until Slurm has the node back
STOP_S = 120  # for fixtures to end what they started, once the time is over

Result = dict[str, Any]


def main() -> int:
    """Run what is asked for; 0 if all of it passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="T01 and so on; always run")
    parser.add_argument("--table", action="store_true", help="only write the tables again")
    parser.add_argument("--check", action="store_true", help="only see whether the tables are those of the results")
    options = parser.parse_args()
    if options.check:
        return int(TABLES.read_text() != tables_of(read_results()))
    if options.table:
        TABLES.write_text(tables_of(read_results()))
        return 0
    known = find_parts()
    wanted = [part.upper() for part in options.parts]
    unknown = sorted(set(wanted) - known.keys())
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(known)}")
    done = set() if wanted else parts_done(read_results(), this_commit())
    todo = wanted or [part for part in known if part not in done]
    print(
        f"at commit {this_commit()}: done {', '.join(sorted(done)) or 'nothing'}; to do {', '.join(todo) or 'nothing'}"
    )
    return max([run_and_keep(part, known[part]) for part in todo], default=0)


def find_parts() -> dict[str, list[str]]:
    """What runs each part, but for pytest's options: first the test files, in the order of their numbers."""
    files: dict[str, list[str]] = {}
    for path in sorted(FAULTS.glob("test_t[0-9][0-9]_*.py")):
        files.setdefault(path.name[5:8].upper(), []).append(str(path.relative_to(ROOT)))
    parts = {part: [sys.executable, "-m", "pytest", *named] for part, named in files.items()}
    if RDMA_RING.exists():
        parts |= {part: [str(RDMA_RING), *arguments] for part, arguments in RDMA_PARTS.items()}
    return parts


def parts_done(results: Iterable[Result], commit: str) -> set[str]:
    """Parts with a result at this commit, passed or failed; changes that are not committed make every part undone."""
    return {result["part"] for result in results if result["commit"] == commit and not commit.endswith("-dirty")}


# --- one part ------------------------------------------------------------------------------------


def run_and_keep(part: str, program: list[str]) -> int:
    """Run a part, write down what came of it, and return 0 if it passed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    report, log = LOGS / f"{part}.json", LOGS / f"{part}.log"
    report.unlink(missing_ok=True)
    limit_s = LIMITS_S.get(part, LIMIT_S)
    command = [*program, f"--timeout={limit_s}", "-o", "faulthandler_timeout=0"]
    changes = {"RFAAS_SOAK": "1", "RFAAS_TEST_REPORT": str(report), "RFAAS_RDMA_LIMIT_S": str(limit_s)}
    print(f"{part}: at most {limit_s} s, output in {log.relative_to(ROOT)}", flush=True)
    begun_s, commit = time.monotonic(), this_commit()
    status = run_bounded(command, changes, log, limit_s)
    tests = json.loads(report.read_text()) if report.exists() else []
    outcome = "timeout" if status is None else outcome_of(status, tests)
    for test in tests:
        print(f"  {test['name']}: {test['outcome']}", *test["figures"], sep="\n    ")
    if outcome == "skipped":
        print(f"{part}: skipped, nothing is kept: see {log.relative_to(ROOT)}")
        return 0
    result = {
        "part": part,
        "outcome": outcome,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit,
        "machine": this_machine(),
        "command": f"make soak PART={part}",
        "seconds": round(time.monotonic() - begun_s, 1),
        "seeds": sorted({seed for test in tests for seed in test["seeds"]}),
        "tests": tests,
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(result) + "\n")
    TABLES.write_text(tables_of(read_results()))
    print(f"{part}: {outcome} after {result['seconds']} s", flush=True)
    return int(outcome != "passed")


def run_bounded(command: list[str], changes: dict[str, str], log: Path, limit_s: float) -> int | None:
    """Run a command; None if it had to be ended, in which case its fixtures had time to end what they started."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **changes}, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:  # also when this program is interrupted: the part then leaves no result
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
                process.kill()
                process.wait()


def outcome_of(status: int, tests: list[Result]) -> str:
    """passed, failed, or skipped if nothing ran."""
    if status == 0 and tests and all(test["outcome"] == "skipped" for test in tests):
        return "skipped"
    return "passed" if status == 0 else "failed"


def this_commit() -> str:
    """The last commit that changed more than these results, with `-dirty` if there are changes beyond it."""
    others = ["--", ".", ":(exclude)benchmarks/soak"]
    try:
        commit = _git("log", "-1", "--format=%h", *others)
        return commit + ("-dirty" if _git("status", "--porcelain", *others) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown-dirty"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def this_machine() -> str:
    """What it is, without its name."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpus = len(os.sched_getaffinity(0))
    name = model.group(1) if model else platform.machine()
    return f"{name}, {cpus} CPUs, {memory_gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


# --- results -------------------------------------------------------------------------------------


def read_results() -> list[Result]:
    """All results, oldest first."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines() if line]


def tables_of(results: list[Result]) -> str:
    """The newest result of each part as Markdown."""
    newest = {result["part"]: result for result in results}
    lines = [
        "# Soak: the fault tests with full counts",
        "",
        "Made by `make soak` from `results.jsonl`; the newest result of each part. What is injected and promised:",
        "[faults](../../docs/faults.md).",
        "",
        "| part | result | date (UTC) | commit | took | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for part, result in sorted(newest.items()):
        seeds = " ".join(map(str, result["seeds"]))
        row = [part, result["outcome"], result["date"], result["commit"], f"{result['seconds']:.0f} s", seeds]
        lines.append(f"| {' | '.join(row)} |")
    for part, result in sorted(newest.items()):
        lines += ["", f"## {part}", "", f"`{result['command']}` on {result['machine']}:", "", "```text"]
        for test in result["tests"]:
            lines += [
                f"{test['name']}: {test['outcome']}, {test['seconds']:.0f} s",
                *(f"    {f}" for f in test["figures"]),
            ]
        lines.append("```")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
