"""What rfaas says it did, read from its event log: which cores were lent when, notices, re-dispatched calls.

With RFAAS_EVENT_LOG set to a folder, every process of rfaas writes there (docs/spec/005-event-log.md). Example 05
joins that with what calls and ranks measured themselves. Nothing here knows anything but the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from occupancy import Call, Event, EventKind, Kind, Lifetime, Span, assign_cores


@dataclass(slots=True)
class Lease:
    """Cores of a node, lent from t0_s until they were free again at t1_s; asked back at drain_s."""

    node: str
    n_cores: int
    t0_s: float
    t1_s: float
    drain_s: float


@dataclass(slots=True)
class History:
    """What the log tells, up to a moment."""

    leases: dict[str, Lease] = field(default_factory=dict)
    lease_of_worker: dict[tuple[str, int], str] = field(default_factory=dict)  # (node, pid) to lease
    events: list[Event] = field(default_factory=list)

    def count(self, kind: EventKind) -> int:
        """How many events of a kind there were."""
        return sum(event.kind is kind for event in self.events)


def read(folder: Path, until_s: float) -> History:
    """Read the log of a folder; what is later than `until_s` (CLOCK_BOOTTIME) is left out, open leases end there."""
    lines = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    history = History()
    last_sent: dict[tuple[str, int], str] = {}  # (client, call) to lease
    for line in sorted(lines, key=itemgetter("t_boot_ns")):
        t_s = line["t_boot_ns"] / 1e9
        if t_s > until_s:
            break
        match line["role"], line["ev"]:
            case "agent", "grant_accepted":
                history.leases[line["lease"]] = Lease(line["host"], len(line["cores"]), t_s, until_s, until_s)
            case "agent", "drain":
                history.leases[line["lease"]].drain_s = t_s
            case "agent", "free":
                lease = history.leases[line["lease"]]
                lease.t1_s, lease.drain_s = t_s, min(lease.drain_s, t_s)
            case "agent", "reclaim_sig":
                label = f"reclaim notice, {line['grace_s']:g} s of grace"
                history.events.append(Event(t_s, EventKind.NOTICE, line["host"], label))
            case "worker", "started":
                history.lease_of_worker[line["host"], line["pid"]] = line["lease"]
            case "client", "sent":
                history.events += _again(line, t_s, last_sent, history.leases)
    return history


def _again(
    line: Mapping[str, Any], t_s: float, last_sent: dict[tuple[str, int], str], leases: Mapping[str, Lease]
) -> Iterable[Event]:
    """A call sent a second time went back from where it was sent first."""
    before = last_sent.get((line["client"], line["inv"]))
    last_sent[line["client"], line["inv"]] = line["lease"]
    if before is not None:
        yield Event(t_s, EventKind.REDISPATCH, leases[before].node if before in leases else None)


def spans(
    history: History, calls: Sequence[Call], ranks: Sequence[Lifetime], cores_per_node: Mapping[str, int]
) -> list[Span]:
    """Everything on the cores of its node: ranks of the rigid job, leases, and calls within the lease of their worker.

    Workers and ranks are not pinned, so a core here is a row that nothing else occupies at the time.
    """
    lent = {
        (name, i): Lifetime(lease.node, (name, i), lease.t0_s, lease.t1_s)
        for name, lease in history.leases.items()
        for i in range(lease.n_cores)
    }
    core = assign_cores([*lent.values(), *ranks], cores_per_node)
    place = _places(history, calls)
    found = [Span(r.node, core[r.node, r.who], r.t0_s, r.t1_s, Kind.RIGID, "rigid job") for r in ranks]
    for (name, _), life in lent.items():
        row, drain_s = core[life.node, life.who], history.leases[name].drain_s
        found.append(Span(life.node, row, life.t0_s, drain_s, Kind.IDLE))
        if drain_s < life.t1_s:
            found.append(Span(life.node, row, drain_s, life.t1_s, Kind.DRAIN))
    for call in calls:
        row = core[call.node, place[call.node, call.pid]]
        found.append(Span(call.node, row, call.t0_s, call.t1_s, Kind.CALL, call.what))
    return found


def _places(history: History, calls: Sequence[Call]) -> dict[tuple[str, int], tuple[str, int]]:
    """(node, pid) of each worker to (lease, which of its cores): one that follows a dead one takes its place."""
    seen: dict[tuple[str, int], tuple[float, float]] = {}
    for call in calls:
        t0_s, t1_s = seen.get((call.node, call.pid), (call.t0_s, call.t1_s))
        seen[call.node, call.pid] = min(t0_s, call.t0_s), max(t1_s, call.t1_s)
    lease_of = history.lease_of_worker
    # A lease is to its workers what a node is to its processes: so many places.
    lives = [Lifetime(lease_of[worker], worker, *times) for worker, times in seen.items()]
    numbers = assign_cores(lives, {name: lease.n_cores for name, lease in history.leases.items()})
    return {worker: (lease_of[worker], numbers[lease_of[worker], worker]) for worker in seen}
