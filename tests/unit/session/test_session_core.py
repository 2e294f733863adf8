"""What the session process decides: clients, wants, grants and the allocator's link."""

import pytest

from rfaas.control.messages import Denied, Ended, HolderGone, HolderHello, ReleaseLease, Waiting, Want
from rfaas.session.events import (
    AgentDown,
    AllocatorDown,
    AllocatorSaid,
    AllocatorUp,
    ClientGone,
    CloseData,
    DataUp,
    DialAgent,
    DialData,
    DropClient,
    Leave,
    SiteSaid,
    Stop,
    ToAgent,
    ToClient,
)
from rfaas.site.borrowing import Shortfall, Size
from support.session import AGENT, CLIENT, ENV, OTHER, TTL_S, Harness, lease, to_agent, to_allocator


@pytest.fixture
def h():
    """A session with its allocator and one client."""
    harness = Harness()
    harness.link()
    harness.join()
    harness.take()
    return harness


# --- joining --------------------------------------------------------------------------------------------------


def test_a_client_is_welcomed_and_announced():
    h = Harness()
    h.link()
    h.join()
    effects = h.take()
    welcome = {"m": "welcome", "version": 1, "pid": 7, "mode": "personal", "allocator": "here"}
    assert ToClient(1, welcome) in effects
    assert to_allocator(effects) == [HolderHello(CLIENT, 1, "python (pid 4711)", ())]


def test_a_client_before_the_first_link_waits_and_is_then_welcomed():
    h = Harness()
    h.join()
    assert h.take() == []
    h.step(AllocatorDown("refused"))
    h.link()
    assert [m["m"] for m in h.said()] == ["welcome"]


def test_a_client_is_rejected_with_the_trouble_when_no_link_comes():
    h = Harness()
    h.step(AllocatorDown("it may be restarting"))
    h.join()
    h.step(AllocatorDown("it may be restarting"))
    h.advance(2)
    assert h.take() == []
    h.step(AllocatorDown("nobody there", "version-mismatch"))
    effects = h.take()
    assert ToClient(1, {"m": "reject", "code": "version-mismatch", "hint": "nobody there"}) in effects
    assert DropClient(1) in effects


def test_no_clock_rejects_a_client_while_a_slow_allocator_may_answer():
    h = Harness()
    h.join()
    h.advance(60)
    assert h.take() == []
    h.link()
    assert [m["m"] for m in h.said()] == ["welcome"]


def test_a_client_joins_while_a_link_that_once_was_is_broken(h):
    h.step(AllocatorDown("killed"))
    h.join(conn=2, client=OTHER)
    assert [m["m"] for m in h.said(2)] == ["welcome"]


@pytest.mark.parametrize(("version", "answer"), [(0, "welcome"), (2, "welcome"), (3, "reject")])
def test_versions_one_apart_talk_to_each_other(version, answer):
    h = Harness()
    h.link()
    h.join(version=version)
    assert [m["m"] for m in h.said()] == [answer]


def test_a_client_that_joins_again_keeps_its_leases(h):
    h.want(1)
    h.serve()
    h.join(conn=2)
    effects = h.take()
    assert DropClient(1) in effects
    h.step(ClientGone(1))
    assert to_allocator(h.take()) == []
    assert to_allocator(effects) == [HolderHello(CLIENT, 1, "python (pid 4711)", (lease(1),))]


def test_a_message_without_its_keys_is_the_sender_s_fault_and_changes_nothing(h):
    with pytest.raises(KeyError):
        h.client_says("want", executor=1)
    with pytest.raises((TypeError, ValueError)):
        h.client_says("want", executor=1, workers=None, cores=1, memory_bytes=1)
    h.client_says("never-heard-of")
    assert h.take() == []


# --- wants and grants -----------------------------------------------------------------------------------------


def test_a_want_goes_to_the_allocator_once(h):
    h.want(3)
    h.want(3)
    assert to_allocator(h.take()) == [Want(CLIENT, 1, 3, 1, 5)]


def test_a_placement_goes_with_it(h):
    h.client_says("want", executor=1, workers=3, cores=1, memory_bytes=5, placement="spread")
    assert to_allocator(h.take()) == [Want(CLIENT, 1, 3, 1, 5, "spread")]


