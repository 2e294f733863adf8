"""What a snapshot or an event log says of waiting requests, leases, nodes and calls, in sentences with remedies.

No I/O but reading an event log: everything here can be tried on a made-up snapshot.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rfaas.control.messages import MEMORY, HeldLease, SliceView, Snapshot, Waiting, Want

MIB = 1 << 20
STATES = {
    "REQUESTED": "the agent was asked and has not answered yet",
    "GRANTED": "the cores are held, the holder has not come yet",
    "ACTIVE": "its workers serve",
    "DRAINING": "it goes back: running calls may end, none begins",
    "FENCED": "nothing starts any more; the death of its workers is being proved",
}
"""What each state of a lease means (docs/spec/002-lease.md)."""

SERVING = ("GRANTED", "ACTIVE")
"""States in which a lease counts towards what its holder wants."""

MEMORY_STATES = {
    **STATES,
    "GRANTED": "the memory is held, the holder has not come yet",
    "ACTIVE": "its memory server serves",
    "DRAINING": "it goes back: it can be read and written until the grace is over",
    "FENCED": "the end of its memory server is being proved",
}
"""The same of a lease of memory (docs/spec/008-memory.md)."""


class Reason(NamedTuple):
    """A sentence that explains, and what would help; empty if nothing needs help."""

    text: str
    remedy: str


def of_waiting(snapshot: Snapshot) -> list[Reason]:
    """What waits and why; if nothing does, what runs."""
    wants = {(want.holder, want.request): want for want in snapshot.wants}
    found = []
    for waiting in snapshot.waiting:
        want = wants.get((waiting.holder, waiting.request))
        found.append(_of_want(snapshot, waiting, want) if want else Reason(waiting.reason, ""))
    if snapshot.counters.get("storage_full") and not found:
        found = [Reason("no new leases: the allocator's disk is full", "make room on the disk of the state directory")]
    return found or [_nothing_waits(snapshot)]


def _nothing_waits(snapshot: Snapshot) -> Reason:
    leases = [lease for view in snapshot.slices for lease in view.leases]
    if leases:
        states = ", ".join(f"{n} {state}" for state, n in Counter(lease.state for lease in leases).items())
        return Reason(f"nothing waits: {len(leases)} leases ({states})", "")
    up = sum(view.free_cores for view in snapshot.slices if view.state == "up")
    return Reason(
        f"no program asks for workers; {up} cores are free",
        "an executor asks with its first call; `RFAAS_ALLOCATOR`, or `rfaas config show`, says whom a program asks",
    )


def of_wants(snapshot: Snapshot) -> list[Reason]:
    """What each program wants, and what it has of it; regions of memory apart."""
    had = Counter[tuple[bytes, int]]()
    for view in snapshot.slices:
        for lease in view.leases:
            if lease.state in SERVING:
                had[lease.terms.holder, lease.terms.request] += lease.terms.workers
    wants = [want for want in snapshot.wants if want.kind != MEMORY]
    return [Reason(_wanted(want, had[want.holder, want.request]), "") for want in wants]


def _wanted(want: Want, has: int) -> str:
    parts = f", in leases of at most {want.lease_workers}" if want.lease_workers else ""
    return f"program {want.holder.hex()[:8]} wants {want.workers} workers{parts}, and has {has}"


def missing(snapshot: Snapshot, waiting: Waiting) -> str:
    """What a request waits for, in words."""
    for want in snapshot.wants:
        if (want.holder, want.request, want.kind) == (waiting.holder, waiting.request, MEMORY):
            return f"{want.memory_bytes_per_worker // MIB} MiB of memory"
    return f"{waiting.missing} workers"


def _of_want(snapshot: Snapshot, waiting: Waiting, want: Want) -> Reason:
    if want.kind == MEMORY:
        who = f"program {want.holder.hex()[:8]} waits for {missing(snapshot, waiting)} (RemoteMemory)"
        return Reason(f"{who}: {waiting.reason}", _remedy(snapshot, want, waiting))
    each = f"{want.cores_per_worker} cores and {want.memory_bytes_per_worker // MIB} MiB each"
    who = f"program {want.holder.hex()[:8]} waits for {waiting.missing} of {want.workers} workers ({each})"
    return Reason(f"{who}: {waiting.reason}", _remedy(snapshot, want, waiting))


def _remedy(snapshot: Snapshot, want: Want, waiting: Waiting) -> str:
    if waiting.code == "storage":
        return "make room on the disk of the state directory; the allocator goes on by itself"
    if waiting.code == "neighbours":
        return "it is tried again later; `rfaas explain NODE` says what was measured (settings guard.*)"
    if waiting.code == "quota":
        return "wait for leases of the same user to end, or see to policy.quota, which the allocator's owner sets"
    views = snapshot.slices
    if not views:
        return "wait for harvest jobs to start, or offer cores: rfaas up"
    fitting = [view for view in views if _fits(view, want)]
    if not fitting:
        largest = max(views, key=lambda view: (view.slice.cores, view.slice.memory_bytes)).slice
        size = f"{largest.cores} cores, {largest.memory_bytes // MIB} MiB"
        if want.kind == MEMORY:
            most = max(view.slice.memory_bytes for view in views) // MIB
            return f"ask for less by RemoteMemory(size), or for several: the largest slice has {most} MiB"
        return f"ask for less a worker (executor.cores, executor.memory): the largest slice has {size}"
    if all(view.state == "unreachable" for view in fitting):
        return "their agents are silent: rfaas logs, and squeue --me where they are Slurm jobs"
    if all(view.state == "draining" for view in fitting):
        return "new ones are harvested when their owners are done"
    holders = Counter(lease.terms.holder.hex()[:8] for view in views for lease in view.leases)
    own = holders.pop(want.holder.hex()[:8], 0)
    shares = ", ".join(f"{n} by program {holder}" for holder, n in holders.most_common(5))
    held = f"{own} leases are its own" + (f", {shares}" if shares else "")
    what = "memory comes" if waiting.code == "memory" else "cores come"
    return f"{what} free when programs end or shut down their executors: {held}"


def _fits(view: SliceView, want: Want) -> bool:
    return view.slice.cores >= want.cores_per_worker and view.slice.memory_bytes >= want.memory_bytes_per_worker


def of_lease(snapshot: Snapshot, prefix: str) -> list[Reason]:
    """The leases whose id begins with these digits."""
    pairs = [(v, lease) for v in snapshot.slices for lease in v.leases if lease.terms.lease_id.hex().startswith(prefix)]
    return [_of_lease(view, lease) for view, lease in pairs]


def _of_lease(view: SliceView, lease: HeldLease) -> Reason:
    terms = lease.terms
    cores = ",".join(str(core) for core in lease.core_ids) or "none yet"
    is_memory = terms.kind == MEMORY
    has = f"{terms.memory_bytes // MIB} MiB of memory" if is_memory else f"{terms.workers} workers, cores {cores}"
    state = (MEMORY_STATES if is_memory else STATES).get(lease.state, "a state that this version does not know")
    text = (
        f"lease {terms.lease_id.hex()[:8]} of program {terms.holder.hex()[:8]} on {view.slice.node} is {lease.state}: "
        f"{state}; {has}"
    )
    if view.state == "unreachable":
        return Reason(f"{text}; its agent is silent", "it stands until the agent or Slurm says more: squeue --me")
    if view.state == "draining":
        return Reason(f"{text}; the slice goes back to its owner", "")
    if lease.state == "GRANTED":
        return Reason(
            text, f"if it stays so, the program is gone: the lease ends {terms.ttl_s:g} s after its last word"
        )
    return Reason(f"{text}; {_spawned(lease.spawned)}", _DONT_SPAWN) if lease.spawned else Reason(text, "")


def of_channels(channels: Iterable[dict[str, Any]], *, lease: str = "", node: str = "") -> list[Reason]:
    """What calls of programs on this host go over, and why: of a lease (by its first digits), of a node, or of all.

    Args:
        channels: as `rfaas.cli.asking.channels` gives them.
    """
    ways = Counter(
        (str(one["node"]), str(one["medium"]), str(one["why"]))
        for one in channels
        if bytes(one["lease"]).hex().startswith(lease) and (not node or one["node"] == node)
    )
    return [
        Reason(f"calls from here to {n} worker{'s' if n > 1 else ''} on {there} go over {medium}: {why}", "")
        for (there, medium, why), n in sorted(ways.items())
    ]


def of_spawned(snapshot: Snapshot) -> list[Reason]:
    """Where workers are interpreters of their own, since their template can't fork, and why; one for each cause."""
    leases: dict[tuple[str, str], list[str]] = {}
    for view in snapshot.slices:
        for lease in view.leases:
            if lease.spawned:
                leases.setdefault((view.slice.node, lease.spawned), []).append(lease.terms.lease_id.hex()[:8])
    return [
        Reason(f"{node}: {_spawned(why)} (leases {', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})", _DONT_SPAWN)
        for (node, why), ids in leases.items()
    ]


