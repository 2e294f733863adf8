"""The book of the harvester's own jobs: which ended with proof, which without, and which must leave their nodes."""

from dataclasses import replace

import pytest

from rfaas.control.messages import JobEnded, JobEnding, JobRef
from rfaas_slurm_plugin.harvest.slices import LEAD_S, LONGEST_WAIT_S, SliceBook
from rfaas_slurm_plugin.views.view import ClusterView, Reservation

from .test_policy import JOB, NODE

ALLOC_ID = "ab" * 16
OURS = replace(JOB, job_id=7, comment=f"rfaas:{ALLOC_ID}:500", name="rfaas-slice", partition="harvest")
REF = JobRef("7", 500)
NOW_S = 10_000.0


@pytest.fixture
def book():
    book = SliceBook(ALLOC_ID, grace_s=5.0)
    read(book, OURS)
    return book


def read(book, *jobs, node=NODE, reservations=(), now_s=NOW_S, boot_s=0.0):
    return book.read(ClusterView(boot_s, (node,), jobs, tuple(reservations)), now_s)


def ended(state):
    return replace(OURS, state=state)


def test_others_jobs_and_other_allocators_are_not_ours():
    book = SliceBook(ALLOC_ID, grace_s=5.0)
    read(book, JOB, replace(OURS, comment=f"rfaas:{'cd' * 16}:500"), OURS)
    assert book.not_dead == [REF]


@pytest.mark.parametrize("state", ["PREEMPTED", "COMPLETED", "CANCELLED", "TIMEOUT"])
def test_an_end_is_told_once(book, state):
    news = read(book, ended(state))
    assert news.over == {REF: JobEnded("7", 500, state)}
    assert news.over_on == ("n1",)
    assert book.not_dead == []
    assert not read(book, ended(state)).over


def test_a_job_that_completes_is_still_alive(book):
    assert not read(book, ended("COMPLETING")).over
    assert book.not_dead == [REF]


def test_a_forgotten_job_is_told_as_such(book):
    assert read(book).over == {REF: JobEnded("7", 500, "FORGOTTEN")}


def test_a_reused_job_id_is_another_job(book):
    news = read(book, replace(OURS, comment=f"rfaas:{ALLOC_ID}:501"))
    assert news.over == {REF: JobEnded("7", 500, "FORGOTTEN")}
    assert book.not_dead == [JobRef("7", 501)]


@pytest.mark.parametrize(
    ("state", "node"),
    [
        ("NODE_FAIL", NODE),
        ("CANCELLED", replace(NODE, states=frozenset({"DOWN", "NOT_RESPONDING"}))),
        ("COMPLETED", replace(NODE, states=frozenset({"IDLE", "NOT_RESPONDING"}))),
    ],
)
def test_slurms_word_about_a_silent_node_proves_nothing_until_it_has_booted(book, state, node):
    node = replace(node, boot_time_s=int(NOW_S) - 1000)
    assert read(book, ended(state), node=node).over == {REF: JobEnded("7", 500, "NODE_FAIL")}
    assert book.not_dead == [REF]
    back = replace(NODE, boot_time_s=node.boot_time_s, slurmd_start_time_s=int(NOW_S) + 5)
    assert not read(book, ended(state), node=back).over  # slurmd alone came back: the step may live
    rebooted = replace(NODE, boot_time_s=int(NOW_S) + 5)
    assert read(book, ended(state), node=rebooted).over == {REF: JobEnded("7", 500, "NODE_REBOOTED")}
    assert book.not_dead == []


def test_a_harvester_that_starts_later_does_not_take_a_failed_node_for_proof():
    book = SliceBook(ALLOC_ID, grace_s=5.0)
    assert not read(book, ended("NODE_FAIL")).over
    assert book.not_dead == [REF]


