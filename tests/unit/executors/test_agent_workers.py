"""The agent's decisions about workers, templates and data connections."""

import pytest
from unit.executors.agent_model import ENV, Shell

from rfaas.control.messages import Freed, Register, WorkersSpawned
from rfaas_executors import agent_events as on
from rfaas_executors.agent_core import RELEASE_S
from rfaas_executors.agent_records import FIRST_BACK_OFF_S, FREE_DEATHS, LONGEST_BACK_OFF_S
from rfaas_executors.agent_workers import FAILURE_KEPT_S, PAGE_SLOTS, TEMPLATE_TRIES
from rfaas_transport.errors import ReasonCode


@pytest.fixture
def shell():
    shell = Shell()
    shell.up()
    return shell


def offer(shell, terms, channel=1, slot=0, generation=1):
    [answer] = shell.step(on.DataOffered(900 + channel, terms.lease_id, slot, generation, channel))
    return answer


def test_workers_of_several_cores_are_pinned_to_all_of_theirs():
    shell = Shell(cores=4, cpus=(8, 9, 10, 11))
    shell.up()
    terms = shell.propose(workers=2, cores=2)
    shell.attach(terms)
    assert [(e.slot, e.cpus) for e in shell.new if isinstance(e, on.StartWorker)] == [(0, (8, 9)), (2, (10, 11))]


def test_a_data_connection_goes_to_the_worker_it_names(shell):
    terms = shell.lease()
    [worker] = shell.living
    first, second = offer(shell, terms, 5), offer(shell, terms, 6)
    assert (first.worker, first.channel, first.page_slot, first.lease_seq, first.epoch) == (worker, 5, 0, 7, 1)
    assert second.page_slot == 1
    shell.step(on.ChannelEnded(worker, 5))
    assert offer(shell, terms, 7).page_slot == 0


@pytest.mark.parametrize("change", [{"slot": 1}, {"generation": 2}, {"generation": 0}])
def test_a_data_connection_to_nobody_is_turned_away(shell, change):
    assert isinstance(offer(shell, shell.lease(), **change), on.TurnAway)


def test_a_data_connection_is_turned_away_by_another_lease_a_dying_worker_and_a_draining_lease(shell):
    terms = shell.lease()
    [worker] = shell.living
    assert isinstance(shell.step(on.DataOffered(1, b"z" * 16, 0, 1, 1))[0], on.TurnAway)
    offer(shell, terms, 1)
    assert isinstance(offer(shell, terms, 1), on.TurnAway)  # the number is taken
    shell.step(on.CallOverdue(worker))
    assert isinstance(offer(shell, terms, 2), on.TurnAway)
    other = shell.lease(b"b")
    shell.step(on.ReclaimAsked(1))
    assert isinstance(offer(shell, other, 3, slot=1), on.TurnAway)


@pytest.mark.parametrize(
    ("config", "medium", "over_network", "code"),
    [
        ({}, "", True, None),
        ({}, "tls", True, None),
        ({"encrypted_only": True}, "tls", True, None),
        ({"encrypted_only": True}, "", True, "encryption-required"),
        ({"encrypted_only": True}, "", False, None),  # a unix socket does not leave the kernel
        ({"encrypted_only": True}, "shm", False, None),
        ({"cannot_encrypt": "no OpenSSL"}, "tls", True, "encryption-unavailable"),
        ({"cannot_encrypt": "no OpenSSL"}, "", True, None),
        ({}, "verbs", True, None),
        ({"encrypted_only": True}, "verbs", True, "encryption-required"),
        ({}, "smoke", True, "not-found"),
    ],
)
def test_a_data_connection_is_encrypted_if_either_side_says_so_or_it_is_turned_away(config, medium, over_network, code):
    shell = Shell(**config)
    shell.up()
    terms = shell.lease()
    data = on.DataOffered(1, terms.lease_id, 0, 1, 1, medium, over_network=over_network)
    [answer] = shell.step(data)
    assert (answer.code if isinstance(answer, on.TurnAway) else None) == code
    assert code is not None or answer.medium == medium


def test_a_medium_that_the_host_lacks_at_the_moment_is_turned_away_with_the_reason(shell):
    terms = shell.lease()
    offered = on.DataOffered(1, terms.lease_id, 0, 1, 1, "verbs", over_network=True, obstacle="no port is up")
    [answer] = shell.step(offered)
    assert answer == on.TurnAway(1, "verbs-unavailable", "no port is up")


def test_a_worker_takes_no_more_channels_than_its_page_has_slots(shell):
    terms = shell.lease()
    answers = [offer(shell, terms, n) for n in range(PAGE_SLOTS + 1)]
    assert [type(a) for a in answers] == [on.HandOver] * PAGE_SLOTS + [on.TurnAway]


