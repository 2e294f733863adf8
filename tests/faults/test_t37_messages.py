"""T37: messages that come twice have one effect; many calls on one connection never meet each other's answers.

The RPCs of the allocator have their own part of T37; here are the session connection (004 section 2), each message
that its table lists, and the data channel (001).
"""

import re
from pathlib import Path

import pytest
from unit.executors.agent_model import Shell

import rfaas
from rfaas.session.events import DataUp, DialData, ToAgent, ToAllocator, ToClient
from rfaas_executors import agent_events as on
from support import functions as f
from support.session import TTL_S, Harness, lease

TIMEOUT_S = 120
N_CALLS = 66_000  # more than 16 bits
FACTS = {"exit_status": None, "signal": 9, "grace_s": None, "hint": ""}
SPEC = Path(__file__).parents[2] / "docs" / "spec" / "004-session.md"


def table(sender):
    """The messages that one side of the session connection sends, as the specification lists them."""
    section = SPEC.read_text().split("## 2. Session connection")[1].split("## 3.")[0]
    return set(re.findall(rf"^\| {sender} \| ([a-z-]+) \|", section, re.MULTILINE))


# --- what agents say, twice ---------------------------------------------------------------------------

AGENT_SAYS = {
    "attached": {"cores": [0], "expires_in_s": TTL_S},
    "refused": {"code": "not-found", "hint": ""},
    "worker-up": {"slot": 0, "generation": 1, "pid": 9},
    "worker-down": {"slot": 0, "generation": 1, "reason_code": 14, **FACTS},
    "farewell": {"slot": 0, "generation": 1, "last_started": 7, "last_done": 6, "reason_code": 14, **FACTS},
    "heartbeat-ack": {"unknown": []},
    "notice": {"reason_code": 1, "grace_s": 5.0},
    "ended": {"reason": "reclaimed", "reason_code": 1},
    "differs": {"modules": [["numpy", "2.0", "1.26"]]},
    "output": {"slot": 0, "generation": 1, "call_id": 7, "stream": 1, "data": b"x", "cut_bytes": 0, "over": False},
    "output-complete": {"call_id": 7},
}
PASSED_ON = {"notice", "differs", "output", "output-complete"}
"""As they are: the client's core counts a notice once (test_core_interrupts), and names a difference once
(test_functions_environment). Output is never said again; a connection that breaks loses what was under way on it."""


def test_every_message_of_an_agent_is_tried():
    assert set(AGENT_SAYS) == table("agent")


@pytest.mark.parametrize("kind", AGENT_SAYS)
def test_what_an_agent_says_twice_is_done_once(kind):
    h = Harness()
    h.link()
    h.join()
    h.want(4)
    h.take()
    channel = h.serve()
    h.step(DataUp(channel))
    h.take()
    keys = dict(AGENT_SAYS[kind])
    if kind in ("farewell", "output", "output-complete"):
        keys["channel"] = channel
    if kind == "notice":
        keys["leases"] = [lease(1)]
    number = None if kind in ("notice", "heartbeat-ack") else 1
    h.agent_says(kind, number, **keys)
    first = h.take()
    h.agent_says(kind, number, **keys)
    again = [effect for effect in h.take() if isinstance(effect, ToClient | ToAllocator | ToAgent | DialData)]
    if kind in PASSED_ON:
        assert again == [effect for effect in first if isinstance(effect, ToClient)]
    else:
        assert again == []


# --- what session processes say, twice -----------------------------------------------------------------

SESSION_SAYS = {
    "attach": lambda terms: None,  # by Shell.attach
    "heartbeat": lambda terms: {"leases": [terms.lease_id]},
    "interrupt": lambda terms: {"lease": terms.lease_id, "slot": 0, "generation": 1, "channel": 5, "call_id": 9},
    "release": lambda terms: {"lease": terms.lease_id, "reason_code": 6},
}
REPEATABLE = (on.ToSession, on.InterruptCall)  # an answer; and a question to the page, which answers alike


def test_every_message_of_a_session_process_is_tried():
    assert set(SESSION_SAYS) == table("session")


@pytest.mark.parametrize("kind", SESSION_SAYS)
def test_what_a_session_process_says_twice_is_done_once(kind):
    shell = Shell()
    shell.up()
    terms = shell.lease()
    shell.step(on.DataOffered(900, terms.lease_id, 0, 1, 5))
    state = None
    for _ in range(2):
        if kind == "attach":
            shell.attach(terms)
        else:
            shell.step(on.SessionSaid(1, {"m": kind} | SESSION_SAYS[kind](terms)))
        if state is None:
            state = (shell.state(terms), shell.core.wake_at_s, len(shell.core.leases))
    assert (shell.state(terms), shell.core.wake_at_s, len(shell.core.leases)) == state
    assert [effect for effect in shell.new if not isinstance(effect, REPEATABLE)] == []


# --- many calls on one connection -----------------------------------------------------------------------


@pytest.mark.serial
def test_more_calls_than_16_bits_number_on_one_connection_each_get_their_own_answer():
    with rfaas.Executor(1, allocator="embedded") as ex:
        pid = ex.submit(f.pid).result(TIMEOUT_S)
        sent = 1
        for first in range(0, N_CALLS, 6_000):
            numbers = range(first, first + 6_000)
            calls = [ex.submit(f.add, number, 1) for number in numbers]
            assert [call.result(TIMEOUT_S) for call in calls] == [number + 1 for number in numbers]
            sent += len(calls)
        assert ex.submit(f.pid).result(TIMEOUT_S) == pid
        statistics = ex.statistics()
    print(f"{sent} calls on one connection")
    assert statistics["dispatched"] == sent + 1 > 1 << 16
    assert (statistics["late_results"], statistics["failed"], statistics["redispatched"]) == (0, 0, 0)
