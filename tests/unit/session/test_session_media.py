"""Over which medium the session process has a channel made, and what it says where none will do."""

import pytest

from rfaas.control.messages import Want
from rfaas.session.data_channels import REDIAL_DATA_S, SLOW_REDIAL_DATA_S
from rfaas.session.events import (
    DataDown,
    DataUp,
    DialData,
    ToClient,
)
from support.session import AGENT, OTHER, TTL_S, lease, to_agent, to_allocator

FAR = "tcp:n1:9"


def offered_worker(h, address, **wishes):
    """The agent at an address says that a worker is up for the client."""
    h.want(4, **wishes)
    h.grant(address=address, kind=wishes.get("kind", ""))
    h.agent_up(address)
    h.agent_says("attached", 1, address, cores=[3], expires_in_s=TTL_S)
    h.agent_says("worker-up", 1, address, slot=3, generation=1, pid=9)


def dialled_worker(h, address=FAR, **wishes):
    """A worker, as a rule on another node, is dialled for the client; the wish."""
    offered_worker(h, address, **wishes)
    [wish] = h.take(DialData)
    return wish


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
    wish = dialled_worker(h, address, **transport)
    assert wish.params.get("medium") == (medium if medium in ("shm", "verbs", "tls") else None)
    h.step(DataUp(wish.channel))
    [told] = h.take(ToClient)
    assert told.message["medium"] == medium


def queued(h):
    return [effect.message for effect in h.take(ToClient) if effect.message["m"] == "queued"]


def test_what_a_client_wants_encrypted_is_asked_for_encrypted(h):
    wish = dialled_worker(h, transport_security="encrypt", can_encrypt=True)
    assert wish.params["medium"] == "tls"
    h.step(DataUp(wish.channel))
    [told] = h.take(ToClient)
    assert told.message["medium"] == "tls"


def test_a_connection_that_stays_on_the_node_is_not_encrypted(h):
    wish = dialled_worker(h, AGENT, transport="tcp", transport_security="encrypt", can_encrypt=True)
    assert "medium" not in wish.params


def test_an_agent_that_wants_encryption_gets_it_from_then_on(h):
    wish = dialled_worker(h, can_encrypt=True)
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
    wish = dialled_worker(h)
    h.step(DataDown(wish.channel, "why", refusal="encryption-required"))
    [word] = queued(h)
    assert "encrypted connections only" in word["reason"]
    assert "libssl-dev" in word["hint"]
    assert "C and Fortran" in word["hint"]
    h.advance(SLOW_REDIAL_DATA_S)
    [again] = h.take(DialData)  # the agent may have been started anew
    assert "medium" not in again.params


def test_a_client_that_wants_encryption_is_told_of_an_agent_that_can_t(h):
    wish = dialled_worker(h, transport_security="encrypt", can_encrypt=True)
    h.step(DataDown(wish.channel, "no OpenSSL", refusal="encryption-unavailable"))
    [word] = queued(h)
    assert "its agent can't: no OpenSSL" in word["reason"]
    h.advance(SLOW_REDIAL_DATA_S)
    [again] = h.take(DialData)
    assert again.params["medium"] == "tls"


RDMA = {"no_verbs": ""}


def test_an_agent_without_rdma_is_reached_otherwise_and_who_asks_is_told_why(h):
    wish = dialled_worker(h, **RDMA)
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
    wish = dialled_worker(h, **RDMA)
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
    wish = dialled_worker(h, **RDMA)
    h.step(DataUp(wish.channel))
    h.join(2, OTHER)
    h.client_says("unusable", 2, lease=lease(1), why="spite")
    h.agent_says("worker-up", 1, FAR, slot=4, generation=1, pid=10)
    [other] = h.take(DialData)
    assert other.params["medium"] == "verbs"


@pytest.mark.parametrize("told_by", ["the agent", "the client", "the client before"])
def test_a_client_that_wants_rdma_or_nothing_is_denied_with_the_reason(h, told_by):
    if told_by == "the client before":
        offered_worker(h, FAR, transport="verbs", no_verbs="no device")
    else:
        wish = dialled_worker(h, transport="verbs", **RDMA)
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


def test_what_is_denied_is_wanted_no_more_as_what_it_was_wanted(h):
    """Of memory that nobody wants any more the allocator said that it has too few cores."""
    wish = dialled_worker(h, transport="verbs", kind="memory", cores=0, **RDMA)
    h.step(DataDown(wish.channel, "no device", refusal="verbs-unavailable"))
    [nothing] = [want for want in to_allocator(h.take()) if isinstance(want, Want)]
    assert (nothing.kind, nothing.workers, nothing.cores_per_worker) == ("memory", 0, 0)


def test_where_memory_can_t_be_shared_though_nothing_else_will_do_the_client_is_told_why(h):
    offered_worker(h, FAR, transport="shm")
    told = [effect.message for effect in h.take(ToClient)]
    assert [message["reason"] for message in told if message["m"] == "queued"] == [
        'the workers are on n1, which transport="shm" does not reach'
    ]


@pytest.mark.parametrize("told_by", ["the agent", "the client"])
def test_a_region_that_rdma_has_reached_stays_when_it_does_not_for_a_while(h, told_by):
    """It has content: a port may be up again soon, and the borrower says when it has waited long enough."""
    wish = dialled_worker(h, transport="verbs", kind="memory", cores=0, **RDMA)
    facts = {"reason_code": 0, "exit_status": None, "signal": None, "grace_s": None, "hint": ""}
    facts |= {"last_started": 0, "last_done": 0}
    h.step(DataUp(wish.channel))
    for _ in range(3):
        h.agent_says("farewell", 1, FAR, slot=3, generation=1, channel=wish.channel, **facts)
        h.advance(REDIAL_DATA_S)
        [wish] = h.take(DialData)
        assert wish.params["medium"] == "verbs"
        if told_by == "the agent":
            h.step(DataDown(wish.channel, "no port is up", refusal="verbs-unavailable"))
            assert [e.message["m"] for e in h.take(ToClient)] == ["queued"]
            h.advance(SLOW_REDIAL_DATA_S)
            [wish] = h.take(DialData)
            h.step(DataUp(wish.channel))
        else:
            h.step(DataUp(wish.channel))
            h.take()
            h.client_says("unusable", lease=lease(1), why="no port is up")
            assert [e.message["m"] for e in h.take(ToClient)] == ["queued"]
