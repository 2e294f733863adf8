"""The short form of `make bench-elastic`: an MPI program loses its nodes four times. Its figures are no results."""

from functools import partial

import pytest

from cluster.elastic import Program
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

EVERY = 100


@pytest.mark.timeout(200)
def test_a_program_that_is_preempted_twice_and_killed_twice_ends_with_the_same_hash(small_cluster):
    program = Program(small_cluster, by="resubmit", every=EVERY, n_sweeps=1400, pause_s=0.01)
    expected = program.undisturbed_hash()
    program.submit()
    program.wait_begun(1)
    losses = []
    all_at_once = partial(program.kill, everybody=True)  # as a power cut
    # a kill is met by as many ranks as there are nodes: the job comes again once none is taken
    for lose in (program.kill, all_at_once, lambda: program.preempt(2), lambda: program.preempt(3)):
        program.wait_sweeps(EVERY // 2)
        losses.append(lose())
        print(f"\n{losses[-1]}")
    assert program.wait_hash(60) == expected
    assert [loss.lost_iterations for loss in losses if loss.how == "notice"] == [0, 0]
    # the last rank may have died in a sweep that the first, which keeps count, had done already
    kills = [loss for loss in losses if loss.how != "notice"]
    assert [loss.ranks_before for loss in kills] == [4, 4]
    assert all(0 <= loss.lost_iterations <= EVERY for loss in kills), kills
    assert [loss.ranks_after for loss in losses if loss.how == "notice"] == [2, 3]
    wait_until(lambda: not list((program.alice.home / "checkpoints").glob("*.part")), 10, "the checkpoints' removal")
