"""The checker: reads event logs and says which promises were broken. One for tests, demonstrations and audits.

`python -m rfaas.control.invariants DIR`: exit code 0, or 1 with one paragraph a violation. Must not depend on how any
component works, only on what it logs. Spec: docs/spec/005-event-log.md.
"""

from __future__ import annotations

import gc
import json
import operator
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Event = dict[str, Any]

RECLAIM_BUDGET: Final = 10  # docs/spec/001-invocation.md section 5
REQUIRED: Final = frozenset({"t_boot_ns", "host", "pid", "role", "ev"})
SHOWN: Final = 6  # events printed with a violation
PENDING: Final = "was never resolved"
BILLING_SLACK_NS: Final = 50_000_000  # a busy machine writes the log so much later than it decides


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise.

    Attributes:
        invariant: I1, I2, I5, I6, I14, I15, I17, or log for a line that can't be read.
        text: what is wrong, for people.
        events: those that show it.
    """

    invariant: str
    text: str
    events: tuple[Event, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.invariant}: {self.text}", *(f"    {json.dumps(event)}" for event in self.events[:SHOWN])]
        if len(self.events) > SHOWN:
            lines.append(f"    ... and {len(self.events) - SHOWN} more")
        return "\n".join(lines)


def check_directory(directory: Path) -> list[Violation]:
    """Check every log of a directory."""
    broken: list[Violation] = []
    events = load(directory, broken)
    return broken + check(events)


def load(directory: Path, broken: list[Violation]) -> list[Event]:
    """All events of a directory's logs in the order of their times; unreadable lines go to `broken`."""
    events: list[Event] = []
    collects = gc.isenabled()
    gc.disable()  # a million dicts, no cycles: looking for some takes longer than all the rest
    try:
        for path in sorted(directory.glob("*.jsonl")):
            with path.open() as lines:
                for number, line in enumerate(lines, 1):
                    event = _parse(line)
                    if event is None:
                        broken.append(Violation("log", f"{path.name}:{number} is no event: {line[:200]!r}"))
                    else:
                        events.append(event)
    finally:
        if collects:
            gc.enable()
    events.sort(key=_time)  # stable: what one process wrote stays in its order
    return events


def _parse(line: str) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.keys() >= REQUIRED else None


_time: Final[Callable[[Event], int]] = operator.itemgetter("t_boot_ns")


def check(events: Iterable[Event]) -> list[Violation]:
    """Check events that are sorted by time, whatever made them."""
    by_kind: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_kind[event["ev"]].append(event)
    return [violation for one in CHECKS for violation in one(by_kind)]


# --- I1: a core belongs to one lease at a time ---------------------------------------------------


def cores_have_one_lease(by_kind: dict[str, list[Event]]) -> Iterator[Violation]:
    """I1: no core is held by two leases at once."""
    freed_ns = _first_free_ns(by_kind)
    begun_ns = {_agent(event): _time(event) for event in reversed(by_kind["epoch"]) if event.get("clean")}
    held: dict[tuple[str, int], Event] = {}
    for event in _first_acceptances(by_kind):
        for core in event["cores"]:
            before = held.get((event["slice"], core))
            end_ns = None if before is None else freed_ns.get(before["lease"])
            if before is not None and _agent(before) != _agent(event):
                end_ns = end_ns or begun_ns.get(_agent(event))
            if before is not None and (end_ns is None or end_ns > _time(event)):
                text = f"core {core} of slice {event['slice']} was given to a second lease while the first held it"
                yield Violation("I1", text, (before, event))
            held[event["slice"], core] = event


def _agent(event: Event) -> tuple[str, str, int]:
    """One agent process on one slice."""
    return event["slice"], event["host"], event["pid"]


# --- I2: memory is not given out twice -----------------------------------------------------------


def memory_is_not_overcommitted(by_kind: dict[str, list[Event]]) -> Iterator[Violation]:
    """I2: what is held of a slice's memory is at no time more than the slice has."""
    freed_ns = _first_free_ns(by_kind)
    begun_ns = {_agent(event): _time(event) for event in reversed(by_kind["epoch"]) if event.get("clean")}
    sizes = {event["slice"]: event["mem"] for event in by_kind["epoch"] if "mem" in event}
    held: dict[str, list[Event]] = defaultdict(list)
    for event in _first_acceptances(by_kind):
        size = sizes.get(event["slice"])
        if size is None:
            continue
        living = [event]
        for before in held[event["slice"]]:
            end_ns = freed_ns.get(before["lease"])
            if _agent(before) != _agent(event):
                end_ns = end_ns or begun_ns.get(_agent(event))
            if end_ns is None or end_ns > _time(event):
                living.append(before)
        total = sum(one["mem"] for one in living)
        if total > size:
            yield Violation("I2", f"{total} bytes of slice {event['slice']} were held, it has {size}", tuple(living))
        held[event["slice"]] = living


