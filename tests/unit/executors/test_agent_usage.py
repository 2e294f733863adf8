"""What leases cost, as the agent measures it: docs/spec/002-lease.md section 9."""

import pytest
from unit.executors.agent_model import Shell

from rfaas.control.messages import EndLease, Freed, Usage, UsageReport
from rfaas_executors import agent_events as on

S = 10**9


@pytest.fixture
def shell():
    shell = Shell(usage_every_s=5.0)
    shell.up()
    return shell


def last_report(shell):
    return {one.lease_id: one.usage for one in shell.of(UsageReport)[-1].leases}


def test_a_lease_is_charged_from_its_acceptance_to_its_proof_of_death(shell):
    terms = shell.propose(workers=2)
    shell.pass_time(1.0)  # nobody has come yet, but the cores are held
    shell.attach(terms)
    shell.pass_time(2.0)
    shell.fork_all()
    shell.pass_time(3.0)
    first, second = sorted(shell.living)
    shell.step(on.AllocatorSaid(EndLease(terms.lease_id, 6)))
    shell.die(first, 0, 0, usage=on.WorkerUsage(running_ns=2 * S, cpu_ns=S, calls=4, bytes_in=10, bytes_out=20))
    assert shell.of(Freed) == []
    shell.pass_time(0.05)
    shell.die(second, 0, 0, usage=on.WorkerUsage(running_ns=1 * S, cpu_ns=S, calls=1, bytes_in=1, bytes_out=2))
    (freed,) = shell.of(Freed)
    assert freed.usage == Usage(
        allocated_ns=pytest.approx(6.05 * S),
        alive_ns=pytest.approx(6.05 * S),
        running_ns=3 * S,
        cpu_ns=2 * S,
        calls=5,
        bytes_in=11,
        bytes_out=22,
    )
    assert freed.usage.warm_ns == pytest.approx(3.05 * S)


def test_reports_come_every_few_seconds_while_something_is_leased(shell):
    assert shell.core.wake_at_s is None
    terms = shell.lease()
    for _ in range(6):
        shell.step(on.SessionSaid(1, {"m": "heartbeat", "leases": [terms.lease_id]}))
        shell.pass_time(1.0)
    assert [isinstance(effect, on.ReadUsage) for effect in shell.effects].count(True) == 1
    (worker,) = shell.living
    shell.step(on.UsageRead({worker: on.WorkerUsage(running_ns=S, calls=2)}))
    assert last_report(shell)[terms.lease_id] == Usage(allocated_ns=6 * S, alive_ns=6 * S, running_ns=S, calls=2)


def test_nothing_is_reported_while_nobody_hears(shell):
    shell.lease()
    shell.step(on.AllocatorDown())
    shell.pass_time(6.0)
    assert not any(isinstance(effect, on.ReadUsage) for effect in shell.effects)


def test_after_a_registration_ended_leases_are_reported_too(shell):
    ended, living = shell.lease(b"a"), shell.lease(b"b")
    shell.step(on.AllocatorDown())
    shell.pass_time(2.0)
    shell.step(on.SessionSaid(1, {"m": "release", "lease": ended.lease_id, "reason_code": 6}))
    [worker] = [w for w in shell.living if shell.lease_of[w] == ended.lease_id]
    shell.die(worker, 0, 0, usage=on.WorkerUsage(running_ns=S))
    shell.up()
    reported = last_report(shell)
    assert reported.keys() == {ended.lease_id, living.lease_id}
    assert (reported[ended.lease_id].running_ns, reported[ended.lease_id].allocated_ns) == (S, 2 * S)


def test_a_repeated_end_says_the_same_cost(shell):
    terms = shell.lease()
    shell.pass_time(2.0)
    shell.step(on.AllocatorSaid(EndLease(terms.lease_id, 6)))
    shell.die(next(iter(shell.living)), 0, 0, usage=on.WorkerUsage(calls=3))
    shell.pass_time(10.0)
    shell.step(on.AllocatorSaid(EndLease(terms.lease_id, 6)))
    first, second = shell.of(Freed)
    assert first == second
    assert (first.usage.calls, first.usage.allocated_ns) == (3, 2 * S)


def test_a_page_that_user_code_wrote_can_not_charge_more_than_the_workers_life(shell):
    terms = shell.lease()
    shell.pass_time(2.0)
    (worker,) = shell.living
    shell.step(on.UsageRead({worker: on.WorkerUsage(running_ns=2**63, hot_ns=2**63)}))
    assert last_report(shell)[terms.lease_id] == Usage(allocated_ns=2 * S, alive_ns=2 * S, running_ns=2 * S)
    shell.step(on.UsageRead({worker: on.WorkerUsage()}))  # nor take back what it had said
    shell.pass_time(1.0)
    shell.die(worker, 0, 9)
    assert shell.core.usage.total(shell.core.leases[terms.lease_id]).running_ns == 3 * S


def test_replaced_workers_add_up(shell):
    terms = shell.lease()
    for calls in (3, 4):
        shell.pass_time(2.0)
        shell.die(next(iter(shell.living)), 0, 9, usage=on.WorkerUsage(calls=calls, running_ns=S))
        shell.fork_all()
    shell.pass_time(2.0)
    total = shell.core.usage.total(shell.core.leases[terms.lease_id])
    assert (total.calls, total.running_ns, total.alive_ns) == (7, 2 * S, pytest.approx(6 * S, abs=S // 100))