def test_a_dead_worker_says_farewell_for_each_channel_and_then_that_it_is_down(shell):
    terms = shell.lease()
    [worker] = shell.living
    for channel in 5, 6, 7:
        offer(shell, terms, channel)
    shell.step(on.ChannelEnded(worker, 6))
    shell.die(worker, 0, 11, calls={5: (9, 8), 6: (1, 1)})
    said = [words for words in shell.said[1] if words["m"] in ("farewell", "worker-down")]
    assert [words["m"] for words in said] == ["farewell", "farewell", "worker-down"]
    assert [(w["channel"], w["last_started"], w["last_done"]) for w in said[:2]] == [(5, 9, 8), (7, 0, 0)]
    assert said[0]["reason_code"] == ReasonCode.WORKER_CRASHED
    assert "SIGSEGV" in said[0]["hint"]
    assert said[0]["grace_s"] == 0.0


def test_a_dead_worker_is_replaced_at_once_under_a_name_never_used(shell):
    shell.lease()
    [worker] = shell.living
    shell.die(worker, 3, 0)
    [again] = [e for e in shell.new if isinstance(e, on.StartWorker)]
    assert (again.slot, again.generation) == (0, 2)
    assert shell.words("worker-down")[0]["reason_code"] == ReasonCode.WORKER_EXITED


def test_generations_of_a_slot_go_on_in_the_next_lease(shell):
    terms = shell.lease()
    shell.step(on.SessionSaid(1, {"m": "release", "lease": terms.lease_id, "reason_code": 6}))
    shell.kill_all()
    shell.attach(shell.propose(b"b"))
    assert [e.generation for e in shell.new if isinstance(e, on.StartWorker)] == [2]


def test_workers_that_keep_dying_young_are_replaced_more_and_more_slowly(shell):
    terms = shell.lease()
    for _ in range(FREE_DEATHS):
        shell.die(*shell.living)
        assert shell.living
    pauses = []
    for _ in range(8):
        shell.die(*shell.living)
        assert not shell.living
        pauses.append(shell.core.wake_at_s - shell.now_s)
        shell.pass_time(pauses[-1])
        assert shell.living
        shell.step(on.SessionSaid(1, {"m": "heartbeat", "leases": [terms.lease_id]}))
    assert pauses[0] == pytest.approx(FIRST_BACK_OFF_S)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_BACK_OFF_S)
    shell.pass_time(5.0)
    shell.die(*shell.living)
    assert shell.living  # it had lived long enough
    for _ in range(10):
        offer(shell, terms, generation=shell.core._book.workers[min(shell.living)].generation)
        shell.die(*shell.living, calls={1: (2, 1)})
        assert shell.living  # it had served


def test_an_overdue_call_kills_its_worker_with_its_own_reason(shell):
    terms = shell.lease()
    [worker] = shell.living
    offer(shell, terms)
    assert shell.step(on.CallOverdue(worker)) == [on.KillWorker(worker)]
    assert shell.step(on.CallOverdue(worker)) == []
    shell.die(worker, 0, 9, calls={1: (4, 3)})
    assert shell.words("farewell")[0]["reason_code"] == ReasonCode.CALL_TIMEOUT
    assert shell.living


def test_an_environment_that_fails_is_refused_ends_the_lease_and_is_not_tried_again_at_once(shell):
    terms = shell.propose(workers=2)
    shell.attach(terms)
    [template] = shell.templates
    shell.living.clear()
    shell.templates.clear()
    shell.step(on.TemplateFailed(template, "no such file"))
    assert (shell.words("refused")[0]["code"], shell.words("refused")[0]["hint"]) == (
        "environment-failed",
        "no such file",
    )
    assert shell.of(Freed)[0].reason == "released"
    shell.attach(shell.propose(b"b"))
    assert not shell.templates
    assert len(shell.words("refused")) == 2
    shell.pass_time(FAILURE_KEPT_S)
    shell.attach(shell.propose(b"c"))
    assert shell.templates


def test_a_template_that_is_killed_while_it_starts_is_tried_again_but_not_for_ever(shell):
    terms = shell.propose(workers=2)
    shell.attach(terms)
    for _ in range(TEMPLATE_TRIES - 1):
        [template] = shell.templates
        shell.living.clear()
        shell.templates.clear()
        shell.step(on.TemplateFailed(template, "status -9", killed=True))
        assert len(shell.templates) == 1
        assert len(shell.living) == 2
    assert not shell.words("refused")
    [template] = shell.templates
    shell.living.clear()
    shell.step(on.TemplateFailed(template, "status -9", killed=True))
    assert shell.words("refused")[0]["code"] == "environment-failed"
    assert shell.of(Freed)


