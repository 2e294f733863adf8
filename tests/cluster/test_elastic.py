"""The short form of `make bench-elastic`: an MPI program loses its nodes three times. Its figures are no results."""

import pytest

from cluster.elastic import Program
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

EVERY = 100


@pytest.mark.timeout(200)
def test_a_program_that_is_preempted_twice_and_killed_once_ends_with_the_same_hash(small_cluster):
    program = Program(small_cluster, by="resubmit", every=EVERY, n_sweeps=1000, pause_s=0.01)
    expected = program.undisturbed_hash()
    program.submit()
    program.wait_begun(1)
    losses = []
    for lose in (lambda: program.preempt(2), program.kill, lambda: program.preempt(3)):
        program.wait_sweeps(EVERY // 2)
        losses.append(lose())
        print(f"\n{losses[-1]}")
    assert program.wait_hash(60) == expected
    assert [loss.lost_iterations for loss in losses if loss.how == "notice"] == [0, 0]
    # the last rank may have died in a sweep that the first, which keeps count, had done already
    assert 0 <= losses[1].lost_iterations <= EVERY
    assert [loss.ranks_after for loss in losses if loss.how == "notice"] == [2, 3]
    wait_until(lambda: not list((program.alice.home / "checkpoints").glob("*.part")), 10, "the checkpoints' removal")
