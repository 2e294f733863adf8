"""What the session process decides about agents: heartbeats, losses, and all of it in any order."""

from hypothesis import given
from hypothesis import strategies as st

from rfaas.control.messages import ReleaseLease
from rfaas.session.events import (
    AgentDown,
    AgentThere,
    CloseAgent,
    DataDown,
    DataUp,
    DialAgent,
    DialData,
    ToAgent,
    ToClient,
)
from support.session import AGENT, CLIENT, TTL_S, Harness, lease, to_agent, to_allocator

# --- renewing -------------------------------------------------------------------------------------------------


def test_leases_are_renewed_every_quarter_of_their_ttl(h):
    h.serve(1)
    h.serve(2)
    for _ in range(8):
        h.advance(TTL_S / 4)
        h.agent_says("heartbeat-ack", None, unknown=[])
    beats = to_agent(h.take(), "heartbeat")
    assert [sorted(m["leases"]) for m in beats] == [[lease(1), lease(2)]] * 8


def test_a_released_lease_is_renewed_no_more(h):
    h.serve(1)
    h.client_says("cancel-lease", lease=lease(1))
    h.advance(TTL_S)
    assert to_agent(h.take(), "heartbeat") == []


def test_renewing_begins_again_with_the_next_lease(h):
    h.serve(1)
    h.client_says("cancel-lease", lease=lease(1))
    h.agent_says("ended", 1, reason="released", reason_code=6)
    h.advance(3 * TTL_S)
    h.serve(2)
    h.advance(TTL_S / 4)
    assert [m["leases"] for m in to_agent(h.take(), "heartbeat")] == [[lease(2)]]


def test_a_lease_unknown_to_its_agent_is_lost(h, channel):
    h.advance(TTL_S / 4)
    h.agent_says("heartbeat-ack", None, unknown=[lease(1)])
    assert [(m["m"], m["reason_code"]) for m in h.said()] == [("lost", 13), ("ended", 13)]


def test_an_agent_that_acknowledges_nothing_for_a_ttl_is_given_up(h, channel):
    h.advance(1.6 * TTL_S)
    effects = h.take()
    assert CloseAgent(AGENT) in effects
    told = [e.message for e in effects if isinstance(e, ToClient)]
    assert [(m["m"], m["reason_code"]) for m in told] == [("lost", 13), ("ended", 13)]
    assert to_allocator(effects) == [ReleaseLease(CLIENT, lease(1), 13)]


# --- losing agents --------------------------------------------------------------------------------------------


def test_a_broken_connection_is_dialled_again_and_leases_attached_again(h, channel):
    h.step(AgentDown(AGENT, "reset"))
    assert h.take() == [DialAgent(AGENT)]
    h.step(AgentDown(AGENT, "time-out"))
    h.advance(0.2)
    assert h.take() == [DialAgent(AGENT)]
    h.agent_up()
    assert [m["lease"] for m in to_agent(h.take(), "attach")] == [lease(1)]
    h.agent_says("worker-up", 1, slot=0, generation=1, pid=9)
    assert h.take() == []  # the channel lives
    h.advance(5)
    assert [m["m"] for m in h.said()] == []


def test_an_agent_not_reached_again_is_lost_within_two_seconds(h, channel):
    h.step(AgentDown(AGENT, "reset"))
    for _ in range(20):
        h.step(AgentDown(AGENT, "no route"))
        h.advance(0.1)
    messages = h.said()
    assert [(m["m"], m["reason_code"]) for m in messages] == [("lost", 16), ("ended", 16)]
    assert messages[0]["channels"] == [channel]
    assert "no route" in messages[0]["hint"]


def test_an_agent_that_took_the_connection_is_waited_for(h, channel):
    h.step(AgentDown(AGENT, "reset"))
    h.step(AgentThere(AGENT))
    h.advance(9)
    assert h.said() == []
    h.agent_up()
    assert [m["lease"] for m in to_agent(h.take(), "attach")] == [lease(1)]
    h.advance(5)
    assert h.said() == []


def test_an_agent_that_took_the_connection_and_then_fails_is_lost_at_once(h, channel):
    h.step(AgentDown(AGENT, "reset"))
    h.step(AgentThere(AGENT))
    h.advance(9)
    h.step(AgentDown(AGENT, "the handshake took too long"))
    messages = h.said()
    assert [(m["m"], m["reason_code"]) for m in messages] == [("lost", 16), ("ended", 16)]
    assert "took too long" in messages[0]["hint"]


def test_a_node_that_falls_silent_is_lost_at_the_first_try_that_meets_silence_too(h, channel):
    h.step(AgentDown(AGENT, "timed out", silent=True))
    assert h.take() == [DialAgent(AGENT)]
    h.step(AgentDown(AGENT, "no route", silent=True))
    messages = h.said()
    assert [(m["m"], m["reason_code"]) for m in messages] == [("lost", 3), ("ended", 3)]
    assert messages[0]["channels"] == [channel]


def test_a_node_that_was_silent_for_a_moment_loses_nothing(h, channel):
    h.step(AgentDown(AGENT, "timed out", silent=True))
    h.agent_up()
    h.agent_says("worker-up", 1, slot=0, generation=1, pid=9)
    h.take()
    h.step(AgentDown(AGENT, "timed out", silent=True))  # counts from anew
    assert h.take() == [DialAgent(AGENT)]
    h.agent_up()
    h.advance(5)
    assert [m["m"] for m in h.said()] == []