def _spawned(why: str) -> str:
    return f"workers are spawned, not forked, which takes longer and more memory: {why}"


_DONT_SPAWN = "start threads when a function needs them, not at import"


def of_node(snapshot: Snapshot, node: str) -> list[Reason]:
    """The slices of a node and their leases."""
    views = [view for view in snapshot.slices if view.slice.node == node]
    if not views:
        return [Reason(f"no slice is on {node}", "")]
    return [reason for view in views for reason in _of_slice(view)]


def _of_slice(view: SliceView) -> Iterator[Reason]:
    what = view.slice
    source = f"job {what.job_id}" if what.job_id else "this host"
    meaning = {"up": "", "draining": ": it goes back to its owner", "unreachable": ": its agent is silent"}[view.state]
    yield Reason(
        f"a slice on {what.node} ({source}) is {view.state}{meaning}; {view.free_cores} of {what.cores} cores and "
        f"{view.free_memory_bytes // MIB} of {what.memory_bytes // MIB} MiB are free",
        "see squeue --me and rfaas logs" if view.state == "unreachable" else "",
    )
    yield from _of_neighbours(view)
    for lease in view.leases:
        yield _of_lease(view, lease)


def _of_neighbours(view: SliceView) -> Iterator[Reason]:
    """What the slice's guard says of the job beside it."""
    about = view.neighbours
    if not about.verdict:
        return
    measured = f" (by {about.watch.split(' ')[0] if about.watch.startswith('marks') else about.watch})"
    text = f"neighbours: {about.words}{measured if about.watch else ''}"
    if about.closed_for_s > 0:
        text += f"; workers come back in {about.closed_for_s:.0f} s at the earliest"
    unseen = not about.host and about.verdict == "watch"
    yield Reason(text, "a job is watched best if it marks its iterations: docs/neighbours.md" if unseen else "")