@pytest.mark.parametrize("states", [{"MIXED", "DRAIN"}, {"DRAINING"}, {"ALLOCATED", "REBOOT_REQUESTED"}])
def test_slices_must_leave_a_node_that_an_administrator_waits_for(book, states):
    node = replace(NODE, states=frozenset(states))
    for later_s in (0, 5):
        news = read(book, OURS, node=node, now_s=NOW_S + later_s, boot_s=100.0 + later_s)
        assert news.ending == (JobEnding("7", 500, 2),)
    assert book.useless(4.0, 105.0, NOW_S + 5) == [7]
    assert book.useless(6.0, 105.0, NOW_S + 5) == []
    read(book, ended("COMPLETED"), node=node)
    assert book.useless(4.0, 150.0, NOW_S + 50) == []


def test_a_wall_clock_that_is_set_forward_takes_no_grace_from_a_slice_that_leaves(book):
    node = replace(NODE, states=frozenset({"DRAINING"}))
    read(book, OURS, node=node, boot_s=100.0)
    read(book, OURS, node=node, now_s=NOW_S + 3600, boot_s=101.0)
    assert book.useless(4.0, 101.0, NOW_S + 3600) == []
    assert book.useless(4.0, 105.0, NOW_S - 3600) == [7]


def test_slices_leave_before_a_reservation_that_was_made_after_they_began(book):
    start_s = int(NOW_S) + 1000
    reservation = Reservation("maint", ("n1", "n2"), start_s, start_s + 600, frozenset({"MAINT"}))
    soon_s = start_s - LEAD_S - 5.0
    assert not read(book, OURS, reservations=[reservation], now_s=soon_s - 1).ending
    assert read(book, OURS, reservations=[reservation], now_s=soon_s).ending
    in_time = replace(OURS, end_time_s=start_s - 30)
    assert not read(book, in_time, reservations=[reservation], now_s=soon_s).ending
    elsewhere = replace(reservation, nodes=("n2",))
    assert not read(book, OURS, reservations=[elsewhere], now_s=soon_s).ending


def test_a_job_of_ours_that_waits_too_long_is_useless(book):
    waiting = replace(OURS, state="PENDING", submit_time_s=int(NOW_S))
    read(book, waiting)
    assert book.useless(5.0, 0.0, NOW_S + LONGEST_WAIT_S - 1) == []
    assert book.useless(5.0, 0.0, NOW_S + LONGEST_WAIT_S + 1) == [7]


ALICES = replace(JOB, job_id=9, user="alice", comment="mine", name="mpi", partition="rigid")


@pytest.fixture
def sharing_book():
    book = SliceBook(ALLOC_ID, grace_s=5.0, user="alice")
    read(book, ALICES, replace(ALICES, job_id=10, user="bob"), replace(ALICES, job_id=11, state="PENDING", nodes=()))
    return book


def test_the_users_own_running_jobs_are_told_alive_since_they_may_share_their_nodes(sharing_book):
    assert sharing_book.not_dead == [JobRef("9", 0)]


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELLED", None])
def test_the_end_of_such_a_job_is_told_once_and_leaves_its_node_open_to_harvest(sharing_book, state):
    jobs = [] if state is None else [replace(ALICES, state=state)]
    news = read(sharing_book, *jobs)
    assert news.over == {JobRef("9", 0): JobEnded("9", 0, state or "FORGOTTEN")}
    assert news.over_on == ()
    assert not read(sharing_book, *jobs).over
    assert sharing_book.not_dead == []


def test_such_a_job_is_never_told_to_leave_nor_cancelled(sharing_book):
    node = replace(NODE, states=frozenset({"DRAINING"}))
    assert read(sharing_book, ALICES, node=node).ending == ()
    assert sharing_book.useless(0.0, 1e6, NOW_S + 10 * LONGEST_WAIT_S) == []


def test_on_a_node_that_slurm_gave_up_its_end_is_no_proof(sharing_book):
    silent = replace(NODE, states=frozenset({"DOWN", "NOT_RESPONDING"}))
    assert read(sharing_book, replace(ALICES, state="NODE_FAIL"), node=silent).over == {
        JobRef("9", 0): JobEnded("9", 0, "NODE_FAIL")
    }
    assert JobRef("9", 0) in sharing_book.not_dead