def test_an_agent_that_is_refused_on_a_node_that_answers_is_not_a_lost_node(h, channel):
    h.step(AgentDown(AGENT, "timed out", silent=True))
    for _ in range(20):
        h.step(AgentDown(AGENT, "refused"))
        h.advance(0.1)
    assert [(m["m"], m["reason_code"]) for m in h.said()] == [("lost", 16), ("ended", 16)]


def test_an_agent_whose_listener_refuses_on_this_node_is_lost_at_once(h, channel):
    h.step(AgentDown(AGENT, "closed"))
    h.step(AgentDown(AGENT, "refused", refused=True))
    effects = h.take()
    assert [e.message["m"] for e in effects if isinstance(e, ToClient)] == ["lost", "ended"]
    # The allocator hears of it, else it would count the lease as serving us.
    assert to_allocator(effects) == [ReleaseLease(CLIENT, lease(1), 16)]


def test_an_agent_that_dies_after_its_notice_took_its_workers_along_for_their_owner(h, channel):
    h.agent_says("notice", None, leases=[lease(1)], reason_code=6, grace_s=0.0)
    h.step(AgentDown(AGENT, "reset"))
    h.step(AgentDown(AGENT, "refused", refused=True))
    assert [(m["m"], m["reason_code"]) for m in h.said() if m["m"] == "lost"] == [("lost", 6)]


def test_an_agent_that_never_answered_is_not_given_up_faster_than_it_can_be_granted_again(h):
    h.grant()
    h.step(AgentDown(AGENT, "refused", refused=True))
    h.step(AgentDown(AGENT, "who are you", retry=False))
    assert not any(m["m"] == "ended" for m in h.said())
    h.advance(1.6)
    assert [(m["m"], m["reason_code"]) for m in h.said()] == [("ended", 16)]


def test_an_idle_agent_that_goes_is_forgotten_and_found_again(h):
    h.serve(1)
    h.agent_says("ended", 1, reason="released", reason_code=6)
    h.take()
    h.step(AgentDown(AGENT, "closed"))
    assert h.take() == []
    h.grant(2)
    assert DialAgent(AGENT) in h.take()


def test_a_release_while_the_agent_is_away_is_said_when_it_is_back(h, channel):
    h.step(AgentDown(AGENT, "reset"))
    h.client_says("cancel-lease", lease=lease(1))
    h.take()
    h.agent_up()
    effects = h.take()
    assert [e.message["m"] for e in effects if isinstance(e, ToAgent)] == ["attach", "release"]


# --- any order ------------------------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(1, 4)),
        st.tuples(st.just("up"), st.just(0)),
        st.tuples(st.just("there"), st.just(0)),
        st.tuples(st.just("down"), st.booleans()),
        st.tuples(st.just("worker"), st.tuples(st.integers(1, 4), st.integers(1, 3))),
        st.tuples(st.just("data"), st.booleans()),
        st.tuples(st.just("farewell"), st.integers(0, 9)),
        st.tuples(st.just("ended"), st.integers(1, 4)),
        st.tuples(st.just("cancel"), st.integers(1, 4)),
        st.tuples(st.just("wait"), st.floats(0.01, 3.0)),
        st.tuples(st.just("want"), st.integers(0, 2)),
    ),
    max_size=40,
)


@given(ACTIONS)
def test_in_any_order_each_channel_is_handed_over_once_and_ended_once(actions):
    h = Harness()
    h.link()
    h.join()
    h.want(4)
    answered = set()
    for action in actions:
        perform(h, answered, *action)
    for number in range(1, 5):
        h.agent_says("ended", number, reason="released", reason_code=6)
    h.advance(60)
    messages = h.said()
    handed = [m["channel"] for m in messages if m["m"] == "channel"]
    over = [m["channel"] for m in messages if m["m"] == "farewell"]
    over += [number for m in messages if m["m"] == "lost" for number in m["channels"]]
    assert len(set(handed)) == len(handed)
    assert sorted(over) == sorted(handed)


def perform(h, answered, action, value):
    """Do one thing that could happen, if it can happen now."""
    dialled = [e.channel for e in h.effects if isinstance(e, DialData)]
    dialling = [channel for channel in dialled if channel not in answered]
    agent = h.core._agents._agents.get(AGENT)
    up = agent is not None and agent.up
    match action:
        case "grant":
            h.grant(value)
        case "up":
            h.agent_up()
        case "there":
            h.step(AgentThere(AGENT))
        case "down":
            h.step(AgentDown(AGENT, "why", refused=value))
        case "worker" if up:
            h.agent_says("worker-up", value[0], slot=0, generation=value[1], pid=9)
        case "data" if dialling:
            answered.add(dialling[0])
            h.step(DataUp(dialling[0]) if value else DataDown(dialling[0], "why"))
        case "farewell" if up and value < len(dialled):
            for number in range(1, 5):
                h.agent_says(
                    "farewell",
                    number,
                    slot=0,
                    generation=1,
                    channel=dialled[value],
                    last_started=0,
                    last_done=0,
                    reason_code=6,
                )
        case "ended" if up:
            h.agent_says("ended", value, reason="released", reason_code=6)
        case "cancel":
            h.client_says("cancel-lease", lease=lease(value))
        case "wait":
            h.advance(value)
        case "want":
            h.want(value)
