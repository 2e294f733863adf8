"""Slurm's records as plain values: the JSON of slurmrestd and of its commands, and the lines of `scontrol --oneliner`.

Pure. Field names and forms changed over the releases (numbers became {"set", "infinite", "number"} objects in
data_parser v0.0.39, states became lists): both forms are read, and one that can't be understood raises `UnknownForm`
instead of passing for an empty cluster. Source: Slurm's OpenAPI documents v0.0.37 to v0.0.44, scontrol(1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from rfaas_slurm_plugin.views import hostlist
from rfaas_slurm_plugin.views.view import ClusterUnavailable, ClusterView, Job, Node, Partition, Reservation

NO_VALUE: Final = frozenset([0xFFFF, 0xFFFE, 0xFFFF_FFFF, 0xFFFF_FFFE, 2**64 - 1, 2**64 - 2])
"""What Slurm before data_parser writes for "infinite" and "not set", where it writes a number at all."""


class UnknownForm(ClusterUnavailable):
    """Slurm answered in a form that is not known here; the text names the field. Nothing of the answer was used."""


def refuse_errors(answer: Mapping[str, Any], where: str) -> None:
    """Raise if the answer says that it is none.

    Measured on 22.05: with slurmctld away `squeue --json` and `sinfo --json` exit with 0 and print an empty list, and
    only the list of errors tells that from an empty cluster.

    Raises:
        ClusterUnavailable: with the first of the errors, after `where`.
    """
    errors = answer.get("errors")
    if not errors:
        return
    words = []
    if isinstance(errors, list) and isinstance(errors[0], Mapping):
        words = [str(errors[0][name]) for name in ("description", "error", "source") if errors[0].get(name)]
    raise ClusterUnavailable(f"{where}: {', '.join(words)[:300] or 'an error without words'}")


def view_of(
    taken_boot_s: float, nodes: Mapping[str, Any], jobs: Mapping[str, Any], reservations: Mapping[str, Any]
) -> ClusterView:
    """The cluster of three answers that were asked for together, at `taken_boot_s` (CLOCK_BOOTTIME) or later."""
    return ClusterView(taken_boot_s, nodes_of(nodes), jobs_of(jobs), reservations_of(reservations))


def nodes_of(answer: Mapping[str, Any]) -> tuple[Node, ...]:
    """Nodes of slurmrestd's `nodes`, `scontrol show nodes --json`, or `sinfo --json` of 22.05.

    Raises:
        UnknownForm: a field is missing or is something else.
    """
    return tuple(_node(entry) for entry in _entries(answer, "nodes"))


def jobs_of(answer: Mapping[str, Any]) -> tuple[Job, ...]:
    """Jobs of slurmrestd's `jobs` or `squeue --json`. Raises UnknownForm."""
    return tuple(_job(entry) for entry in _entries(answer, "jobs"))


def reservations_of(answer: Mapping[str, Any]) -> tuple[Reservation, ...]:
    """Reservations of slurmrestd's `reservations`. Raises UnknownForm."""
    return tuple(_reservation(entry) for entry in _entries(answer, "reservations"))