def test_a_template_serves_all_leases_of_its_environment_and_leaves_some_time_after_the_last(shell):
    a, b = shell.lease(b"a"), shell.lease(b"b")
    other = shell.propose(b"c")
    shell.attach(other, env=ENV | {"cwd": "/tmp"})
    assert len(shell.templates) == 2
    for terms in a, b:
        shell.step(on.SessionSaid(1, {"m": "release", "lease": terms.lease_id, "reason_code": 6}))
    for worker in [w for w in shell.living if shell.lease_of[w] != other.lease_id]:
        shell.die(worker, 0, 0)
    assert shell.core.wake_at_s == shell.now_s + 10.0
    shell.step(on.SessionSaid(1, {"m": "heartbeat", "leases": [other.lease_id]}))
    shell.pass_time(9.9)
    shell.step(on.SessionSaid(1, {"m": "heartbeat", "leases": [other.lease_id]}))
    again = shell.lease(b"d")
    assert len(shell.templates) == 2
    assert shell.state(again) == "ACTIVE"
    shell.pass_time(5.0)
    assert not [e for e in shell.effects if isinstance(e, on.StopTemplate)]


def test_a_template_that_is_told_to_stop_serves_nobody_new(shell):
    terms = shell.lease()
    shell.step(on.SessionSaid(1, {"m": "release", "lease": terms.lease_id, "reason_code": 6}))
    shell.kill_all()
    shell.pass_time(10.0)
    assert [type(e) for e in shell.new] == [on.StopTemplate]
    shell.lease(b"b")
    assert len(shell.templates) == 2


def test_workers_of_a_template_that_died_are_seated_again_with_a_new_one(shell):
    shell.lease(workers=2)
    [template] = shell.templates
    shell.template_gone(template)
    for worker in sorted(shell.living):
        shell.die(worker)
    assert len(shell.living) == 2
    assert shell.templates
    assert template not in shell.templates


def test_word_about_what_is_gone_changes_nothing(shell):
    for event in (
        on.WorkerForked(99, 1),
        on.WorkerDead(99, 0, 9),
        on.ChannelEnded(99, 1),
        on.CallOverdue(99),
        on.TemplateGone(99),
        on.TemplateFailed(99, ""),
        on.SessionGone(99),
    ):
        assert shell.step(event) == []


# --- interrupts, notices, channels that end alone ------------------------------------------------------------


def interrupt(shell, terms, session=1, **changes):
    words = {"m": "interrupt", "lease": terms.lease_id, "slot": 0, "generation": 1, "channel": 5, "call_id": 9}
    return shell.step(on.SessionSaid(session, words | changes))


def test_an_interrupt_asks_the_page_of_the_worker_it_names(shell):
    terms = shell.lease()
    [worker] = shell.living
    offer(shell, terms, 4)
    offer(shell, terms, 5)
    assert interrupt(shell, terms) == [on.InterruptCall(worker, 1, 9)]


@pytest.mark.parametrize("change", [{"slot": 1}, {"generation": 2}, {"channel": 6}, {"session": 2}])
def test_an_interrupt_of_what_is_not_there_does_nothing(shell, change):
    terms = shell.lease()
    offer(shell, terms, 5)
    assert interrupt(shell, terms, **change) == []


def test_an_interrupt_without_its_numbers_breaks_the_protocol(shell):
    terms = shell.lease()
    offer(shell, terms, 5)
    assert isinstance(interrupt(shell, terms, call_id="nine")[0], on.HangUp)


def test_a_call_that_runs_is_killed_with_its_own_reason_and_the_worker_replaced(shell):
    terms = shell.lease()
    [worker] = shell.living
    offer(shell, terms, 5)
    assert on.KillWorker(worker) in shell.step(on.CallInterrupted(worker))
    assert shell.step(on.CallInterrupted(worker)) == []
    shell.die(worker, 0, 9, calls={5: (9, 8)})
    [farewell] = shell.words("farewell")
    assert (farewell["reason_code"], farewell["last_started"]) == (ReasonCode.CALL_INTERRUPTED, 9)
    assert len(shell.living) == 1
    assert shell.step(on.CallInterrupted(worker)) == []


def test_a_worker_that_was_crashing_when_its_call_was_interrupted_died_of_the_crash(shell):
    terms = shell.lease()
    [worker] = shell.living
    offer(shell, terms, 5)
    shell.step(on.CallInterrupted(worker))  # its connection ended, and then it took long to die
    shell.die(worker, 0, 11, calls={5: (9, 8)})
    [farewell] = shell.words("farewell")
    assert farewell["reason_code"] == ReasonCode.WORKER_CRASHED
    assert "SIGSEGV" in farewell["hint"]


