"""The lease table: equal to the spec's, total, and with one captive end."""

from pathlib import Path

import pytest

from rfaas.control.lease import HELD, TRANSITIONS, IllegalTransition, Lease, LeaseEvent, LeaseState

SPEC = Path(__file__).parents[3] / "docs" / "spec" / "002-lease.md"
PAIRS = [(state, event) for state in LeaseState for event in LeaseEvent]
REFUSED = "\u2013"  # an en dash


def table_of_the_spec():
    """The transition table of 002 section 2 as {(state, event): cell}."""
    lines = SPEC.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| from \\ event"))
    events = [cell.strip() for cell in lines[start].strip("|").split("|")][1:]
    table = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        state, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        table.update({(state, event): cell for event, cell in zip(events, cells, strict=True)})
    return table


def lease_in(state):
    """A lease brought into `state` by events alone."""
    paths = {
        LeaseState.REQUESTED: [],
        LeaseState.GRANTED: ["ACCEPT"],
        LeaseState.ACTIVE: ["ACCEPT", "ATTACH"],
        LeaseState.DRAINING: ["ACCEPT", "ATTACH", "RECLAIM"],
        LeaseState.FENCED: ["ACCEPT", "ATTACH", "RECLAIM", "DRAINED"],
        LeaseState.FREE: ["ACCEPT", "ATTACH", "RECLAIM", "DRAINED", "PROVEN_DEAD"],
    }
    lease = Lease()
    for name in paths[state]:
        lease.step(LeaseEvent(name))
    assert lease.state is state
    return lease


def test_the_spec_names_every_state_and_event_and_no_other():
    table = table_of_the_spec()
    assert set(table) == {(state.value, event.value) for state, event in PAIRS}


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_the_code_does_what_the_table_in_the_spec_says(state, event):
    cell = table_of_the_spec()[state.value, event.value]
    lease = lease_in(state)
    reason_before = lease.reason
    if cell == REFUSED:
        with pytest.raises(IllegalTransition):
            lease.step(event)
        assert (lease.state, lease.reason) == (state, reason_before)
        return
    target, _, rest = cell.partition("(")
    assert lease.step(event).value == target
    named = rest.rstrip(")")
    if named == "first reason":
        assert lease.reason == reason_before == "reclaimed"
    elif named:
        assert lease.reason == named


@pytest.mark.parametrize("start", LeaseState)
def test_the_captive_state_is_reachable_from_every_state(start):
    seen, todo = set(), {start}
    while todo:
        state = todo.pop()
        seen.add(state)
        todo |= set(TRANSITIONS[state].values()) - seen
    assert LeaseState.FREE in seen


def test_free_is_never_left():
    assert set(TRANSITIONS[LeaseState.FREE].values()) == {LeaseState.FREE}


def test_what_is_held_becomes_free_only_by_proof_of_death():
    ways = {event for state in HELD for event, target in TRANSITIONS[state].items() if target is LeaseState.FREE}
    assert ways == {LeaseEvent.PROVEN_DEAD}


def test_the_first_reason_stays():
    lease = lease_in(LeaseState.ACTIVE)
    lease.step(LeaseEvent.RECLAIM, reason_code=1)
    lease.step(LeaseEvent.RELEASE, reason_code=6)
    lease.step(LeaseEvent.PROVEN_DEAD)
    assert (lease.state, lease.reason, lease.reason_code) == (LeaseState.FREE, "reclaimed", 1)


def test_an_event_that_is_no_reason_leaves_room_for_the_first_reason():
    lease = lease_in(LeaseState.GRANTED)
    lease.step(LeaseEvent.ATTACH, reason_code=5)
    assert (lease.reason, lease.reason_code) == ("", 0)
    lease.step(LeaseEvent.EXPIRE, reason_code=7)
    assert (lease.reason, lease.reason_code) == ("expired", 7)


@pytest.mark.parametrize("event", [LeaseEvent.RELEASE, LeaseEvent.LOST, LeaseEvent.PROVEN_DEAD])
def test_a_freed_lease_keeps_its_reason(event):
    lease = lease_in(LeaseState.FREE)
    lease.step(event, reason_code=9)
    assert (lease.state, lease.reason, lease.reason_code) == (LeaseState.FREE, "reclaimed", 0)


def test_a_restored_lease_goes_on_where_it_was():
    lease = Lease(LeaseState.GRANTED)
    assert lease.held
    lease.step(LeaseEvent.ATTACH)
    assert lease.state is LeaseState.ACTIVE