def test_the_size_of_leases_goes_with_it_and_a_target_of_0_that_keeps_ends_none(h):
    h.client_says("want", executor=1, workers=2, cores=1, memory_bytes=5, lease_workers=1)
    assert to_allocator(h.take()) == [Want(CLIENT, 1, 2, 1, 5, lease_workers=1)]
    h.serve()
    h.take()
    h.client_says("want", executor=1, workers=0, cores=1, memory_bytes=5, lease_workers=1, keep=True)
    assert to_allocator(h.take()) == [Want(CLIENT, 1, 0, 1, 5, lease_workers=1)]
    h.client_says("cancel-lease", lease=lease(1))
    assert to_allocator(h.take()) == [ReleaseLease(CLIENT, lease(1), 6)]


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        ((None, ""), "2 more asked for, nobody knows when"),
        ((41.7, "slice ends"), "2 more asked for, perhaps in 42 s by slice ends"),
    ],
)
def test_who_waits_hears_why_and_for_how_long(h, estimate, words):
    h.want(4)
    h.take()
    h.step(AllocatorSaid(Waiting(CLIENT, 1, 2, "all is leased", "leased", *estimate)))
    (said,) = h.said()
    assert (said["code"], said["reason"], said["estimate_s"], said["hint"]) == (
        "leased",
        "all is leased",
        estimate[0],
        words,
    )


def test_a_grant_is_told_and_attached_over_one_connection_for_all_leases(h):
    h.want(2)
    h.grant(1)
    h.grant(2)
    effects = h.take()
    assert effects.count(DialAgent(AGENT)) == 1
    told = [e.message for e in effects if isinstance(e, ToClient)]
    assert [m["m"] for m in told] == ["lease", "lease"]
    assert (told[0]["lease"], told[0]["workers"], told[0]["ttl_s"], told[0]["cores"]) == (lease(1), 1, TTL_S, [0])
    h.agent_up()
    h.grant(3)
    attached = to_agent(h.take(), "attach")
    assert [m["lease"] for m in attached] == [lease(1), lease(2), lease(3)]
    assert attached[0] == {
        "m": "attach",
        "lease": lease(1),
        "lease_seq": 1,
        "epoch": 3,
        "holder": CLIENT,
        "workers": 1,
        "env": ENV,
        "ttl_s": TTL_S,
    }


def test_a_grant_said_twice_is_attached_once(h):
    h.want(1)
    h.grant()
    h.agent_up()
    h.take()
    h.grant()
    assert h.take() == []


def test_a_grant_for_a_target_that_was_lowered_meanwhile_goes_back(h):
    h.want(1)
    h.want(0)
    h.take()
    h.grant()
    assert to_allocator(h.take()) == [ReleaseLease(CLIENT, lease(1), 6)]
    h.grant(2, client=OTHER)
    assert to_allocator(h.take()) == [ReleaseLease(OTHER, lease(2), 12)]


def test_a_target_of_zero_releases_the_leases_of_that_executor_only(h):
    h.want(1)
    h.want(1, executor=2)
    h.serve(1)
    h.serve(2, executor=2)
    h.want(0)
    effects = h.take()
    assert to_agent(effects, "release") == [{"m": "release", "lease": lease(1), "reason_code": 6}]
    assert to_allocator(effects) == [Want(CLIENT, 1, 0, 1, 5), ReleaseLease(CLIENT, lease(1), 6)]


def test_cancel_lease_gives_one_back_and_its_farewell_still_arrives(h):
    h.want(1)
    channel = h.serve()
    h.step(DataUp(channel))
    h.take()
    h.client_says("cancel-lease", lease=lease(1))
    h.client_says("cancel-lease", lease=lease(1))
    assert len(to_agent(h.take(), "release")) == 1
    h.agent_says("farewell", 1, slot=0, generation=1, channel=channel, last_started=4, last_done=4, reason_code=6)
    h.agent_says("ended", 1, reason="released", reason_code=6)
    assert [m["m"] for m in h.said()] == ["farewell", "ended"]


def test_waiting_and_denied_reach_the_client(h):
    h.want(4)
    h.step(AllocatorSaid(Waiting(CLIENT, 1, 2, "all cores are taken")))
    h.step(AllocatorSaid(Denied(CLIENT, 1, "lease-denied", "too large")))
    h.step(AllocatorSaid(Waiting(CLIENT, 1, 2, "all cores are taken")))
    messages = h.said()
    assert [m["m"] for m in messages] == ["queued", "denied"]
    assert messages[0]["reason"] == "all cores are taken"
    assert (messages[1]["code"], messages[1]["hint"]) == ("lease-denied", "too large")
    h.want(4)
    assert to_allocator(h.take()) == [Want(CLIENT, 1, 4, 1, 5)]  # wanted anew


