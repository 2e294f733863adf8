"""Leases of memory in the agent's core: docs/spec/008-memory.md section 1."""

import pytest
from unit.executors.agent_model import Shell

from rfaas.control.messages import Freed, Refused, StateChanged
from rfaas_executors import agent_events as on
from rfaas_transport.errors import ReasonCode

SIZE = 1 << 20


@pytest.fixture
def shell():
    shell = Shell()
    shell.up()
    return shell


def region(shell, name=b"m", size=SIZE):
    """A granted and attached lease of memory whose server runs."""
    terms = shell.propose(name, 1, cores=0, memory=size, kind="memory")
    shell.attach(terms)
    shell.fork_all()
    return terms


def test_it_starts_a_server_without_a_template_and_takes_no_core(shell):
    terms = region(shell)
    [order] = [effect for effect in shell.effects if isinstance(effect, on.StartMemory)]
    assert (order.region_bytes, order.slot) == (SIZE, 4)  # beyond the cores, so no slot names two things
    assert shell.core.cores.n_free == 4
    assert shell.templates == set()
    assert shell.accepted(terms)[0].core_ids == ()
    assert shell.words("worker-up")[0]["slot"] == 4
    assert shell.state(terms) == "ACTIVE"


def test_slots_of_regions_differ_and_their_memory_is_taken(shell):
    region(shell, b"m")
    region(shell, b"n")
    assert [words["slot"] for words in shell.words("worker-up")] == [4, 5]
    shell.propose(b"o", 1, cores=0, memory=(1 << 30) - 2 * SIZE + 1, kind="memory")
    shell.propose(b"p", 1, cores=1, memory=(1 << 30) - 2 * SIZE + 1)
    assert [refused.code for refused in shell.of(Refused)] == ["no-room", "no-room"]


@pytest.mark.parametrize(
    ("workers", "cores", "memory", "kind"), [(2, 0, 1, "memory"), (1, 1, 1, "memory"), (1, 1, 1, "x")]
)
def test_other_shapes_and_kinds_are_refused(shell, workers, cores, memory, kind):
    shell.propose(b"m", workers, cores=cores, memory=memory, kind=kind)
    assert [refused.code for refused in shell.of(Refused)] == ["no-room"]


def test_a_server_that_dies_is_not_replaced_its_lease_ends(shell):
    terms = region(shell)
    [worker] = shell.living
    shell.die(worker, hint="the memory server was killed by SIGKILL")
    assert not shell.living
    assert [(freed.lease_id, freed.reason, freed.reason_code) for freed in shell.of(Freed)] == [
        (terms.lease_id, "lost", ReasonCode.WORKER_CRASHED)
    ]
    assert [words["reason"] for words in shell.words("ended")] == ["lost"]


def test_a_reclaim_leaves_it_readable_until_the_drain_is_over_and_frees_it_with_proof(shell):
    terms = region(shell)
    shell.step(on.ReclaimAsked(ReasonCode.SLURM_PREEMPT))
    assert shell.state(terms) == "DRAINING"
    assert shell.words("notice")[0]["leases"] == [terms.lease_id]
    assert not any(isinstance(effect, on.DrainWorker | on.KillWorker) for effect in shell.effects)
    shell.pass_time(4.0)
    assert shell.state(terms) == "FENCED"
    [kill] = [effect for effect in shell.effects if isinstance(effect, on.KillWorker)]
    assert shell.of(Freed) == []
    shell.die(kill.worker)
    assert [(freed.reason, freed.reason_code) for freed in shell.of(Freed)] == [("reclaimed", ReasonCode.SLURM_PREEMPT)]


def test_a_release_ends_it_at_once_in_a_drain_too(shell):
    terms = region(shell)
    shell.step(on.ReclaimAsked(ReasonCode.SLURM_PREEMPT))
    shell.step(on.SessionSaid(1, {"m": "release", "lease": terms.lease_id, "reason_code": 6}))
    shell.pass_time(0.2)
    [worker] = shell.living
    shell.die(worker)
    assert shell.state(terms) == "FREE"


def test_its_data_connection_is_handed_to_the_server(shell):
    terms = region(shell)
    [worker] = shell.living
    shell.step(on.DataOffered(9, terms.lease_id, 4, 1, 77, "shm"))
    [handed] = [effect for effect in shell.effects if isinstance(effect, on.HandOver)]
    assert (handed.worker, handed.channel, handed.medium) == (worker, 77, "shm")
    shell.step(on.DataOffered(10, terms.lease_id, 0, 1, 78))
    assert isinstance(shell.effects[-1], on.TurnAway)


def test_a_stranger_does_not_attach_it(shell):
    terms = shell.propose(b"m", 1, cores=0, memory=SIZE, kind="memory")
    shell.attach(terms, session=2, holder=b"x" * 16)
    shell.attach(terms, session=3, epoch=terms.epoch + 1)
    assert [words["code"] for words in shell.words("refused", 2)] == ["not-found"]
    assert [words["code"] for words in shell.words("refused", 3)] == ["stale-epoch"]
    assert not any(isinstance(effect, on.StartMemory) for effect in shell.effects)
    assert shell.of(StateChanged) == []


def test_who_asks_for_memory_without_its_key_loses_the_lease(shell):
    terms = region(shell)
    [worker] = shell.living
    shell.step(on.DataOffered(9, terms.lease_id, 4, 1, 77, "verbs"))
    shell.step(on.ChannelEnded(worker, 77, (0, 0), violated=True))
    shell.pass_time(0.2)
    shell.die(worker)
    [ended] = shell.words("ended")
    assert (ended["reason"], ended["reason_code"]) == ("released", ReasonCode.KEY_VIOLATION)
