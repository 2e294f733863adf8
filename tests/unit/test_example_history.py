"""The event log becomes the right leases, marks and rows."""

import json

import pytest

from history import read, spans
from occupancy import Call, Event, EventKind, Kind, Lifetime, Span


@pytest.fixture
def log(tmp_path):
    """Write events (time in s, role, host, pid, event, fields), each process to its file; returns the folder."""

    def write(*events):
        for t_s, role, host, pid, event, fields in events:
            line = {"t_boot_ns": round(t_s * 1e9), "host": host, "pid": pid, "role": role, "ev": event, **fields}
            with (tmp_path / f"{role}-{host}-{pid}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        return tmp_path

    return write


def accepted(t_s, host, lease, cores):
    return (t_s, "agent", host, 1, "grant_accepted", {"lease": lease, "cores": cores})


def sent(t_s, inv, lease):
    return (t_s, "client", "login", 5, "sent", {"client": "c", "inv": inv, "lease": lease})


def started(t_s, host, pid, lease):
    return (t_s, "worker", host, pid, "started", {"lease": lease})


def test_a_lease_is_lent_from_acceptance_to_its_drain_and_drains_until_it_is_free(log):
    folder = log(
        accepted(10.0, "a", "L", [0, 1]),
        (20.0, "agent", "a", 1, "reclaim_sig", {"grace_s": 5.0}),
        (20.0, "agent", "a", 1, "drain", {"lease": "L"}),
        (20.5, "agent", "a", 1, "free", {"lease": "L"}),
    )
    history = read(folder, until_s=30.0)
    assert history.events == [Event(20.0, EventKind.NOTICE, "a", "reclaim notice, 5 s of grace")]
    assert spans(history, [], [], {"a": 2}) == [
        Span("a", 0, 10.0, 20.0, Kind.IDLE),
        Span("a", 0, 20.0, 20.5, Kind.DRAIN),
        Span("a", 1, 10.0, 20.0, Kind.IDLE),
        Span("a", 1, 20.0, 20.5, Kind.DRAIN),
    ]


def test_a_lease_that_never_drained_shows_no_drain(log):
    folder = log(accepted(10.0, "a", "L", [0]), (12.0, "agent", "a", 1, "free", {"lease": "L"}))
    assert spans(read(folder, 30.0), [], [], {"a": 1}) == [Span("a", 0, 10.0, 12.0, Kind.IDLE)]


def test_what_is_later_is_left_out_and_open_leases_end_there(log):
    folder = log(
        accepted(10.0, "a", "L", [0]),
        accepted(31.0, "a", "M", [0]),
        (40.0, "agent", "a", 1, "reclaim_sig", {"grace_s": 5.0}),
    )
    history = read(folder, until_s=30.0)
    assert spans(history, [], [], {"a": 1}) == [Span("a", 0, 10.0, 30.0, Kind.IDLE)]
    assert history.events == []


def test_a_call_sent_again_is_marked_on_the_node_that_lost_it(log):
    folder = log(
        accepted(10.0, "a", "L", [0]),
        accepted(10.0, "b", "M", [0]),
        sent(11.0, inv=1, lease="L"),
        sent(11.0, inv=2, lease="M"),
        sent(12.0, inv=1, lease="M"),
    )
    history = read(folder, until_s=30.0)
    assert history.events == [Event(12.0, EventKind.REDISPATCH, "a")]
    assert history.count(EventKind.REDISPATCH) == 1
    assert history.count(EventKind.NOTICE) == 0


def test_calls_lie_on_a_row_of_their_own_lease_and_ranks_beside_them(log):
    folder = log(
        accepted(10.0, "a", "L", [0]),
        accepted(10.1, "a", "M", [0]),
        started(11.0, "a", 100, "M"),
        started(11.0, "a", 200, "L"),
        started(15.0, "a", 300, "M"),
    )
    calls = [
        Call("x", "a", 100, 11.0, 14.0),
        Call("y", "a", 200, 11.0, 14.0),
        Call("z", "a", 300, 15.0, 16.0),  # took the place of 100
    ]
    found = spans(read(folder, 30.0), calls, [Lifetime("a", ("rank", 0), 12.0, 20.0)], {"a": 3})
    rows = {span.label: span.core for span in found if span.kind in (Kind.CALL, Kind.RIGID)}
    assert rows == {"y": 0, "x": 1, "z": 1, "rigid job": 2}