def test_what_is_missing_is_what_the_site_is_asked_for(h):
    h.want(3)
    h.client_says("want", executor=2, workers=1, cores=4, memory_bytes=7)
    h.client_says("want", executor=3, workers=1, cores=0, memory_bytes=7, kind="memory")  # the site lends no region
    assert h.core.shortfalls() == (Shortfall(Size(1, 5), 3), Shortfall(Size(4, 7), 1))
    assert h.core.slices() == frozenset()
    h.serve()
    assert Shortfall(Size(4, 7), 1) in h.core.shortfalls()
    assert len(h.core.slices()) == 1
    h.step(Stop())
    assert h.core.shortfalls() == ()


def test_who_waits_hears_why_the_site_lends_nothing_until_it_does(h):
    h.want(2)
    h.take()
    h.step(SiteSaid(1, 5, "no-room", "later"))
    h.step(SiteSaid(9, 5, "no-room", "of another size"))
    h.step(AllocatorSaid(Waiting(CLIENT, 1, 2, "nobody is here", "leased", None, "")))
    first, second = h.said()
    assert (first["m"], first["reason"], first["hint"]) == ("queued", "the site lends nothing now (no-room)", "later")
    assert "the site lends nothing" in second["reason"]
    h.step(SiteSaid(1, 5, "", ""))
    h.step(AllocatorSaid(Waiting(CLIENT, 1, 2, "nobody is here", "leased", None, "")))
    assert [m["reason"] for m in h.said()] == ["nobody is here"]


def test_what_the_site_never_lends_is_denied_to_who_holds_nothing(h):
    h.want(2)
    h.take()
    h.step(SiteSaid(1, 5, "too-large", "ask for less", for_good=True))
    effects = h.take()
    denied = {"m": "denied", "executor": 1, "code": "too-large", "hint": "ask for less"}
    assert ToClient(1, denied) in effects
    assert to_allocator(effects) == [Want(CLIENT, 1, 0, 1, 5)]
    assert h.core.shortfalls() == ()


def test_an_environment_that_fails_is_denied_once_and_not_asked_for_again(h):
    h.want(2)
    h.serve(1)
    h.serve(2)
    h.take()
    h.agent_says("refused", 1, code="environment-failed", hint="no module named rfaas")
    h.agent_says("refused", 2, code="environment-failed", hint="no module named rfaas")
    effects = h.take()
    told = [e.message for e in effects if isinstance(e, ToClient)]
    assert [m["m"] for m in told] == ["denied", "ended", "ended"]
    assert (told[0]["code"], told[0]["hint"]) == ("environment-failed", "no module named rfaas")
    assert to_allocator(effects)[0] == Want(CLIENT, 1, 0, 1, 5)


def test_a_lease_that_was_given_up_is_not_taken_again_when_its_grant_is_repeated(h):
    h.want(2)
    h.serve()
    h.step(AllocatorDown("killed"))
    h.step(AgentDown(AGENT, "closed"))
    h.step(AgentDown(AGENT, "refused", refused=True))
    h.take()
    h.link()
    h.grant()
    assert to_allocator(h.take())[-1] == ReleaseLease(CLIENT, lease(1), 6)
    assert h.said() == []


# --- a client ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["gone", "leave"])
def test_a_client_that_ended_frees_all_at_agent_and_allocator(h, way):
    h.want(2)
    channel = h.serve(1)
    h.serve(2)
    h.step(ClientGone(1)) if way == "gone" else h.client_says("leave")
    effects = h.take()
    assert {m["lease"] for m in to_agent(effects, "release")} == {lease(1), lease(2)}
    assert {m["reason_code"] for m in to_agent(effects, "release")} == {12}
    assert to_allocator(effects) == [HolderGone(CLIENT, 12)]
    assert CloseData(channel) in effects
    h.agent_says("ended", 1, reason="released", reason_code=12)
    h.step(DataUp(channel))
    assert h.take() == [CloseData(channel)]