def _first_free_ns(by_kind: dict[str, list[Event]]) -> dict[str, int]:
    freed_ns: dict[str, int] = {}
    for event in by_kind["free"]:
        freed_ns.setdefault(event["lease"], _time(event))
    return freed_ns


def _first_acceptances(by_kind: dict[str, list[Event]]) -> Iterator[Event]:
    told: set[str] = set()
    for event in by_kind["grant_accepted"]:
        if event["role"] == "agent" and event["lease"] not in told:
            told.add(event["lease"])
            yield event


# --- I15: what is billed is what was held --------------------------------------------------------


def what_is_billed_was_held(by_kind: dict[str, list[Event]]) -> Iterator[Violation]:
    """I15: billed core-seconds are those from the agent's acceptance to its proof of death, within 1 %."""
    accepted = {event["lease"]: event for event in _first_acceptances(by_kind)}
    freed = {event["lease"]: event for event in reversed(by_kind["free"]) if event["role"] == "agent"}
    for bill in by_kind["free"]:
        begin, end = accepted.get(bill["lease"]), freed.get(bill["lease"])
        if "billed_core_ns" not in bill or begin is None or end is None:
            continue
        n_cores = len(begin["cores"])
        held_ns = (_time(end) - _time(begin)) * n_cores
        if abs(bill["billed_core_ns"] - held_ns) > held_ns / 100 + BILLING_SLACK_NS * n_cores:
            text = f"lease {bill['lease']} held {held_ns} core-ns and was billed {bill['billed_core_ns']}"
            yield Violation("I15", text, (begin, end, bill))


# --- I5: every call resolves exactly once --------------------------------------------------------


def calls_resolve_once(by_kind: dict[str, list[Event]]) -> Iterator[Violation]:
    """I5: each submitted call has one end, unless its client was killed."""
    killed = {event.get("target_pid") for event in by_kind["fault_start"]}
    ends = _by_call(by_kind["resolved"])
    submitted = _by_call(by_kind["submit"])
    for call, begins in submitted.items():
        if len(begins) > 1:
            yield Violation("I5", f"{_name(call)} was submitted {len(begins)} times", tuple(begins))
        ended = ends.get(call, [])
        if not ended and begins[0]["pid"] not in killed:
            yield Violation("I5", f"{_name(call)} {PENDING}", tuple(begins))
        elif len(ended) > 1:
            yield Violation("I5", f"{_name(call)} was resolved {len(ended)} times", tuple(ended))
    for call in ends.keys() - submitted.keys():
        yield Violation("I5", f"{_name(call)} was resolved but never submitted", tuple(ends[call]))


Call = tuple[str, int]


def _by_call(events: list[Event]) -> dict[Call, list[Event]]:
    found: dict[Call, list[Event]] = {}
    for event in events:
        found.setdefault((event["client"], event["inv"]), []).append(event)
    return found


def _name(call: Call) -> str:
    return f"call {call[1]} of client {call[0]}"


# --- I6: nothing runs more often than it may -----------------------------------------------------


def calls_run_no_more_than_allowed(by_kind: dict[str, list[Event]]) -> Iterator[Violation]:
    """I6: executions stay within what the call allows, and there is none of a call said not to have started."""
    worked, witnessed = _executions(by_kind)
    submitted = _by_call(by_kind["submit"])
    ends = _by_call(by_kind["resolved"])
    for call in worked.keys() | witnessed.keys():
        runs = max(worked.get(call, []), witnessed.get(call, []), key=len)
        settings = submitted[call][0] if call in submitted else {}
        allowed = 1 + settings.get("retries", 0) + RECLAIM_BUDGET if settings.get("idempotent") else 1
        if len(runs) > allowed:
            yield Violation("I6", f"{_name(call)} ran {len(runs)} times, {allowed} are allowed", tuple(runs))
        for end in ends.get(call, []):
            if end["outcome"] != "result" and not end["may_have_run"]:
                text = f"{_name(call)} is said not to have started ({end['outcome']}), but it has"
                yield Violation("I6", text, (end, *runs))