# --- calls --------------------------------------------------------------------------------------------------------


def of_call(directory: Path, client: str, number: int, snapshot: Snapshot | None = None) -> list[Reason]:
    """What the event log says of one call, in order of time; [] if it says nothing.

    `client`: first digits of the client's id; `number`: of the call, from 1; `snapshot`: of an allocator, which may
    know of its lease what no agent has logged. Source: docs/spec/005-event-log.md.
    """
    events = sorted(_events(directory, client, number), key=lambda event: int(event["t_boot_ns"]))
    if not events:
        return []
    first_ns = int(events[0]["t_boot_ns"])
    said = [Reason(f"{(int(e['t_boot_ns']) - first_ns) / 1e9:10.6f} s  {_words(e)}", "") for e in events]
    leases = {event["lease"] for event in events if event["ev"] == "sent"}
    spawned = _of_spawned_workers(directory, leases, snapshot or Snapshot(0))
    if events[-1]["ev"] == "resolved":
        return said + spawned
    last = (
        "it waits for a free worker"
        if events[-1]["ev"] in ("submit",)
        else "it is under way, or its program was killed"
    )
    return [
        *said,
        *spawned,
        Reason(last, "rfaas explain says what waits for workers" if events[-1]["ev"] == "submit" else ""),
    ]


def _events(directory: Path, client: str, number: int) -> Iterator[dict[str, Any]]:
    workers: list[dict[str, Any]] = []
    calls: set[tuple[str, int, int]] = set()
    for event in _lines(directory, "*"):
        if not str(event.get("client", "")).startswith(client):
            continue
        if event.get("inv") == number:
            if event["ev"] == "sent":
                calls.add((event["client"], event["channel"], event["call_id"]))
            yield event
        elif event.get("role") == "worker":
            workers.append(event)
    yield from (event for event in workers if (event["client"], event["channel"], event["call_id"]) in calls)


def _of_spawned_workers(directory: Path, leases: set[str], snapshot: Snapshot) -> list[Reason]:
    """Which of these leases had workers that were spawned, as their agents logged it or told the allocator."""
    told = {
        (view.slice.node, lease.terms.lease_id.hex()): lease.spawned
        for view in snapshot.slices
        for lease in view.leases
        if lease.terms.lease_id.hex() in leases and lease.spawned
    }
    why = told | {
        (event["node"], event["lease"]): event["why"]
        for event in _lines(directory, "agent-*")
        if event["ev"] == "spawned" and event["lease"] in leases and event["why"]
    }
    return [
        Reason(f"lease {lease[:8]} on {node}: {_spawned(cause)}", _DONT_SPAWN) for (node, lease), cause in why.items()
    ]


def _lines(directory: Path, names: str) -> Iterator[dict[str, Any]]:
    for path in sorted(directory.glob(f"{names}.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a killed process
                yield json.loads(line)


def _words(event: dict[str, Any]) -> str:
    match event["ev"]:
        case "submit":
            more = f", idempotent, {event['retries']} retries" if event.get("idempotent") else ""
            return f"submitted by pid {event['pid']} on {event['host']}{more}"
        case "sent":
            return f"sent, attempt {event['attempt'] + 1}, lease {str(event['lease'])[:8]}"
        case "started" | "done":
            return f"{event['ev']} in worker pid {event['pid']} on {event['host']}"
        case "resolved":
            code = f" {event['code']}" if event.get("code") else ""
            ran = "; it may have run" if event["outcome"] == "error" and event.get("may_have_run") else ""
            return f"resolved: {event['outcome']}{code}{ran}"
    return str(event["ev"])