def test_a_client_s_end_while_the_link_is_broken_is_told_on_the_next_one(h):
    h.want(1)
    h.serve()
    h.step(AllocatorDown("killed"))
    h.step(ClientGone(1))
    h.take()
    h.link()
    assert to_allocator(h.take()) == [HolderHello(CLIENT, 1, "python (pid 4711)", ()), HolderGone(CLIENT, 12)]


def test_it_leaves_some_seconds_after_its_last_client(h):
    h.join(conn=2, client=OTHER)
    h.step(ClientGone(1))
    h.advance(60)
    assert Leave() not in h.take()
    h.step(ClientGone(2))
    h.advance(4.9)
    assert Leave() not in h.take()
    h.advance(0.2)
    assert Leave() in h.take()


def test_a_client_that_joins_while_it_lingers_keeps_it(h):
    h.step(ClientGone(1))
    h.advance(3)
    h.join(conn=2, client=OTHER)
    h.advance(60)
    assert Leave() not in h.take()


def test_embedded_leaves_at_once():
    h = Harness(linger_s=0.0, mode="embedded")
    h.link()
    h.join()
    h.step(ClientGone(1))
    assert h.take()[-1] == Leave()


def test_it_leaves_when_nobody_ever_joins():
    h = Harness()
    h.link()
    h.advance(11)
    assert Leave() in h.take()


def test_stop_releases_everything_and_leaves_when_the_farewells_are_there(h):
    h.want(1)
    channel = h.serve()
    h.step(DataUp(channel))
    h.take()
    h.step(Stop())
    effects = h.take()
    assert to_allocator(effects) == [Want(CLIENT, 1, 0, 1, 5), ReleaseLease(CLIENT, lease(1), 6)]
    assert len(to_agent(effects, "release")) == 1
    assert Leave() not in effects
    h.agent_says("farewell", 1, slot=0, generation=1, channel=channel, last_started=0, last_done=0, reason_code=6)
    h.agent_says("ended", 1, reason="released", reason_code=6)
    effects = h.take()
    assert [e.message["m"] for e in effects if isinstance(e, ToClient)] == ["farewell", "ended"]
    assert effects[-2:] == [DropClient(1), Leave()]


def test_stop_waits_for_silent_agents_only_so_long(h):
    h.want(1)
    h.serve()
    h.step(Stop())
    h.join(conn=2, client=OTHER)
    assert DropClient(2) in h.take()
    h.advance(1.1)
    assert Leave() in h.take()


def test_a_second_stop_waits_for_nobody(h):
    h.want(1)
    h.serve()
    h.step(Stop())
    h.step(Stop())  # of a client that ended meanwhile, say
    assert Leave() not in h.take()
    h.step(Stop(at_once=True))
    assert Leave() in h.take()


# --- the allocator's link -------------------------------------------------------------------------------------


def test_a_broken_link_stops_no_lease_and_tells_who_waits(h):
    h.want(1)
    channel = h.serve()
    h.step(DataUp(channel))
    h.take()
    h.step(AllocatorDown("killed"))
    assert [(m["m"], m["executor"]) for m in h.said()] == [("queued", 1)]
    h.advance(TTL_S)
    assert len(to_agent(h.take(), "heartbeat")) == 4  # not answered here: the last one before it is given up


def test_held_leases_and_wants_are_said_again_on_the_next_link(h):
    h.want(2)
    h.serve()
    h.want(1, executor=2)
    h.step(AllocatorDown("killed"))
    h.want(3, executor=2)
    h.take()
    h.step(AllocatorUp())
    assert to_allocator(h.take()) == [
        HolderHello(CLIENT, 1, "python (pid 4711)", (lease(1),)),
        Want(CLIENT, 1, 2, 1, 5),
        Want(CLIENT, 2, 3, 1, 5),
    ]


def test_what_was_released_meanwhile_is_not_held_on_the_next_link(h):
    h.want(1)
    h.serve()
    h.step(AllocatorDown("killed"))
    h.client_says("cancel-lease", lease=lease(1))
    h.take()
    h.step(AllocatorUp())
    assert to_allocator(h.take()) == [
        HolderHello(CLIENT, 1, "python (pid 4711)", ()),
        Want(CLIENT, 1, 1, 1, 5),
        ReleaseLease(CLIENT, lease(1), 6),
    ]


