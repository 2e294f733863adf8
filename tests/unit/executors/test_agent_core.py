"""The agent's decisions, event by event: leases, sessions, reclaim."""

import pytest
from unit.executors.agent_model import Shell

from rfaas.control.messages import (
    Ending,
    EndLease,
    EndSlice,
    Freed,
    Propose,
    Refused,
    Register,
    Registered,
    SliceEmpty,
    StateChanged,
)
from rfaas_executors import agent_events as on
from rfaas_executors.agent_core import RELEASE_S
from rfaas_transport.errors import ReasonCode


@pytest.fixture
def shell():
    shell = Shell()
    shell.up()
    return shell


# --- registering ------------------------------------------------------------------------------------


def test_it_registers_on_each_link_with_what_it_holds_and_keeps_its_epoch(shell):
    terms = shell.lease()
    shell.step(on.AllocatorDown())
    shell.step(on.AllocatorUp())
    first, second = shell.of(Register)
    assert (first.epoch, first.held, first.clean) == (0, (), True)
    assert second.epoch == 1
    assert [held.terms for held in second.held] == [terms]
    assert second.held[0].state == "ACTIVE"


def test_an_epoch_never_goes_back(shell):
    shell.step(on.AllocatorSaid(Registered(5, 2)))
    shell.step(on.AllocatorSaid(Registered(3, 1)))
    assert shell.core.epoch == 5


def test_the_end_of_the_slice_counts_from_each_message():
    shell = Shell(end_in_s=100.0)
    shell.up()
    shell.pass_time(30.0)
    shell.step(on.AllocatorUp())
    assert [message.slice.end_in_s for message in shell.of(Register)] == [100.0, 70.0]


# --- proposals --------------------------------------------------------------------------------------


def test_a_proposal_takes_the_lowest_free_cores(shell):
    a, b = shell.propose(b"a", 1, cores=2), shell.propose(b"b", 2)
    assert shell.accepted(a)[0].core_ids == (0, 1)
    assert shell.accepted(b)[0].core_ids == (2, 3)
    assert shell.state(a) == "GRANTED"


def test_a_repeated_proposal_is_answered_and_takes_nothing(shell):
    terms = shell.propose()
    shell.step(on.AllocatorSaid(Propose(terms)))
    assert len(shell.accepted(terms)) == 2
    assert shell.core.cores.n_free == 3


def test_a_proposal_of_a_lease_that_ended_is_not_granted_again(shell):
    terms = shell.propose()
    shell.step(on.AllocatorSaid(EndLease(terms.lease_id, 12)))
    shell.step(on.AllocatorSaid(Propose(terms)))
    assert [(m.reason, m.reason_code) for m in shell.of(Freed)] == [("released", 12)] * 2
    assert shell.core.cores.n_free == 4


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"epoch": 2}, "stale-epoch"),
        ({"slice_id": b"t" * 16}, "unknown-slice"),
        ({"workers": 5}, "no-room"),
        ({"workers": 0}, "no-room"),
        ({"cores": 5}, "no-room"),
        ({"memory": 1 << 31}, "no-room"),
    ],
)
def test_a_proposal_that_does_not_fit_is_refused_with_its_code(shell, change, code):
    shell.propose(**change)
    assert [message.code for message in shell.of(Refused)] == [code]
    assert shell.core.cores.n_free == 4


def test_nothing_is_granted_before_the_first_epoch_or_while_draining():
    shell = Shell()
    shell.step(on.AllocatorUp())
    shell.propose(epoch=0)
    shell.step(on.AllocatorSaid(Registered(1, 1)))
    shell.lease(b"b")
    shell.step(on.ReclaimAsked(1))
    shell.propose(b"c")
    assert [message.code for message in shell.of(Refused)] == ["stale-epoch", "draining"]


# --- attaching --------------------------------------------------------------------------------------


