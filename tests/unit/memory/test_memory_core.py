"""What becomes of a borrowed region, event by event: no session, no memory, no clock."""

import pytest

import rfaas
from rfaas.client.events import (
    ChannelOpened,
    ChannelsCondemned,
    Denied,
    LeaseEnded,
    LeaseGranted,
    Notice,
    Queued,
    SessionFailed,
    SessionLost,
    SessionUp,
)
from rfaas.client.records import ChannelInfo, Lease, Verdict
from rfaas.memory import events as on
from rfaas.memory.core import RDMA_WAIT_S, REDIAL_WAIT_S, MemoryCore, Stage
from rfaas_transport.errors import ReasonCode


class Region:
    """A core with what it asked for last."""

    def __init__(self, when_reclaimed="lose", acquire_timeout_s=None, **options):
        self.now_s = 50.0
        self.core = MemoryCore(when_reclaimed, acquire_timeout_s, self.now_s, **options)
        self.did = self.core.start()

    def step(self, event):
        self.did = self.core.step(event, self.now_s)
        return self.did

    def pass_time(self, seconds):
        self.now_s += seconds
        return self.step(on.Tick())

    def up(self):
        self.step(SessionUp(embedded=False))

    def lend(self, name=b"a", number=1, node="n1"):
        """A lender comes, with its channel."""
        self.step(LeaseGranted(Lease(name, 1, 1, b"s", "unix:@x", node, 1, 10.0)))
        return self.step(ChannelOpened(ChannelInfo(number, name, 1, 1, 4, 1, node)))

    def serving(self):
        self.up()
        self.lend()
        return self

    def error(self):
        [fail] = [effect for effect in self.did if isinstance(effect, on.Fail)]
        return fail.error


def notice(name=b"a", grace_s=5.0):
    return Notice(name, (1,), ReasonCode.SLURM_PREEMPT, grace_s, "n1")


def farewell(number=1, code=ReasonCode.SLURM_PREEMPT, hint=""):
    return ChannelsCondemned((number,), Verdict(code, 0, hint=hint))


def test_it_joins_wants_one_region_and_uses_the_channel_that_comes():
    region = Region()
    assert region.did == [on.Join()]
    assert region.step(SessionUp(embedded=True)) == [on.SayWant(1, keep=True)]
    assert region.core.stage is Stage.WAITING
    assert region.lend() == [on.Use(1)]
    assert (region.core.stage, region.core.node, region.core.lease_id) == (Stage.SERVING, "n1", b"a")


def test_without_a_session_process_it_fails_with_that_error():
    region = Region()
    region.step(SessionFailed(rfaas.AllocatorUnavailable("nobody")))
    assert isinstance(region.error(), rfaas.AllocatorUnavailable)
    assert region.core.stage is Stage.LOST
    region = Region()
    region.step(SessionFailed(rfaas.VersionMismatch("newer")))
    assert isinstance(region.error(), rfaas.VersionMismatch)


def test_who_waits_too_long_is_told_what_for():
    region = Region(acquire_timeout_s=3.0)
    region.up()
    region.step(Queued("all memory is lent", ""))
    assert region.core.wake_at_s == 53.0
    region.pass_time(3.0)
    assert isinstance(region.error(), rfaas.AcquireTimeout)
    assert "all memory is lent" in str(region.error())
    assert on.SayWant(0) in region.did  # what comes late is given back


@pytest.mark.parametrize(("code", "reason"), [("quota", ReasonCode.QUOTA), ("lease-denied", ReasonCode.NONE)])
def test_what_can_never_be_is_denied(code, reason):
    region = Region()
    region.up()
    region.step(Denied(code, "too much"))
    assert isinstance(region.error(), rfaas.LeaseDenied)
    assert region.error().reason_code is reason


@pytest.mark.parametrize("tried", [False, True])
def test_a_lender_that_rdma_alone_was_to_reach_and_does_not_is_a_mistake_in_the_configuration(tried):
    region = Region()
    region.up()
    if tried:
        region.lend()
        region.step(on.ChannelFailed(1))
    region.step(Denied("verbs-unavailable", "n1 says: no RDMA device is here"))
    assert isinstance(region.error(), rfaas.ConfigError)
    assert "n1 says" in str(region.error())


def test_a_program_that_can_not_make_its_first_channel_is_told_why():
    region = Region()
    region.up()
    region.step(LeaseGranted(Lease(b"a", 1, 1, b"s", "unix:@x", "n1", 1, 10.0)))
    region.step(on.OpenFailed("OSError: [Errno 27] File too large"))
    assert isinstance(region.error(), rfaas.ConfigError)
    assert "File too large" in str(region.error())


def test_a_program_that_can_not_make_a_channel_again_is_told_when_the_content_is_given_up():
    region = Region().serving()
    region.step(on.ChannelFailed(1))
    region.step(on.OpenFailed("OSError: [Errno 24] Too many open files"))
    region.pass_time(REDIAL_WAIT_S)
    assert isinstance(region.error(), rfaas.MemoryLost)
    assert "Too many open files" in str(region.error())


