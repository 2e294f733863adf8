"""What the session process decides about agents: channels, farewells, heartbeats, losses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas.control.messages import ReleaseLease
from rfaas.session.data_channels import REDIAL_DATA_S, SLOW_REDIAL_DATA_S
from rfaas.session.events import (
    AgentDown,
    CloseAgent,
    CloseData,
    DataDown,
    DataUp,
    DialAgent,
    DialData,
    ToAgent,
    ToClient,
)
from rfaas_transport.errors import ReasonCode
from support.session import AGENT, CLIENT, OTHER, TTL_S, Harness, lease, to_agent, to_allocator


@pytest.fixture
def h():
    """A session with a client that wants workers."""
    harness = Harness()
    harness.link()
    harness.join()
    harness.want(4)
    harness.take()
    return harness


@pytest.fixture
def channel(h):
    """A channel that the client has."""
    number = h.serve()
    h.step(DataUp(number))
    h.take()
    return number


# --- channels -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_up_is_dialled_and_its_channel_handed_over(h):
    h.grant()
    h.agent_up()
    h.agent_says("attached", 1, cores=[3], expires_in_s=TTL_S)
    h.agent_says("worker-up", 1, slot=3, generation=1, pid=9)
    [wish] = h.take(DialData)
    assert wish.address == AGENT
    named = {"lease": lease(1), "slot": 3, "generation": 1, "channel": wish.channel}
    assert wish.params == {**named, "medium": "shm"}
    h.agent_says("worker-up", 1, slot=3, generation=1, pid=9)  # repeated: a second channel would queue calls twice
    assert h.take() == []
    h.step(DataUp(wish.channel))
    [effect] = h.take()
    assert effect == ToClient(
        1,
        {
            "m": "channel",
            "executor": 1,
            "channel": wish.channel,
            "lease": lease(1),
            "lease_seq": 1,
            "epoch": 3,
            "slot": 3,
            "generation": 1,
            "node": "n1",
            "medium": "shm",
        },
        channel=wish.channel,
    )


@pytest.mark.parametrize(
    ("transport", "address", "medium"),
    [
        ({}, AGENT, "shm"),
        ({"transport": "auto"}, AGENT, "shm"),
        ({"transport": "shm"}, AGENT, "shm"),
        ({"transport": "tcp"}, AGENT, "unix"),
        ({"transport": "auto"}, "tcp:n1:9", "tcp"),
        ({"transport": "tcp"}, "tcp:n1:9", "tcp"),
        ({"no_verbs": ""}, AGENT, "shm"),
        ({"no_verbs": ""}, "tcp:n1:9", "verbs"),
        ({"no_verbs": "no device"}, "tcp:n1:9", "tcp"),
        ({"no_verbs": "", "transport": "tcp"}, "tcp:n1:9", "tcp"),
        ({"no_verbs": "", "transport": "verbs"}, "tcp:n1:9", "verbs"),
        ({"no_verbs": "", "transport": "verbs"}, AGENT, "verbs"),
        ({"no_verbs": "", "transport_security": "encrypt", "can_encrypt": True}, "tcp:n1:9", "tls"),
    ],
)
def test_the_medium_is_the_best_that_both_ends_have_and_the_client_wants(h, transport, address, medium):
    h.want(4, **transport)
    h.grant(address=address)
    h.agent_up(address)
    h.agent_says("attached", 1, address, cores=[3], expires_in_s=TTL_S)
    h.agent_says("worker-up", 1, address, slot=3, generation=1, pid=9)
    [wish] = h.take(DialData)
    assert wish.params.get("medium") == (medium if medium in ("shm", "verbs", "tls") else None)
    h.step(DataUp(wish.channel))
    [told] = h.take(ToClient)
    assert told.message["medium"] == medium


FAR = "tcp:n1:9"


def far_worker(h, **wishes):
    """A worker on another node is dialled for the client; the wish."""
    h.want(4, **wishes)
    h.grant(address=FAR)
    h.agent_up(FAR)
    h.agent_says("attached", 1, FAR, cores=[3], expires_in_s=TTL_S)
    h.agent_says("worker-up", 1, FAR, slot=3, generation=1, pid=9)
    [wish] = h.take(DialData)
    return wish


def queued(h):
    return [effect.message for effect in h.take(ToClient) if effect.message["m"] == "queued"]


def test_what_a_client_wants_encrypted_is_asked_for_encrypted(h):
    wish = far_worker(h, transport_security="encrypt", can_encrypt=True)
    assert wish.params["medium"] == "tls"
    h.step(DataUp(wish.channel))
    [told] = h.take(ToClient)
    assert told.message["medium"] == "tls"


def test_a_connection_that_stays_on_the_node_is_not_encrypted(h):
    h.want(4, transport="tcp", transport_security="encrypt", can_encrypt=True)
    h.grant()
    h.agent_up()
    h.agent_says("attached", 1, cores=[3], expires_in_s=TTL_S)
    h.agent_says("worker-up", 1, slot=3, generation=1, pid=9)
    [wish] = h.take(DialData)
    assert "medium" not in wish.params


def test_an_agent_that_wants_encryption_gets_it_from_then_on(h):
    wish = far_worker(h, can_encrypt=True)
    assert "medium" not in wish.params
    h.step(DataDown(wish.channel, "why", refusal="encryption-required"))
    h.advance(REDIAL_DATA_S)
    [again] = h.take(DialData)
    assert again.params["medium"] == "tls"
    assert queued(h) == []
    h.agent_says("worker-up", 1, FAR, slot=4, generation=1, pid=10)
    [other] = h.take(DialData)
    assert other.params["medium"] == "tls"


def test_a_client_that_can_t_encrypt_is_told_what_the_agent_wants_and_is_never_given_less(h):
    wish = far_worker(h)
    h.step(DataDown(wish.channel, "why", refusal="encryption-required"))
    [word] = queued(h)
    assert "encrypted connections only" in word["reason"]
    assert "libssl-dev" in word["hint"]
    assert "C and Fortran" in word["hint"]
    h.advance(SLOW_REDIAL_DATA_S)
    [again] = h.take(DialData)  # the agent may have been started anew
    assert "medium" not in again.params


def test_a_client_that_wants_encryption_is_told_of_an_agent_that_can_t(h):
    wish = far_worker(h, transport_security="encrypt", can_encrypt=True)
    h.step(DataDown(wish.channel, "no OpenSSL", refusal="encryption-unavailable"))
    [word] = queued(h)
    assert "its agent can't: no OpenSSL" in word["reason"]
    h.advance(SLOW_REDIAL_DATA_S)
    [again] = h.take(DialData)
    assert again.params["medium"] == "tls"


RDMA = {"no_verbs": ""}


def test_an_agent_without_rdma_is_reached_otherwise_and_who_asks_is_told_why(h):
    wish = far_worker(h, **RDMA)
    h.step(DataDown(wish.channel, "no port is up", refusal="verbs-unavailable"))
    h.advance(REDIAL_DATA_S)
    [again] = h.take(DialData)
    assert "medium" not in again.params
    [shown] = h.core.channels()
    assert (shown["node"], shown["medium"], shown["why"]) == ("n1", "tcp", "no RDMA: n1 says: no port is up")
    h.agent_says("worker-up", 1, FAR, slot=4, generation=1, pid=10)
    [other] = h.take(DialData)  # not tried again with any worker of that lease
    assert "medium" not in other.params


def test_an_rdma_channel_that_its_client_can_t_set_up_is_made_over_another_medium(h):
    wish = far_worker(h, **RDMA)
    h.step(DataUp(wish.channel))
    h.take()
    h.client_says("unusable", lease=lease(1), why="two fabrics")
    facts = {"reason_code": 0, "exit_status": None, "signal": None, "grace_s": None, "hint": ""}
    h.agent_says("farewell", 1, FAR, slot=3, generation=1, channel=wish.channel, last_started=0, last_done=0, **facts)
    h.advance(REDIAL_DATA_S)
    [again] = h.take(DialData)
    assert (again.params["slot"], "medium" in again.params) == (3, False)
    assert h.core.channels()[0]["why"] == "no RDMA: two fabrics"


def test_what_another_client_says_of_a_lease_counts_for_nothing(h):
    wish = far_worker(h, **RDMA)
    h.step(DataUp(wish.channel))
    h.join(2, OTHER)
    h.client_says("unusable", 2, lease=lease(1), why="spite")
    h.agent_says("worker-up", 1, FAR, slot=4, generation=1, pid=10)
    [other] = h.take(DialData)
    assert other.params["medium"] == "verbs"


@pytest.mark.parametrize("told_by", ["the agent", "the client", "the client before"])
def test_a_client_that_wants_rdma_or_nothing_is_denied_with_the_reason(h, told_by):
    if told_by == "the client before":
        h.want(4, transport="verbs", no_verbs="no device")
        h.grant(address=FAR)
        h.agent_up(FAR)
        h.agent_says("attached", 1, FAR, cores=[3], expires_in_s=TTL_S)
        h.agent_says("worker-up", 1, FAR, slot=3, generation=1, pid=9)
    else:
        wish = far_worker(h, transport="verbs", **RDMA)
        if told_by == "the agent":
            h.step(DataDown(wish.channel, "no device", refusal="verbs-unavailable"))
        else:
            h.step(DataUp(wish.channel))
            h.client_says("unusable", lease=lease(1), why="no device")
    h.advance(SLOW_REDIAL_DATA_S)
    effects = h.take()
    [denied] = [e.message for e in effects if isinstance(e, ToClient) and e.message["m"] == "denied"]
    assert denied["code"] == "verbs-unavailable"
    assert "can't be had" in denied["hint"]
    assert "no device" in denied["hint"]
    assert len(to_agent(effects, "release")) == 1  # of no use to this client
    assert DialData not in map(type, effects)


def test_where_memory_can_t_be_shared_though_nothing_else_will_do_the_client_is_told_why(h):
    h.want(4, transport="shm")
    h.grant(address="tcp:n1:9")
    h.agent_up("tcp:n1:9")
    h.agent_says("attached", 1, "tcp:n1:9", cores=[3], expires_in_s=TTL_S)
    h.agent_says("worker-up", 1, "tcp:n1:9", slot=3, generation=1, pid=9)
    told = [effect.message for effect in h.take(ToClient)]
    assert [message["reason"] for message in told if message["m"] == "queued"] == [
        'the workers are on n1, which transport="shm" does not reach'
    ]


def test_channel_numbers_of_two_session_processes_differ():
    def first():
        h = Harness(first_channel=None)
        h.link()
        h.join()
        h.want(1)
        return h.serve()

    assert abs(first() - first()) > 1 << 20


def test_a_farewell_carries_the_facts_and_ends_the_channel(h, channel):
    facts = {"reason_code": 14, "exit_status": None, "signal": 9, "grace_s": None, "hint": "killed"}
    h.agent_says("farewell", 1, slot=0, generation=1, channel=channel, last_started=7, last_done=6, **facts)
    assert h.said() == [
        {
            "m": "farewell",
            "channel": channel,
            "last_started": 7,
            "last_done": 6,
            "node": "n1",
            "lease": lease(1),
            "epoch": 3,
            **facts,
        }
    ]
    h.agent_says("farewell", 1, slot=0, generation=1, channel=channel, last_started=7, last_done=6, **facts)
    assert h.said() == []


def test_a_farewell_of_a_channel_the_client_never_had_is_kept_from_it(h):
    number = h.serve()
    h.agent_says("farewell", 1, slot=0, generation=1, channel=number, last_started=0, last_done=0, reason_code=6)
    assert h.take() == [CloseData(number)]
    h.step(DataUp(number))
    assert h.take() == [CloseData(number)]


def test_a_replaced_worker_gets_a_channel_of_its_own(h, channel):
    h.agent_says("farewell", 1, slot=0, generation=1, channel=channel, last_started=7, last_done=7, reason_code=6)
    h.agent_says("worker-down", 1, slot=0, generation=1, reason_code=15)
    h.agent_says("worker-up", 1, slot=0, generation=2, pid=10)
    [wish] = h.take(DialData)
    assert wish.channel != channel
    assert wish.params["generation"] == 2


def test_a_worker_that_ends_by_itself_is_why_its_client_waits(h):
    h.serve()
    h.said()
    down = {"slot": 0, "generation": 1}
    hint = "the worker exited with status 70 (worker-exited)"
    h.agent_says("worker-down", 1, **down, reason_code=ReasonCode.WORKER_EXITED, exit_status=70, signal=0, hint=hint)
    [queued] = h.said()
    assert queued["m"] == "queued"
    assert queued["reason"].endswith(f"did not stay: {hint}")
    for code, status in ((ReasonCode.WORKER_EXITED, 0), (ReasonCode.OWNER_RELEASE, 70)):
        down["generation"] += 1
        h.agent_says("worker-up", 1, **down, pid=10)
        h.said()
        h.agent_says("worker-down", 1, **down, reason_code=code, exit_status=status, signal=0, hint=hint)
        assert h.said() == []


def test_a_worker_that_can_t_be_made_is_why_its_client_waits_unless_another_serves(h):
    h.serve()
    h.said()
    words = {"reason_code": ReasonCode.WORKER_EXITED, "exit_status": 71, "signal": 0, "hint": "no descriptor is left"}
    h.agent_says("worker-down", 1, slot=1, generation=7, **words)
    [queued] = h.said()
    assert queued["reason"].endswith("did not come: no descriptor is left")
    h.agent_says("worker-down", 1, slot=0, generation=0, **words)  # late: generation 1 serves there
    assert h.said() == []


def test_after_a_notice_no_channel_is_handed_over_or_opened(h):
    number = h.serve()
    h.agent_says("notice", None, leases=[lease(1)], reason_code=1, grace_s=4.0)
    [notice] = h.said()
    assert (notice["channels"], notice["cores"], notice["grace_s"], notice["reason_code"]) == ([], [0], 4.0, 1)
    h.step(DataUp(number))
    assert h.take() == [CloseData(number)]
    h.agent_says("worker-up", 1, slot=0, generation=2, pid=10)
    assert h.take(DialData) == []


def test_a_channel_without_farewell_at_the_end_of_its_lease_is_lost(h, channel):
    h.agent_says("ended", 1, reason="reclaimed", reason_code=1)
    messages = h.said()
    assert [m["m"] for m in messages] == ["lost", "ended"]
    assert (messages[0]["channels"], messages[0]["reason_code"]) == ([channel], 16)
    assert (messages[1]["reason"], messages[1]["reason_code"]) == ("reclaimed", 1)


def test_a_data_connection_that_fails_is_tried_again_under_a_new_number(h):
    number = h.serve()
    h.step(DataDown(number, "refused"))
    h.advance(0.2)
    [again] = h.take(DialData)
    assert again.channel != number


def test_a_data_connection_to_a_worker_that_is_gone_is_not_tried_again(h):
    number = h.serve()
    h.step(DataDown(number, "not found", gone=True))
    h.advance(1)
    assert h.take(DialData) == []


def test_a_data_connection_that_never_works_is_told_to_the_client(h):
    number = h.serve()
    for _ in range(25):
        h.step(DataDown(number, "no route"))
        h.advance(1.0)
        dialled = [e for e in h.effects if isinstance(e, DialData)]
        number = dialled[-1].channel
        h.agent_says("heartbeat-ack", None, unknown=[])
    assert any(m["m"] == "queued" and "no route" in m["reason"] for m in h.said())


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


# --- interrupts, and channels that end alone ------------------------------------------------------------------


def test_an_interrupt_goes_to_the_agent_with_the_worker_s_name(h, channel):
    h.client_says("interrupt", channel=channel, call_id=7)
    [words] = to_agent(h.take(), "interrupt")
    assert words == {"m": "interrupt", "lease": lease(1), "slot": 0, "generation": 1, "channel": channel, "call_id": 7}


def test_an_interrupt_of_another_client_s_channel_or_of_none_does_nothing(h, channel):
    h.join(conn=2, client=b"z" * 16)
    h.take()
    h.client_says("interrupt", conn=2, channel=channel, call_id=7)
    h.client_says("interrupt", channel=channel + 1, call_id=7)
    assert h.take() == []


def test_an_interrupt_waits_for_an_agent_that_can_not_be_reached_now(h, channel):
    h.step(AgentDown(AGENT, "broke"))
    h.take()
    h.client_says("interrupt", channel=channel, call_id=7)
    assert h.take() == []
    h.agent_up()
    words = [effect.message["m"] for effect in h.take(ToAgent)]
    assert words.index("attach") < words.index("interrupt")


def test_a_channel_that_ended_alone_is_made_anew(h, channel):
    facts = {"exit_status": None, "signal": None, "grace_s": None, "hint": ""}
    ended = {"slot": 0, "generation": 1, "last_started": 7, "last_done": 6, "reason_code": 0}
    h.agent_says("farewell", 1, channel=channel, **ended, **facts)
    assert [e.message["m"] for e in h.take() if isinstance(e, ToClient)] == ["farewell"]
    h.advance(REDIAL_DATA_S)
    [wish] = h.take(DialData)
    assert (wish.params["slot"], wish.params["generation"]) == (0, 1)
    assert wish.channel != channel


def test_a_channel_of_a_lease_that_goes_back_is_not_made_anew(h, channel):
    h.client_says("cancel-lease", lease=lease(1))
    h.take()
    h.agent_says("farewell", 1, slot=0, generation=1, channel=channel, last_started=0, last_done=0, reason_code=0)
    h.advance(REDIAL_DATA_S)
    assert h.take(DialData) == []