@pytest.mark.parametrize(("heard", "told"), [(True, []), (False, [ReleaseLease(CLIENT, lease(1), 1)])])
def test_a_lease_that_ended_is_given_back_if_the_allocator_did_not_hear_of_it(h, heard, told):
    h.want(1)
    h.serve()
    h.agent_says("ended", 1, reason="reclaimed", reason_code=1)
    if heard:
        h.step(AllocatorSaid(Ended(CLIENT, lease(1), "reclaimed", 1)))
    h.take()
    h.advance(2.5)
    assert to_allocator(h.take()) == told


def test_the_allocator_s_ended_waits_for_the_agent_s_own_words(h):
    h.want(1)
    channel = h.serve()
    h.step(DataUp(channel))
    h.take()
    h.step(AllocatorSaid(Ended(CLIENT, lease(1), "reclaimed", 1)))
    assert h.said() == []
    h.agent_says("farewell", 1, slot=0, generation=1, channel=channel, last_started=2, last_done=1, reason_code=1)
    h.agent_says("ended", 1, reason="reclaimed", reason_code=1)
    h.advance(5)
    assert [m["m"] for m in h.said()] == ["farewell", "ended"]


def test_the_allocator_s_ended_is_believed_when_the_agent_says_nothing(h):
    h.want(1)
    channel = h.serve()
    h.step(DataUp(channel))
    h.take()
    h.step(AllocatorSaid(Ended(CLIENT, lease(1), "lost", 3)))
    h.advance(1.1)
    messages = h.said()
    assert [m["m"] for m in messages] == ["lost", "ended"]
    assert (messages[0]["channels"], messages[0]["reason_code"]) == ([channel], 3)
    assert not [e for e in h.take(ToAgent)]


# --- resuming -------------------------------------------------------------------------------------------------


def resumed(number=1, channels=()):
    return {
        "lease": lease(number),
        "lease_seq": 1,
        "epoch": 3,
        "slice": b"s" * 16,
        "address": AGENT,
        "node": "n1",
        "executor": 1,
        "workers": 1,
        "ttl_s": TTL_S,
        "channels": list(channels),
    }


def test_a_resumed_lease_is_attached_and_its_live_channels_stay():
    h = Harness()
    h.link()
    h.join(resume=[resumed(channels=[[55, 0, 2]])])
    assert to_allocator(h.take()) == [HolderHello(CLIENT, 1, "python (pid 4711)", (lease(1),))]
    h.agent_up()
    assert [m["lease"] for m in to_agent(h.take(), "attach")] == [lease(1)]
    h.agent_says("worker-up", 1, slot=0, generation=2, pid=9)
    assert h.take(DialData) == []
    h.agent_says("farewell", 1, slot=0, generation=2, channel=55, last_started=8, last_done=7, reason_code=14)
    assert [(m["m"], m["channel"], m["last_started"]) for m in h.said()] == [("farewell", 55, 8)]


def test_a_channel_whose_worker_was_replaced_unseen_is_lost_and_a_new_one_opened():
    h = Harness()
    h.link()
    h.join(resume=[resumed(channels=[[55, 0, 2]])])
    h.agent_up()
    h.take()
    h.agent_says("worker-up", 1, slot=0, generation=3, pid=9)
    effects = h.take()
    assert [(e.message["m"], e.message["channels"]) for e in effects if isinstance(e, ToClient)] == [("lost", [55])]
    assert len([e for e in effects if isinstance(e, DialData)]) == 1


def test_leases_are_resumed_before_the_allocator_is_reached():
    h = Harness()
    h.join(resume=[resumed(channels=[[55, 0, 2]])])
    effects = h.take()
    assert DialAgent(AGENT) in effects
    assert to_allocator(effects) == []
    h.agent_up()
    assert [m["lease"] for m in to_agent(h.take(), "attach")] == [lease(1)]
    h.link()
    assert to_allocator(h.take()) == [HolderHello(CLIENT, 1, "python (pid 4711)", (lease(1),))]


def test_a_resumed_lease_that_its_agent_no_longer_has_is_lost():
    h = Harness()
    h.link()
    h.join(resume=[resumed(channels=[[55, 0, 2]])])
    h.agent_up()
    h.take()
    h.agent_says("refused", 1, code="not-found", hint="")
    effects = h.take()
    told = [e.message for e in effects if isinstance(e, ToClient)]
    assert [(m["m"], m["reason_code"]) for m in told] == [("lost", 13), ("ended", 13)]
    assert to_allocator(effects) == [ReleaseLease(CLIENT, lease(1), 13)]
