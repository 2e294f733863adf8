"""What it takes from nothing to the first result, and where the time goes.

Each start is an interpreter of its own, with the event log (spec 005) in a directory of its own: the marks of client,
allocator, agent and worker lie on one clock. Marks that are missing (daemons that were there before keep no log for us)
join their phase with the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rfaas.bench.noise import WATCH_S, Machine, Noise, findings
from rfaas.bench.statistics import Summary, summary
from rfaas_transport.errors import ConfigError

START_LIMIT_S: Final = 120.0
STARTS: Final = ("first", "again")

PHASES: Final = (
    ("interpreter", "started"),
    ("import", "imported"),
    ("session", "request"),
    ("lease", "granted"),
    ("template", "template_ready"),
    ("fork", "forked"),
    ("connect", "sent"),
    ("call", "answered"),
)
"""Phases in order, each with the mark that ends it; the first begins with the mark `exec` or `begun`."""

MEANING: Final = {
    "interpreter": "exec of the program to its first line",
    "import": "import of rfaas",
    "session": "executor and first call made, session process started and joined",
    "lease": "asked for, granted, told",
    "template": "interpreter of the functions started, imports done",
    "fork": "worker forked from it, limits set",
    "connect": "channel opened, function announced",
    "call": "the call sent, run and answered",
}


class Report(NamedTuple):
    """A whole run: of each start (`first`, `again`) the phases in order, then `total`, then `next`, a call after it."""

    starts: dict[str, dict[str, Summary]]
    noise: list[Noise]
    elapsed_s: float


def phases(marks: Mapping[str, int]) -> dict[str, int]:
    """Nanoseconds of each phase; phases whose marks are missing are joined by "+" to the next that has one.

    Marks that lie before those of an earlier phase (a template that was there already) make a phase of 0.
    """
    at_ns = marks.get("exec", marks.get("begun"))
    assert at_ns is not None
    found: dict[str, int] = {}
    waiting: list[str] = []
    for name, mark in PHASES:
        if "exec" not in marks and name in ("interpreter", "import"):
            continue
        waiting.append(name)
        if mark in marks:
            found["+".join(waiting)] = max(0, marks[mark] - at_ns)
            at_ns = max(at_ns, marks[mark])
            waiting = []
    return found


def marks_of(events: Iterable[Mapping[str, Any]], begun_ns: int, ended_ns: int) -> dict[str, int]:
    """The marks of one start among the events of a log, in any order."""
    marks: dict[str, int] = {}
    known = {"request": "request", "grant_acked": "granted", "forked": "forked", "sent": "sent"}
    for event in sorted(events, key=lambda one: int(one["t_boot_ns"])):
        at_ns = int(event["t_boot_ns"])
        mark = known.get(str(event["ev"]))
        if mark is None or not begun_ns <= at_ns <= ended_ns:
            continue
        if mark == "forked":
            marks.setdefault("template_ready", int(event["template_ready_ns"]))
        marks.setdefault(mark, at_ns)
    return marks


def measure(arguments: dict[str, str | None], n: int) -> Report:
    """Start `n` programs, one after the other.

    Args:
        arguments: of each program's Executor.

    Raises:
        ConfigError: a program failed; it says why.
    """
    before = Machine.read(WATCH_S)
    found: dict[str, list[dict[str, int]]] = {start: [] for start in STARTS}
    for _ in range(n):
        for start, durations in zip(STARTS, _start(arguments), strict=True):
            found[start].append(durations)
    after = Machine.read()
    noise = [one for one in findings(before, after, client_cpu=None, worker_cpu=None) if one.what != "unpinned"]
    starts = {start: _summaries(found[start]) for start in STARTS}
    return Report(starts, noise, after.at_s - before.at_s)


def _summaries(found: Sequence[dict[str, int]]) -> dict[str, Summary]:
    names = list(found[0])
    return {name: summary([[one[name] for one in found if name in one]]) for name in names}


def _start(arguments: dict[str, str | None]) -> list[dict[str, int]]:
    with tempfile.TemporaryDirectory(prefix="rfaas-bench-") as directory:
        command = [sys.executable, "-m", "rfaas.bench.cold_child", json.dumps(arguments)]
        exec_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        environ = {**os.environ, "RFAAS_EVENT_LOG": directory}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=START_LIMIT_S, check=False, env=environ
            )
            told: list[dict[str, int]] = json.loads(done.stdout)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"a program had no result after {START_LIMIT_S:g} s", hint="rfaas explain") from error
        except ValueError as error:
            raise ConfigError(f"a program failed: {done.stderr.strip()[-500:]}", hint="rfaas doctor") from error
        lines = [line for path in Path(directory).glob("*.jsonl") for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines]
    told[0]["exec"] = exec_ns
    return [_durations(one, events) for one in told]


def _durations(told: dict[str, int], events: list[dict[str, Any]]) -> dict[str, int]:
    begun_ns = told.get("exec", told["begun"])
    marks = {**told, **marks_of(events, begun_ns, told["answered"])}
    total_ns = told["answered"] - begun_ns
    return {**phases(marks), "total": total_ns, "next": told["answered_again"] - told["answered"]}