def _executions(by_kind: dict[str, list[Event]]) -> tuple[dict[Call, list[Event]], dict[Call, list[Event]]]:
    """The starts of each call, as workers saw them and as the functions' own witness did."""
    dispatched = {(event["client"], event["channel"], event["call_id"]): event["inv"] for event in by_kind["sent"]}
    worked: dict[Call, list[Event]] = defaultdict(list)
    witnessed: dict[Call, list[Event]] = defaultdict(list)
    for event in by_kind["started"]:
        if "inv" in event:
            witnessed[event["client"], event["inv"]].append(event)
            continue
        inv = dispatched.get((event["client"], event["channel"], event["call_id"]))
        if inv is not None:  # else its client writes no log
            worked[event["client"], inv].append(event)
    return worked, witnessed


# --- I14: numbers never decrease -----------------------------------------------------------------


def numbers_never_decrease(by_kind: dict[str, list[Event]]) -> Iterator[Violation]:
    """I14: epochs and sequence numbers rise, across any crash."""
    by_allocator = [event for event in by_kind["restart"] if event["role"] == "allocator"]
    yield from _rising(by_allocator, "alloc_epoch", lambda event: event["alloc"], again=False)
    yield from _rising(by_kind["grant_proposed"], "lease_seq", lambda event: event["alloc"], again=False)
    given = [event for event in by_kind["epoch"] if event["role"] == "allocator"]
    taken = [event for event in by_kind["epoch"] if event["role"] == "agent"]
    yield from _rising(given, "node_epoch", lambda event: (event["alloc"], event["slice"]), again=False)
    yield from _rising(taken, "node_epoch", lambda event: event["slice"], again=True)
    accepted = [event for event in by_kind["grant_accepted"] if event["role"] == "agent"]
    yield from _rising(accepted, "node_epoch", lambda event: event["slice"], again=True)
    yield from _used_once(by_kind["grant_proposed"])


def _rising(events: list[Event], name: str, scope: Callable[[Event], Any], *, again: bool) -> Iterator[Violation]:
    """Every number is higher than the one before it in its scope, or as high if it may come `again`."""
    last: dict[Any, Event] = {}
    for event in events:
        before = last.get(scope(event))
        if before is not None and (event[name] < before[name] or (event[name] == before[name] and not again)):
            yield Violation("I14", f"{name} went from {before[name]} to {event[name]}", (before, event))
        last[scope(event)] = event


def _used_once(proposals: list[Event]) -> Iterator[Violation]:
    first: dict[tuple[str, int], Event] = {}
    for event in proposals:
        before = first.setdefault((event["alloc"], event["lease_seq"]), event)
        if before["lease"] != event["lease"]:
            yield Violation("I14", f"lease_seq {event['lease_seq']} was used for two leases", (before, event))


# --- I17: nothing is freed without proof of death ------------------------------------------------


def nothing_is_freed_without_proof(by_kind: dict[str, list[Event]]) -> Iterator[Violation]:
    """I17: the proof comes before the freedom, and it holds."""
    accepted = {event["lease"] for event in by_kind["grant_accepted"] if event["role"] == "agent"}
    proof: dict[str, Event] = {}
    for event in by_kind["proof_of_death"]:
        proof.setdefault(event["lease"], event)
    for event in by_kind["free"]:
        shown = proof.get(event["lease"])
        if event["lease"] in accepted and (shown is None or _time(shown) > _time(event)):
            text = f"lease {event['lease']} was freed without proof of death"
            yield Violation("I17", text, (event,) if shown is None else (event, shown))
    for event in by_kind["started"]:
        shown = proof.get(event.get("lease", ""))
        if shown is not None and _time(event) > _time(shown):
            text = f"a call started on lease {event['lease']} after its workers were proven dead"
            yield Violation("I17", text, (shown, event))


CHECKS: Final = (
    cores_have_one_lease,
    memory_is_not_overcommitted,
    what_is_billed_was_held,
    calls_resolve_once,
    calls_run_no_more_than_allowed,
    numbers_never_decrease,
    nothing_is_freed_without_proof,
)


def main(arguments: list[str]) -> int:
    """Check the directories named on the command line; 0 if all promises were kept, 1 if not, 2 for wrong usage."""
    directories = [Path(argument) for argument in arguments]
    if not directories or not all(directory.is_dir() for directory in directories):
        print("usage: python -m rfaas.control.invariants DIR...", file=sys.stderr)
        return 2
    status = 0
    for directory in directories:
        broken: list[Violation] = []
        events = load(directory, broken)
        broken += check(events)
        for violation in broken:
            print(violation)
        print(f"{directory}: {len(events)} events, {len(broken)} violations")
        status = 1 if broken else status
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