def test_attaching_starts_a_template_and_a_worker_for_each_seat(shell):
    terms = shell.propose(workers=2)
    shell.attach(terms)
    assert shell.words("attached")[0]["cores"] == [0, 1]
    assert len(shell.templates) == 1
    assert len(shell.living) == 2
    shell.fork_all()
    assert [(w["slot"], w["generation"]) for w in shell.words("worker-up")] == [(0, 1), (1, 1)]
    assert [m.state for m in shell.of(StateChanged)] == ["ACTIVE"]


def test_attaching_again_is_answered_as_the_first_time_and_starts_nothing(shell):
    terms = shell.lease(workers=2)
    shell.attach(terms, session=2)
    assert len(shell.words("attached", 2)) == 1
    assert len(shell.words("worker-up", 2)) == 2
    assert len(shell.living) == 2


def test_a_session_that_attaches_again_hears_what_ended_meanwhile(shell):
    terms = shell.lease()
    [worker] = shell.living
    shell.step(on.DataOffered(1, terms.lease_id, 0, 1, 77))
    shell.step(on.SessionGone(1))
    shell.die(worker, calls={77: (3, 2)})
    shell.fork_all()
    shell.attach(terms, session=2)
    [farewell] = shell.words("farewell", 2)
    assert (farewell["channel"], farewell["last_started"], farewell["last_done"]) == (77, 3, 2)
    assert [words["generation"] for words in shell.words("worker-up", 2)] == [2, 2]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"lease": b"z" * 16}, "not-found"),
        ({"holder": b"z" * 16}, "not-found"),
        ({"lease_seq": 8}, "stale-epoch"),
        ({"epoch": 9}, "stale-epoch"),
    ],
)
def test_a_wrong_attach_is_refused(shell, change, code):
    shell.attach(shell.propose(), **change)
    assert [words["code"] for words in shell.words("refused")] == [code]
    assert not shell.living


@pytest.mark.parametrize(
    "words",
    [
        {"m": "attach"},
        {"m": "attach", "lease": 3, "workers": 1, "ttl_s": 1, "env": {}},
        {"m": "heartbeat", "leases": 5},
        {"m": "heartbeat"},
    ],
)
def test_a_session_that_speaks_nonsense_is_hung_up_on(shell, words):
    effects = shell.step(on.SessionSaid(1, words))
    assert [type(effect) for effect in effects] == [on.HangUp]


def test_unknown_words_are_ignored(shell):
    assert shell.step(on.SessionSaid(1, {"m": "from-the-future"})) == []


# --- expiry -----------------------------------------------------------------------------------------


def test_a_lease_that_nobody_attaches_expires_after_its_ttl(shell):
    terms = shell.propose()
    assert shell.core.wake_at_s == shell.now_s + 10.0
    shell.pass_time(10.0)
    assert shell.state(terms) == "FREE"
    assert [(m.reason, m.reason_code) for m in shell.of(Freed)] == [("expired", ReasonCode.LEASE_EXPIRED)]


def test_heartbeats_renew_those_that_are_known_and_name_the_others(shell):
    terms = shell.lease()
    for _ in range(5):
        shell.pass_time(4.0)
        shell.step(on.SessionSaid(1, {"m": "heartbeat", "leases": [terms.lease_id, b"q" * 16]}))
    assert shell.state(terms) == "ACTIVE"
    assert shell.words("heartbeat-ack")[-1]["unknown"] == [b"q" * 16]


def test_a_heartbeat_on_another_connection_renews_nothing(shell):
    terms = shell.lease()
    shell.pass_time(6.0)
    shell.step(on.SessionSaid(2, {"m": "heartbeat", "leases": [terms.lease_id]}))
    assert shell.words("heartbeat-ack", 2)[0]["unknown"] == [terms.lease_id]
    shell.pass_time(6.0)
    assert shell.state(terms) == "FENCED"


def test_expiry_kills_at_once_and_frees_only_after_the_proof(shell):
    terms = shell.lease()
    [worker] = shell.living
    shell.pass_time(10.0)
    assert on.KillWorker(worker) in shell.new
    assert shell.state(terms) == "FENCED"
    assert not shell.of(Freed)
    shell.die(worker)
    assert shell.state(terms) == "FREE"
    assert shell.words("worker-down")[0]["reason_code"] == ReasonCode.LEASE_EXPIRED
    assert shell.words("ended")[0]["reason"] == "expired"


