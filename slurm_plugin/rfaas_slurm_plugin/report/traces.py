"""Records of a cluster's past as plain values: `sacct --parsable2`, and series of how many nodes were idle.

Whatever a line holds, one that can't be read is refused with its number: a report on half a file would look like one on
all of it. Pure: text in, values out. Columns: docs/report.md, sacct(1).
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rfaas_slurm_plugin.views import hostlist
from rfaas_transport.errors import ConfigError

SACCT: Final = (
    "sacct --allusers --duplicates --parsable2 --starttime=… --endtime=… "
    "--format=JobIDRaw,State,Start,End,AllocNodes,AllocCPUS,AllocTRES,NodeList,NTasks,MaxRSS"
)
"""The command whose output `read_sacct` reads; other columns are ignored, and the order is free."""

FAR_S: Final = 253_402_300_800.0  # the year 10000; a time beyond it is a slip, and would be simulated cycle by cycle
MOST_NODES: Final = 1_000_000
MOST_CPUS: Final = 1_000_000_000  # of one job, and tasks: hardware threads of the largest machines are millions
MOST_DIGITS: Final = 18  # of a size

_NEEDED: Final = ("JobIDRaw", "Start", "End", "AllocCPUS", "NodeList")
_TIME_COLUMNS: Final = ("time", "date", "timestamp")
_TIME_FORMS: Final = ("%d-%m-%y %H:%M:%S", "%d-%m-%Y %H:%M:%S", "%Y/%m/%d %H:%M:%S")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)[nc]?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PastJob:
    """One allocation. Times are seconds since 1970; `end_s` is infinite while it runs."""

    job_id: str
    nodes: tuple[str, ...]
    start_s: float
    end_s: float
    cores: int  # of all nodes
    memory_bytes: int  # that it was given, of all nodes; 0: not known
    used_bytes: int | None = None  # the most that its steps used, of all nodes; None: not known


@dataclass(frozen=True, slots=True)
class Sample:
    """How many nodes were idle at a moment; `total_nodes` is 0 where the series does not say."""

    at_s: float
    idle_nodes: int
    total_nodes: int = 0


def read_idle_series(lines: Iterable[str], name: str) -> list[Sample]:
    """A CSV with a column `time` (or `date`, `timestamp`) and `idle_nodes`, perhaps `total_nodes`; sorted by time.

    Times are seconds since 1970, ISO 8601, or `dd-mm-yy HH:MM:SS`; without a zone they are this host's local times.

    Raises:
        ConfigError: a column is missing or a line makes no sense; the text names it. Nothing was taken.
    """
    rows = _rows(lines, name)
    header = [cell.strip().lower() for cell in next(rows, (1, []))[1]]
    time_column = next((column for column in _TIME_COLUMNS if column in header), None)
    if time_column is None or "idle_nodes" not in header:
        raise ConfigError(
            f"{name}, line 1: no column {'idle_nodes' if time_column else 'time'}",
            hint="the first line names the columns: time,idle_nodes[,total_nodes]",
        )
    samples = []
    for number, row in rows:
        if not row:
            continue
        try:
            samples.append(_sample(dict(zip(header, row, strict=True)), time_column))
        except ValueError as error:
            raise _wrong(name, number, error) from error
    if len(samples) < 2:
        raise ConfigError(f"{name} has {len(samples)} samples", hint="a series needs at least two")
    return sorted(samples, key=lambda sample: sample.at_s)


def _rows(lines: Iterable[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the numbers of their lines, the first without a byte order mark (spreadsheets write one)."""
    rows = csv.reader(line.removeprefix("\ufeff") if i == 0 else line for i, line in enumerate(lines))
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise _wrong(name, rows.line_num, error) from error
        if row is None:
            return
        yield rows.line_num, row


def _sample(cells: Mapping[str, str], time_column: str) -> Sample:
    if not cells["idle_nodes"].strip():  # 0 would be a statement
        raise ValueError("idle_nodes is empty")
    sample = Sample(_moment_s(cells[time_column]), _count(cells["idle_nodes"]), _count(cells.get("total_nodes")))
    if 0 < sample.total_nodes < sample.idle_nodes:
        raise ValueError(f"{sample.idle_nodes} nodes are idle of {sample.total_nodes}")
    return sample