def test_a_channel_that_ends_alone_has_a_farewell_and_its_worker_goes_on(shell):
    terms = shell.lease()
    [worker] = shell.living
    offer(shell, terms, 5)
    offer(shell, terms, 6)
    shell.step(on.ChannelEnded(worker, 6))  # the worker never had it
    assert shell.words("farewell") == []
    shell.step(on.ChannelEnded(worker, 5, (3, 2)))
    shell.step(on.ChannelEnded(worker, 5, (3, 2)))
    [farewell] = shell.words("farewell")
    assert (farewell["channel"], farewell["last_started"], farewell["last_done"]) == (5, 3, 2)
    assert farewell["reason_code"] == ReasonCode.NONE
    assert shell.words("worker-down") == []
    assert shell.living == {worker}


def test_a_client_that_asks_for_memory_without_its_key_loses_its_lease_and_is_counted(shell):
    terms = shell.lease()
    [worker] = shell.living
    offer(shell, terms, 5)
    done = shell.step(on.ChannelEnded(worker, 5, (3, 2), violated=True))
    [record] = [e for e in done if isinstance(e, on.Record) and e.event == "key_violation"]
    assert (record.fields["lease"], record.fields["channel"], record.fields["count"]) == (terms.lease_id, 5, 1)
    assert shell.words("farewell")[0]["last_started"] == 3
    assert isinstance(offer(shell, terms, 6), on.TurnAway)
    shell.kill_all()
    [ended] = shell.words("ended")
    assert (ended["reason"], ended["reason_code"]) == ("released", ReasonCode.KEY_VIOLATION)


def test_workers_are_told_by_when_they_will_be_killed(shell):
    reclaimed, released = shell.lease(), shell.lease(b"b")
    shell.step(on.SessionSaid(1, {"m": "release", "lease": released.lease_id, "reason_code": 6}))
    [drain] = [e for e in shell.new if isinstance(e, on.DrainWorker)]
    assert drain.kill_at_s == shell.now_s + RELEASE_S
    shell.step(on.ReclaimAsked(1))
    [drain] = [e for e in shell.new if isinstance(e, on.DrainWorker)]
    assert drain.kill_at_s == shell.now_s + 4.0  # drain_s
    assert shell.state(reclaimed) == "DRAINING"


# --- workers that could not be forked -------------------------------------------------------------


def spawned(shell):
    return [message.why for message in shell.told if isinstance(message, WorkersSpawned)]


def test_the_allocator_hears_once_why_workers_are_spawned_and_when_they_are_forked_again(shell):
    terms = shell.propose(workers=3)
    shell.attach(terms)
    first, second, third = sorted(shell.living)
    for worker, why in (first, "importing x left 1 thread running"), (second, "importing x left 1 thread running"):
        shell.step(on.WorkerForked(worker, 1000 + worker, why))
    assert spawned(shell) == ["importing x left 1 thread running"]
    shell.step(on.AllocatorDown())
    shell.up()
    [held] = [message for message in shell.told if isinstance(message, Register)][-1].held
    assert held.spawned == "importing x left 1 thread running"
    shell.step(on.WorkerForked(third, 1000 + third))
    assert spawned(shell)[1:] == [""]


def test_of_workers_that_are_forked_nothing_is_said(shell):
    shell.lease()
    shell.fork_all()
    assert spawned(shell) == []


def test_a_worker_beyond_a_limit_is_killed_for_it_and_the_farewell_has_the_figures(shell):
    terms = shell.lease()
    [worker] = shell.living
    offer(shell, terms)
    shell.step(on.LimitExceeded(worker, int(ReasonCode.MEMORY_LIMIT), "it had 2 GiB"))
    assert shell.new == [on.KillWorker(worker)]
    shell.step(on.LimitExceeded(worker, int(ReasonCode.PROCESS_LIMIT), "too late"))
    assert shell.new == []
    shell.die(worker)
    [farewell] = shell.words("farewell")
    assert (farewell["reason_code"], farewell["hint"]) == (ReasonCode.MEMORY_LIMIT, "it had 2 GiB")
    assert shell.living, "its successor"
    shell.step(on.LimitExceeded(worker, int(ReasonCode.MEMORY_LIMIT), "of one that is gone"))
    assert shell.new == []


def test_a_death_that_somebody_can_explain_has_that_reason(shell):
    shell.lease()
    [worker] = shell.living
    shell.die(worker, reason_code=int(ReasonCode.MEMORY_EXHAUSTED), hint="the OOM killer")
    [down] = shell.words("worker-down")
    assert (down["reason_code"], down["hint"]) == (ReasonCode.MEMORY_EXHAUSTED, "the OOM killer")


def test_workers_may_use_the_memory_of_their_lease(shell):
    terms = shell.propose()
    shell.attach(terms)
    assert [e.memory_bytes for e in shell.new if isinstance(e, on.StartWorker)] == [terms.memory_bytes_per_worker]