def test_rdma_that_ends_for_good_under_a_region_in_use_loses_its_content():
    region = Region().serving()
    region.step(on.Reached())
    region.step(on.ChannelFailed(1))
    region.step(Denied("verbs-unavailable", "RDMA to n1 can't be had: no port is up"))
    assert isinstance(region.error(), rfaas.MemoryLost)
    assert "no port is up" in str(region.error())


def test_a_port_that_is_down_for_a_while_costs_no_content():
    region = Region(rdma_only=True).serving()
    region.step(on.Reached())
    assert on.Hold() in region.step(on.ChannelFailed(1))
    for number in (2, 3):
        region.lend(number=number)
        region.step(on.Unusable(number, "no port is up"))
        region.pass_time(RDMA_WAIT_S / 3)
        assert region.core.stage is Stage.SERVING
    assert region.lend(number=4) == [on.Use(4)]
    assert region.core.wake_at_s is None


def test_a_lender_that_says_its_port_is_down_is_waited_for_as_long_and_named():
    region = Region(rdma_only=True).serving()
    region.step(on.ChannelFailed(1))
    region.step(Queued("no RDMA now: n1 says: no port is up", ""))
    region.pass_time(RDMA_WAIT_S - 0.1)
    assert region.core.stage is Stage.SERVING
    region.pass_time(0.1)
    assert isinstance(region.error(), rfaas.MemoryLost)
    assert "n1 says: no port is up" in str(region.error())


def test_a_port_that_stays_down_is_given_up_with_the_reason_and_no_dialling_puts_that_off():
    region = Region(rdma_only=True).serving()
    region.step(on.Reached())
    region.step(on.ChannelFailed(1))
    for number in range(2, 5):
        region.lend(number=number)
        region.step(on.Unusable(number, "no port is up"))
        region.pass_time(RDMA_WAIT_S / 3)
    assert isinstance(region.error(), rfaas.MemoryLost)
    assert "no port is up" in str(region.error())


def test_that_rdma_does_not_reach_the_next_lender_harms_none_that_serves():
    region = Region("move").serving()
    region.step(Denied("verbs-unavailable", "n2 says: no RDMA device is here"))
    assert region.did == []
    assert region.core.stage is Stage.SERVING


def test_lose_goes_on_through_the_grace_and_ends_typed():
    region = Region("lose").serving()
    assert region.step(notice()) == [on.SayWant(0, keep=True), on.Tell(region.did[1].notice)]
    assert region.core.stage is Stage.LEAVING
    region.step(farewell())
    error = region.error()
    assert type(error) is rfaas.MemoryLost
    assert (error.reason_code, error.grace_s, error.node, error.lease_id) == (ReasonCode.SLURM_PREEMPT, 5.0, "n1", b"a")
    assert "spill" in error.hint
    assert region.core.stage is Stage.LOST


def test_a_notice_that_comes_before_the_channel_counts():
    region = Region("spill")
    region.up()
    region.step(LeaseGranted(Lease(b"a", 1, 1, b"s", "unix:@x", "n1", 1, 10.0)))
    assert region.step(notice()) == []
    did = region.step(ChannelOpened(ChannelInfo(1, b"a", 1, 1, 4, 1, "n1")))
    assert [type(effect) for effect in did] == [on.Use, on.SayWant, on.Tell, on.Hold, on.Copy]


def test_a_lease_that_ends_says_why():
    region = Region("lose").serving()
    region.step(LeaseEnded(b"a", int(ReasonCode.KEY_VIOLATION)))
    assert region.error().reason_code is ReasonCode.KEY_VIOLATION
    assert ReasonCode.KEY_VIOLATION.text in str(region.error())


def test_spill_copies_to_the_file_then_gives_the_lease_back():
    region = Region("spill").serving()
    did = region.step(notice())
    assert did[0] == on.SayWant(0, keep=True)
    assert did[2:] == [on.Hold(), on.Copy(1, 0)]
    assert region.step(on.CopyEnded(0)) == [on.Use(0), on.Drop(1), on.GiveBack(b"a")]
    assert region.core.stage is Stage.SPILLED
    assert region.step(farewell()) == region.step(LeaseEnded(b"a")) == []


def test_a_spill_that_fails_leaves_the_grace_to_the_program_and_says_why_in_the_end():
    region = Region("spill").serving()
    region.step(notice())
    assert region.step(on.CopyEnded(0, "the disk is full")) == [on.Use(1)]
    region.step(farewell())
    assert "the disk is full" in str(region.error())


def test_move_waits_for_another_lender_copies_and_switches():
    region = Region("move").serving()
    assert [type(effect) for effect in region.step(notice())] == [on.Tell]  # the want stands
    assert region.lend(b"b", 2, "n2") == [on.Hold(), on.Copy(1, 2)]
    assert region.step(on.CopyEnded(2)) == [on.Use(2), on.Drop(1), on.GiveBack(b"a")]
    assert (region.core.stage, region.core.node) == (Stage.SERVING, "n2")
    assert region.step(farewell(1)) == []  # of the old one