def read_sacct(lines: Iterable[str], name: str) -> list[PastJob]:
    """Allocations of `sacct --parsable2`, by their start; the lines of their steps tell what memory they used.

    Jobs that never started are left out. SACCT is the command.

    Raises:
        ConfigError: a column is missing or a line makes no sense; the text names it. Nothing was taken.
    """
    rows = enumerate((line.rstrip("\n") for line in lines), start=1)
    header = next(rows, (1, ""))[1].split("|")
    missing = [column for column in _NEEDED if column not in header]
    if missing:
        raise ConfigError(f"{name}, line 1: no column {', '.join(missing)}", hint=SACCT)
    jobs: list[PastJob] = []
    used: dict[str, int] = {}
    for number, line in rows:
        if not line:
            continue
        try:
            cells = dict(zip(header, line.split("|"), strict=True))
            job_id, _, step = cells["JobIDRaw"].partition(".")
            if step:
                _take_step(used, job_id, cells)
            elif job := _allocation(job_id, cells):
                jobs.append(job)
        except ValueError as error:
            raise _wrong(name, number, error) from error
    jobs = [_with_use(job, used.get(job.job_id)) for job in jobs]
    return sorted(jobs, key=lambda job: job.start_s)


def _allocation(job_id: str, cells: Mapping[str, str]) -> PastJob | None:
    start, end, nodes = cells["Start"], cells["End"], cells["NodeList"]
    if start in ("Unknown", "None", "") or nodes in ("None assigned", "(null)", ""):
        return None
    ends = float("inf") if end in ("Unknown", "None", "") else _moment_s(end)
    tres = dict(pair.split("=", 1) for pair in cells.get("AllocTRES", "").split(",") if "=" in pair)
    job = PastJob(
        job_id,
        hostlist.expand(nodes),
        _moment_s(start),
        ends,
        _count(cells["AllocCPUS"], MOST_CPUS),
        _size(tres.get("mem", "0")),
    )
    if job.end_s < job.start_s:
        raise ValueError("it ends before it starts")
    return job


def _take_step(used: dict[str, int], job_id: str, cells: Mapping[str, str]) -> None:
    """Steps of a job may run one after the other: the largest counts, its tasks taken to be alike."""
    if text := cells.get("MaxRSS"):
        tasks = max(1, _count(cells.get("NTasks"), MOST_CPUS))
        used[job_id] = max(used.get(job_id, 0), _size(text) * tasks)


def _with_use(job: PastJob, used_bytes: int | None) -> PastJob:
    if used_bytes is None:
        return job
    return PastJob(job.job_id, job.nodes, job.start_s, job.end_s, job.cores, job.memory_bytes, used_bytes)


def _wrong(name: str, number: int, error: Exception) -> ConfigError:
    words = str(error)
    if "zip()" in words:
        words = "it has not as many cells as the first line"
    return ConfigError(f"{name}, line {number}: {words}", hint="mend or remove that line")


def _moment_s(text: str) -> float:
    found_s = _seconds(text.strip())
    if not abs(found_s) < FAR_S:  # nan, too
        raise ValueError(f"{text.strip()!r} is no time")
    return found_s


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        pass
    for form in _TIME_FORMS:
        try:
            return time.mktime(time.strptime(text, form))
        except (ValueError, OverflowError):
            continue
    raise ValueError(f"{text!r} is no time")


def _count(text: str | None, most: int = MOST_NODES) -> int:
    if not text or not text.strip():
        return 0
    number = float(text)
    if not number.is_integer() or not 0 <= number <= most:
        raise ValueError(f"{text!r} is no count")
    return int(number)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if not match or len(match[1]) > MOST_DIGITS:
        raise ValueError(f"{text[:60]!r} is no size")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def nodes_of(jobs: Sequence[PastJob]) -> tuple[str, ...]:
    """Every node that a job ran on, in order."""
    return tuple(sorted({name for job in jobs for name in job.nodes}))