def test_no_lease_outlives_the_slices_end_minus_grace():
    shell = Shell(end_in_s=12.0, grace_s=5.0)
    shell.up()
    terms = shell.lease()
    assert shell.words("attached")[0]["expires_in_s"] == 7.0
    shell.pass_time(7.0)
    assert shell.words("notice")[0]["reason_code"] == ReasonCode.JOB_TIMELIMIT
    assert shell.state(terms) == "DRAINING"


# --- release ----------------------------------------------------------------------------------------


def test_a_release_lets_idle_workers_leave_and_kills_the_others_soon(shell):
    terms = shell.lease(workers=2)
    first, second = sorted(shell.living)
    shell.step(on.SessionSaid(1, {"m": "release", "lease": terms.lease_id, "reason_code": 6}))
    assert {e.worker for e in shell.new if isinstance(e, on.DrainWorker)} == {first, second}
    assert shell.state(terms) == "FENCED"
    shell.die(first, 0, 0)
    shell.pass_time(RELEASE_S)
    assert [e for e in shell.new if isinstance(e, on.KillWorker)] == [on.KillWorker(second)]
    shell.die(second)
    assert [words["reason_code"] for words in shell.words("worker-down")] == [6, 6]
    assert shell.words("ended")[0]["reason"] == "released"


def test_another_session_can_not_release_a_lease(shell):
    terms = shell.lease()
    shell.step(on.SessionSaid(2, {"m": "release", "lease": terms.lease_id, "reason_code": 6}))
    assert shell.state(terms) == "ACTIVE"


def test_the_allocator_ends_a_lease_also_one_that_is_gone(shell):
    terms = shell.propose()
    for _ in range(2):
        shell.step(on.AllocatorSaid(EndLease(terms.lease_id, ReasonCode.CLIENT_GONE)))
    shell.step(on.AllocatorSaid(EndLease(b"n" * 16, ReasonCode.CLIENT_GONE)))
    assert [m.lease_id for m in shell.of(Freed)] == [terms.lease_id, terms.lease_id, b"n" * 16]


# --- reclaim ----------------------------------------------------------------------------------------


def test_a_reclaim_notifies_drains_kills_at_drain_s_proves_and_leaves(shell):
    granted, active = shell.propose(b"g"), shell.lease(b"a", workers=2)
    first, second = sorted(shell.living)
    shell.step(on.ReclaimAsked(ReasonCode.SLURM_PREEMPT))
    assert shell.words("notice")[0]["leases"] == [active.lease_id]
    assert shell.of(Ending)[0].reason_code == ReasonCode.SLURM_PREEMPT
    assert shell.state(granted) == "FREE"  # it had no workers
    assert shell.state(active) == "DRAINING"
    shell.die(first, 0, 0)
    shell.pass_time(3.9)
    assert not [e for e in shell.effects if isinstance(e, on.KillWorker)]
    shell.pass_time(0.1)
    assert on.KillWorker(second) in shell.new
    assert not shell.left
    shell.die(second)
    assert [(m.reason, m.reason_code) for m in shell.of(Freed)] == [("reclaimed", 1)] * 2
    assert [words["grace_s"] for words in shell.words("worker-down") if "grace_s" in words] == []
    assert not shell.left
    shell.template_gone()
    assert shell.left
    assert isinstance(shell.told[-1], SliceEmpty)


def test_a_second_reclaim_changes_nothing(shell):
    shell.lease()
    shell.step(on.ReclaimAsked(1))
    before = len(shell.told)
    shell.pass_time(1.0)
    shell.step(on.ReclaimAsked(1))
    shell.step(on.AllocatorSaid(EndSlice(5)))
    assert len(shell.told) == before
    assert shell.core.wake_at_s == pytest.approx(shell.now_s + 3.0)


