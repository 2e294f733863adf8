"""How the session process hands channels over, interrupts their calls, and says that they ended."""

from rfaas.session.data_channels import REDIAL_DATA_S
from rfaas.session.events import (
    AgentDown,
    CloseData,
    DataDown,
    DataUp,
    DialData,
    ToAgent,
    ToClient,
)
from rfaas_transport.errors import ReasonCode
from support.session import AGENT, TTL_S, Harness, lease, to_agent


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