def _entries(answer: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    found = answer.get(name)
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        known = ", ".join(sorted(answer)[:10]) or "nothing"
        raise UnknownForm(f"Slurm's answer has no list of {name} (it has: {known}); this release is not known here")
    return found


def _node(entry: Mapping[str, Any]) -> Node:
    return Node(
        name=_name(entry, "name"),
        address=str(entry.get("address") or entry["name"]),
        states=_words(entry, "state") | _words(entry, "state_flags", missing=()),
        partitions=tuple(str(name) for name in _list(entry, "partitions")),
        cores=_number(entry, "cpus"),
        allocated_cores=_number(entry, "alloc_cpus"),
        memory_mib=_number(entry, "real_memory"),
        allocated_memory_mib=_number(entry, "alloc_memory"),
        slurmd_start_time_s=_number(entry, "slurmd_start_time", missing=0),
        boot_time_s=_number(entry, "boot_time", missing=0),
        features=_names(entry, "active_features"),
        free_memory_mib=_number(entry, free) if (free := _first(entry, "free_memory", "free_mem")) else None,
    )


def _job(entry: Mapping[str, Any]) -> Job:
    states = _words(entry, "job_state")
    return Job(
        job_id=_number(entry, "job_id"),
        name=str(entry.get("name") or ""),
        user=str(entry.get("user_name") or entry.get("user_id")),
        partition=str(entry.get("partition") or ""),
        # COMPLETING is a flag beside the base state: it says that processes may still be there
        state="COMPLETING" if "COMPLETING" in states else next(iter(sorted(states)), ""),
        reason=str(entry.get("state_reason") or ""),
        nodes=_hosts(entry, "nodes"),
        required_nodes=_hosts(entry, "required_nodes"),
        cores=_number(entry, "cpus", missing=0),
        memory_per_node_mib=_number(entry, "memory_per_node", missing=0),
        comment=_text(entry.get("comment")),
        submit_time_s=_number(entry, "submit_time"),
        start_time_s=_number(entry, "start_time", missing=0),
        end_time_s=_number(entry, "end_time", missing=0),
        preempt_time_s=_number(entry, "preempt_time", missing=0),
        node_count=_number(entry, "node_count", missing=0),
        scheduled_nodes=_hosts(entry, "scheduled_nodes"),
    )


def _reservation(entry: Mapping[str, Any]) -> Reservation:
    return Reservation(
        name=_name(entry, "name"),
        nodes=_hosts(entry, "node_list"),
        start_time_s=_number(entry, "start_time"),
        end_time_s=_number(entry, "end_time"),
        flags=_words(entry, "flags", missing=()),
    )


# --- fields --------------------------------------------------------------------------------------


def _name(entry: Mapping[str, Any], field: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str) or not value:
        raise UnknownForm(f"Slurm's answer has no name in field {field!r}: {value!r:.60}")
    return value


def _number(entry: Mapping[str, Any], field: str, *, missing: int | None = None) -> int:
    """A count or a time; one that is not set or infinite is 0."""
    if field not in entry:
        if missing is None:
            raise UnknownForm(f"Slurm's answer lacks field {field!r}; this release is not known here")
        return missing
    value = entry[field]
    if type(value) is int:  # the most common form by far: a large cluster has a hundred thousand in each view
        return 0 if value in NO_VALUE else value
    if isinstance(value, Mapping):
        if "number" not in value:
            raise UnknownForm(f"field {field!r} of Slurm's answer is no number: {value!r:.60}")
        value = value["number"] if value.get("set", True) and not value.get("infinite") else None
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnknownForm(f"field {field!r} of Slurm's answer is no number: {value!r:.60}")
    return 0 if value in NO_VALUE else int(value)


def _words(entry: Mapping[str, Any], field: str, *, missing: Sequence[str] | None = None) -> frozenset[str]:
    """States or flags: a list, or one text with + or comma between; the marks of sinfo(1) go."""
    value = entry.get(field, missing)
    if isinstance(value, str):
        return _words_of_text(value)
    if not isinstance(value, Sequence):
        raise UnknownForm(f"field {field!r} of Slurm's answer is no state: {value!r:.60}")
    return _plain_words(tuple(str(word) for word in value))


@lru_cache(maxsize=1024)  # a cluster's nodes are in a few states, and in the same ones at the next look
def _words_of_text(text: str) -> frozenset[str]:
    return _plain_words(tuple(re.split(r"[+,\s]", text)))


@lru_cache(maxsize=1024)
def _plain_words(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.upper().strip("*~#!%$@^-") for word in words if word)


def _names(entry: Mapping[str, Any], field: str) -> frozenset[str]:
    """Names that a site chose, in its own spelling: a list, or one text with commas. One that is missing: none."""
    value = entry.get(field) or ()
    if isinstance(value, str):
        return _names_of_text(value)
    if not isinstance(value, Sequence):
        raise UnknownForm(f"field {field!r} of Slurm's answer is no list of names: {value!r:.60}")
    return frozenset(str(name).strip() for name in value if str(name).strip())


@lru_cache(maxsize=1024)
def _names_of_text(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _first(entry: Mapping[str, Any], *fields: str) -> str | None:
    return next((field for field in fields if entry.get(field) is not None), None)


def _list(entry: Mapping[str, Any], field: str) -> Sequence[object]:
    value = entry.get(field)
    if not isinstance(value, list):
        raise UnknownForm(f"field {field!r} of Slurm's answer is no list: {value!r:.60}")
    return value


def _hosts(entry: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = entry.get(field) or ""
    if not value:
        return ()
    if isinstance(value, Mapping):
        value = value.get("list") or value.get("hostlist") or ""
    try:
        return _expanded(",".join(value) if isinstance(value, list) else str(value))
    except (TypeError, ValueError) as error:
        raise UnknownForm(f"field {field!r} of Slurm's answer is no hostlist: {error}") from error


_expanded = lru_cache(maxsize=16_384)(hostlist.expand)
"""Jobs keep their nodes from one look to the next."""


def _text(value: object) -> str:
    if isinstance(value, Mapping):  # data_parser: {"administrator", "job", "system"}
        value = value.get("job")
    return str(value or "")


# --- lines of scontrol ---------------------------------------------------------------------------


def partition_line(line: str) -> Partition:
    """One line of `scontrol --oneliner show partition`. Raises UnknownForm."""
    pairs = _pairs(line)
    grace = pairs.get("GraceTime", "0")
    try:
        return Partition(
            name=pairs["PartitionName"],
            nodes=_hostlist(pairs.get("Nodes")),
            up=pairs.get("State", "UP") == "UP",
            priority_tier=int(pairs.get("PriorityTier", "1")),
            preempt_mode=pairs.get("PreemptMode", "OFF").upper(),
            grace_s=0.0 if grace in ("NONE", "INFINITE", "UNLIMITED") else float(grace),
            max_time_s=duration_s(pairs.get("MaxTime", "UNLIMITED")),
            default_time_s=duration_s(pairs.get("DefaultTime", "NONE")),
        )
    except (KeyError, ValueError) as error:
        raise UnknownForm(f"scontrol's line of a partition can't be read ({error}): {line[:80]!r}") from error


def reservation_line(line: str) -> Reservation:
    """One line of `scontrol --oneliner show reservation`. Raises UnknownForm."""
    pairs = _pairs(line)
    try:
        return Reservation(
            name=pairs["ReservationName"],
            nodes=_hostlist(pairs.get("Nodes")),
            start_time_s=_local_time_s(pairs["StartTime"]),
            end_time_s=_local_time_s(pairs["EndTime"]),
            flags=frozenset(flag for flag in pairs.get("Flags", "").upper().split(",") if flag),
        )
    except (KeyError, ValueError) as error:
        raise UnknownForm(f"scontrol's line of a reservation can't be read ({error}): {line[:80]!r}") from error


def _pairs(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _hostlist(text: str | None) -> tuple[str, ...]:
    return () if text in (None, "", "(null)") else hostlist.expand(text)


def _local_time_s(text: str) -> int:
    return int(time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")))


def duration_s(text: str) -> float | None:
    """Slurm's `days-hours:minutes:seconds` (each front part may be missing) in seconds; None: no limit.

    Raises:
        ValueError: not a duration of Slurm's.
    """
    if text.upper() in ("UNLIMITED", "INFINITE", "NONE", "PARTITION_LIMIT", "NOT_SET"):
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if len(parts) > 3:
        raise ValueError(f"{text!r} is not a duration")
    # without days one number is minutes and two are minutes:seconds; after "days-" one is hours, two are hours:minutes
    order = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    seconds = sum(part * unit for part, unit in zip(parts, order, strict=False))
    return float(seconds + (int(days) * 86_400 if dash else 0))