def test_who_can_wait_no_longer_ends_the_drain_at_once(shell):
    active = shell.lease(workers=2)
    shell.step(on.ReclaimAsked(1))
    shell.pass_time(0.5)
    killed = [on.KillWorker(worker) for worker in sorted(shell.living)]
    shell.step(on.ReclaimAsked(1, at_once=True))
    assert [effect for effect in shell.new if isinstance(effect, on.KillWorker)] == killed
    assert shell.state(active) == "FENCED"
    assert shell.core.grace_s == pytest.approx(0.5)  # what they had in the end
    assert not shell.left
    for worker in sorted(shell.living):
        shell.die(worker)
    shell.template_gone()
    assert shell.left


def test_a_reclaim_at_once_drains_nothing_and_says_that_there_was_no_grace(shell):
    terms = shell.lease()
    shell.step(on.DataOffered(900, terms.lease_id, 0, 1, 7))
    shell.step(on.ReclaimAsked(1, at_once=True))
    [killed] = [effect.worker for effect in shell.new if isinstance(effect, on.KillWorker)]
    [notice] = shell.words("notice")
    [ending] = shell.of(Ending)
    assert (notice["grace_s"], ending.grace_s) == (0.0, 0.0)
    shell.die(killed, calls={7: (3, 2)})
    [farewell] = shell.words("farewell")
    assert (farewell["reason_code"], farewell["grace_s"], farewell["last_started"]) == (1, 0.0, 3)


def test_an_idle_slice_leaves_in_the_same_step(shell):
    shell.step(on.ReclaimAsked(1))
    assert shell.left


def test_the_allocator_may_ask_for_the_end_of_the_slice(shell):
    shell.step(on.AllocatorSaid(EndSlice(ReasonCode.ADMIN)))
    assert shell.left


def test_a_session_that_comes_back_while_draining_hears_the_notice_again(shell):
    terms = shell.lease()
    shell.step(on.SessionGone(1))
    shell.step(on.ReclaimAsked(1))
    shell.attach(terms, session=2)
    assert shell.words("attached", 2)
    assert shell.words("notice", 2)[0]["leases"] == [terms.lease_id]
    assert shell.state(terms) == "DRAINING"


def test_a_worker_that_crashes_in_a_drain_is_a_crash_and_not_the_reclaims(shell):
    terms = shell.lease(workers=2)
    first, second = sorted(shell.living)
    shell.step(on.ReclaimAsked(1))
    shell.die(first, 0, 11)
    shell.die(second, 0, 0)
    assert [w["reason_code"] for w in shell.words("worker-down")] == [ReasonCode.WORKER_CRASHED, 1]
    assert shell.state(terms) == "FREE"


# --- alone ------------------------------------------------------------------------------------------


def test_without_allocator_it_keeps_its_leases_and_leaves_only_when_it_has_none():
    shell = Shell(abandoned_after_s=60.0)
    shell.up()
    terms = shell.lease()
    shell.step(on.AllocatorDown())
    for _ in range(30):
        shell.pass_time(5.0)
        shell.step(on.SessionSaid(1, {"m": "heartbeat", "leases": [terms.lease_id]}))
    assert shell.state(terms) == "ACTIVE"
    shell.step(on.SessionSaid(1, {"m": "release", "lease": terms.lease_id, "reason_code": 6}))
    shell.kill_all()
    shell.pass_time(10.0)
    shell.template_gone()
    shell.pass_time(49.0)
    assert not shell.left
    shell.pass_time(1.0)
    assert shell.left


def test_where_a_site_says_so_it_leaves_when_nobody_has_used_it_for_a_while():
    shell = Shell(idle_after_s=120.0)
    shell.up()
    shell.pass_time(119.0)
    terms = shell.lease()
    shell.pass_time(5.0)
    shell.step(on.SessionSaid(1, {"m": "release", "lease": terms.lease_id, "reason_code": 6}))
    shell.kill_all()
    shell.pass_time(10.0)
    shell.template_gone()
    shell.pass_time(109.0)
    assert not shell.left
    shell.pass_time(1.0)
    assert shell.left


def test_an_embedded_agent_never_leaves_by_itself():
    shell = Shell(abandoned_after_s=None)
    shell.pass_time(1e6)
    assert not shell.left
    assert shell.core.wake_at_s is None