def test_a_move_to_a_lender_that_dies_begins_again_with_the_next():
    region = Region("move").serving()
    region.step(notice())
    region.lend(b"b", 2)
    assert region.step(farewell(2, ReasonCode.WORKER_CRASHED)) == [on.Drop(2)]
    assert region.step(on.CopyEnded(2, "cut off")) == [on.Use(1)]
    assert region.lend(b"c", 3) == [on.Hold(), on.Copy(1, 3)]
    assert region.step(on.CopyEnded(3))[0] == on.Use(3)


def test_a_lender_that_goes_back_while_it_is_moved_to_is_left_at_once_too():
    region = Region("move").serving()
    region.step(notice())
    region.lend(b"b", 2)
    region.step(notice(b"b"))
    did = region.step(on.CopyEnded(2))
    assert region.core.stage is Stage.LEAVING
    assert [type(effect) for effect in did] == [on.Use, on.Drop, on.GiveBack, on.Tell]
    assert region.lend(b"c", 3) == [on.Hold(), on.Copy(2, 3)]


def test_a_move_that_found_nobody_is_a_loss_that_says_so():
    region = Region("move").serving()
    region.step(notice())
    region.step(Queued("no slice has 4096 MiB free", ""))
    region.step(farewell())
    assert "no slice has 4096 MiB free" in str(region.error())


@pytest.mark.parametrize("when_reclaimed", ["lose", "move", "spill"])
def test_a_lender_that_dies_takes_the_content_along(when_reclaimed):
    region = Region(when_reclaimed).serving()
    region.step(farewell(1, ReasonCode.WORKER_CRASHED, "the memory server was killed by SIGKILL"))
    assert type(region.error()) is rfaas.MemoryLost
    assert region.error().reason_code is ReasonCode.WORKER_CRASHED
    assert "SIGKILL" in str(region.error())
    assert region.error().grace_s is None
    assert on.Drop(1) in region.did
    assert on.SayWant(0) in region.did


def test_a_channel_that_broke_alone_is_waited_for():
    region = Region().serving()
    assert region.step(on.ChannelFailed(1)) == [on.Drop(1), on.Hold()]
    assert region.step(farewell(1, ReasonCode.NONE)) == []
    assert region.core.stage is Stage.SERVING
    opened = ChannelOpened(ChannelInfo(2, b"a", 1, 1, 4, 1, "n1"))
    assert region.step(opened) == [on.Use(2)]
    assert region.core.wake_at_s is None


def test_the_farewell_of_a_channel_that_is_gone_already_says_why():
    region = Region().serving()
    region.step(on.ChannelFailed(1))
    region.step(farewell(1, ReasonCode.WORKER_CRASHED, "killed by SIGKILL"))
    assert region.error().reason_code is ReasonCode.WORKER_CRASHED


def test_a_channel_that_never_comes_back_is_a_loss():
    region = Region().serving()
    region.step(on.ChannelFailed(1))
    assert region.pass_time(REDIAL_WAIT_S - 0.1) == []
    region.pass_time(0.2)
    assert type(region.error()) is rfaas.MemoryLost


def test_a_copy_that_was_cut_off_by_a_broken_channel_goes_on_over_the_next():
    region = Region("spill").serving()
    region.step(notice())
    region.step(on.ChannelFailed(1))
    region.step(on.CopyEnded(0, "the copy was cut off"))
    opened = ChannelOpened(ChannelInfo(2, b"a", 1, 1, 4, 1, "n1"))
    assert region.step(opened) == [on.Hold(), on.Copy(2, 0)]


def test_a_lost_session_process_is_joined_again_with_what_is_held():
    region = Region().serving()
    [join] = region.step(SessionLost())
    [(lease, opened)] = join.resume
    assert (lease.lease, opened.info.number) == (b"a", 1)
    assert region.step(SessionFailed(rfaas.AllocatorUnavailable("not yet"))) == []
    [again] = region.pass_time(1.0)
    assert again == join
    assert region.step(SessionUp(embedded=False)) == [on.SayWant(1, keep=True)]
    assert region.core.stage is Stage.SERVING


def test_an_embedded_session_process_takes_its_lender_along():
    region = Region()
    region.step(SessionUp(embedded=True))
    region.lend()
    region.step(SessionLost())
    assert region.error().reason_code is ReasonCode.AGENT_LOST


def test_closing_gives_all_back_and_nothing_comes_after():
    region = Region().serving()
    assert region.step(on.CloseAsked()) == [on.SayWant(0), on.Leave()]
    assert region.lend(b"b", 2) == [on.Drop(2)]
    assert region.step(farewell()) == []


def test_a_lender_that_nobody_wants_any_more_is_given_back():
    region = Region("spill").serving()
    region.step(notice())
    assert region.step(LeaseGranted(Lease(b"b", 2, 1, b"s", "unix:@x", "n2", 1, 10.0))) == [on.GiveBack(b"b")]
