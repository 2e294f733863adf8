"""A whole run: stopped, resumed at other counts of ranks, and what all ranks are told when one of them fails."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from unit.elastic.ranks_in_threads import ThreadRanks, run_ranks

from rfaas.elastic import run as run_module
from rfaas.elastic.ending import AGAIN, Preempted
from rfaas.elastic.errors import CheckpointDamaged, CheckpointFailed, CheckpointMismatch
from rfaas.elastic.run import Run
from rfaas.elastic.store import Store
from rfaas_transport.errors import ConfigError

SHAPE, UNTIL = (12, 10), 40


@pytest.fixture(autouse=True)
def _ranks_are_threads(monkeypatch):
    usual = run_module.ranks_of
    monkeypatch.setattr(run_module, "ranks_of", lambda comm: comm if isinstance(comm, ThreadRanks) else usual(comm))


def relax(folder, comm, *, stop_at=None, stopper=0, before=None, split=(0, 1), halo=1, **arguments):
    """Sweeps that need halos, corners too; returns the whole field at rank 0."""
    run = Run("app", folder, comm=comm, signals=(), look_every_s=0.0, **arguments)
    with run:
        field = run.array("field", SHAPE, split=split, halo=halo)
        if not run.restore():
            field.fill(lambda i, j: np.sin(i * 3.0) + j * j)
            run.state["seed"] = 5
        assert run.state == {"seed": 5}
        for iteration in run.iterations(until=UNTIL):
            field.exchange()
            old, new = field.local, field.local.copy()
            new[field.inner(1)] = (
                old[field.inner(1, shift=(-1, -1))]
                + old[field.inner(1, shift=(1, 1))]
                + old[field.inner(1, shift=(0, 1))]
            ) / 3
            field.local = new
            if before is not None:
                before(run, iteration)
            if stop_at is not None and run.rank == stopper and iteration + 1 == stop_at:
                run.notify("here")
        return field.gather()


@pytest.fixture
def expected(tmp_path):
    return relax(tmp_path / "undisturbed", None)


def timeline(folder):
    return [json.loads(line) for line in (folder / "app.timeline.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("counts", [(1, 3, 2), (4, 1), (3, 4, 3, 1, 2)])
@pytest.mark.parametrize("split", [(0,), (0, 1)])
def test_stopped_again_and_again_with_other_counts_the_field_is_the_same_to_the_bit(tmp_path, expected, counts, split):
    folder = tmp_path / "run"
    for number, n_ranks in enumerate(counts[:-1]):
        stop_at = 5 + 7 * number
        outcomes = run_ranks(
            n_ranks, lambda comm, s=stop_at, n=n_ranks: relax(folder, comm, stop_at=s, stopper=n - 1, split=split)
        )
        assert all(isinstance(outcome, Preempted) and outcome.code == AGAIN for outcome in outcomes), outcomes
    last = run_ranks(counts[-1], lambda comm: relax(folder, comm, split=split))
    assert np.array_equal(last[0], expected)
    stopped = [event["iteration"] for event in timeline(folder) if event["ev"] == "stopped"]
    begun = [event["iteration"] for event in timeline(folder) if event["ev"] == "begun"]
    assert begun == [0, *stopped]
    assert [event["ranks"] for event in timeline(folder) if event["ev"] == "begun"] == list(counts)


def test_sigterm_is_a_notice_and_the_program_ends_with_the_status_that_asks_for_more(tmp_path):
    usual = signal.getsignal(signal.SIGTERM)

    def program():
        with Run("app", tmp_path, look_every_s=0.0) as run:
            run.restore()
            for iteration in run.iterations(until=1000):
                if iteration == 3:
                    os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted) as ended:
        program()
    assert ended.value.code == AGAIN == 75
    stays = signal.signal(signal.SIGTERM, usual)
    assert stays is signal.SIG_IGN
    assert timeline(tmp_path)[-1]["why"] == "SIGTERM"


STOPPED_BY_ANOTHER = """
import atexit, os, signal, sys
from rfaas.elastic import Run
atexit.register(os.kill, os.getpid(), signal.SIGTERM)  # as late as MPI's own end
with Run("app", sys.argv[1], look_every_s=0.0) as run:
    run.restore()
    for iteration in run.iterations(until=1000):
        run.notify("by another rank")
"""


def test_a_signal_that_comes_once_all_is_saved_does_not_change_the_status(tmp_path):
    ended = subprocess.run([sys.executable, "-c", STOPPED_BY_ANOTHER, tmp_path], check=False, timeout=60)
    assert ended.returncode == AGAIN
    assert timeline(tmp_path)[-1]["ev"] == "stopped"


SIGNALLED = """
import atexit, os, signal, sys
from rfaas.elastic import Run
def term(): os.kill(os.getpid(), signal.SIGTERM)
when = sys.argv[2]
if when == "last": atexit.register(term)  # as late as MPI's own end
if when == "first": term()
run = Run("app", sys.argv[1], look_every_s=0.0)
if when == "made": term()
with run:
    if when == "entered": term()
    run.restore()
    for iteration in run.iterations(until=10):
        if when == "twice" and iteration == 3:
            term(), term()
    if when == "done": term()
    if not when == "kept":
        run.discard()
    if when == "discarded": term()
if when in ("left", "kept"): term()
"""


@pytest.mark.parametrize(
    ("when", "status"),
    [
        ("first", -signal.SIGTERM),  # nothing is listening yet, and nothing is lost: it is started again
        ("made", -signal.SIGTERM),
        ("entered", AGAIN),
        ("twice", AGAIN),
        ("done", 0),
        ("discarded", 0),  # ended by the signal it would begin anew, though all is done
        ("left", 0),
        ("last", 0),
        ("kept", -signal.SIGTERM),  # its checkpoints are there
    ],
)
def test_a_signal_at_any_time_is_a_notice_or_ends_what_loses_nothing(tmp_path, when, status):
    ended = subprocess.run([sys.executable, "-c", SIGNALLED, tmp_path, when], check=False, timeout=60)
    assert ended.returncode == status


def test_discarding_old_checkpoints_at_first_leaves_signals_what_they_were(tmp_path):
    with Run("app", tmp_path, look_every_s=0.0) as run:
        run.discard()
        assert callable(signal.getsignal(signal.SIGTERM))


def test_a_kill_costs_no_more_than_the_interval(tmp_path, expected):
    def killed(run, iteration):
        if iteration == 29:
            raise KeyboardInterrupt  # of all ranks at once, as by a power cut

    with pytest.raises(KeyboardInterrupt):
        relax(tmp_path / "run", None, every=8, before=killed)
    resumed = run_ranks(2, lambda comm: relax(tmp_path / "run", comm, every=8))
    assert np.array_equal(resumed[0], expected)
    assert [event["iteration"] for event in timeline(tmp_path / "run") if event["ev"] == "begun"] == [0, 24]


def test_a_damaged_checkpoint_makes_all_ranks_take_the_one_before(tmp_path, expected, caplog):
    folder = tmp_path / "run"
    with pytest.raises(Preempted):
        relax(folder, None, every=8, stop_at=20)
    newest = Store(folder, "app")
    part = folder / newest.manifest(newest.sequences()[0]).parts[0].file
    part.write_bytes(part.read_bytes()[:-1])
    resumed = run_ranks(3, lambda comm: relax(folder, comm, every=8))
    assert np.array_equal(resumed[0], expected)
    assert [event["iteration"] for event in timeline(folder) if event["ev"] == "begun"] == [0, 16]
    assert "checkpoint damaged" in caplog.text


def test_where_no_checkpoint_is_whole_all_ranks_say_so_and_nothing_begins_anew(tmp_path):
    with pytest.raises(Preempted):
        relax(tmp_path, None, stop_at=3)
    (manifest,) = tmp_path.glob("*.manifest")
    manifest.write_bytes(b"")
    outcomes = run_ranks(2, lambda comm: relax(tmp_path, comm))
    assert all(isinstance(outcome, CheckpointDamaged) for outcome in outcomes), outcomes
    assert manifest.exists()


def test_another_version_of_the_program_is_refused_on_all_ranks(tmp_path):
    with pytest.raises(Preempted):
        relax(tmp_path, None, stop_at=3)
    outcomes = run_ranks(2, lambda comm: relax(tmp_path, comm, version="2"))
    assert all(isinstance(outcome, CheckpointMismatch) for outcome in outcomes), outcomes
    assert "version 1, the program is app version 2" in str(outcomes[0])


def test_a_rank_that_cannot_write_costs_a_checkpoint_and_its_error_is_everybodys(
    tmp_path, expected, caplog, monkeypatch
):
    full = {"disk": True}

    def write_part(store, sequence, rank, blocks, usual=Store.write_part):
        if rank == 1 and sequence >= 2 and full["disk"]:
            raise OSError(28, "No space left on device")
        return usual(store, sequence, rank, blocks)

    monkeypatch.setattr(Store, "write_part", write_part)
    outcomes = run_ranks(2, lambda comm: relax(tmp_path, comm, every=8, stop_at=20))
    assert all(isinstance(outcome, CheckpointFailed) for outcome in outcomes), outcomes
    assert "rank 1 on" in str(outcomes[0])
    assert "No space left" in str(outcomes[0])
    assert "checkpoint failed iteration=16" in caplog.text  # went on without it
    full["disk"] = False
    assert np.array_equal(run_ranks(2, lambda comm: relax(tmp_path, comm))[0], expected)
    assert [event["iteration"] for event in timeline(tmp_path) if event["ev"] == "begun"] == [0, 8]


def test_a_state_that_cannot_be_saved_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"run.state can't be saved"):
        relax(tmp_path, None, every=4, before=lambda run, i: run.state.update(thing=object()))


def test_the_loop_wants_restore_first_and_arrays_before_that(tmp_path):
    run = Run("app", tmp_path, signals=())
    with pytest.raises(ConfigError, match=r"begins before restore"):
        next(run.iterations(1))
    run.array("a", (4,))
    with pytest.raises(ConfigError, match="a second time"):
        run.array("a", (4,))
    assert run.restore() is False
    with pytest.raises(ConfigError, match="comes too late"):
        run.array("b", (4,))
    with pytest.raises(ConfigError, match="called before"):
        run.restore()


def test_a_second_array_of_another_shape_is_refused(tmp_path):
    field = Run("app", tmp_path, signals=()).array("a", (4, 4))
    with pytest.raises(ConfigError, match="not \\(3,\\) float64"):
        field.local = np.zeros(3)
    with pytest.raises(ConfigError, match="leads out of the block"):
        field.inner(0, shift=(1, 0))
    with pytest.raises(ConfigError, match="isn't numbers"):
        Run("app", tmp_path, signals=()).array("o", (4,), dtype=object)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"interval_s": 0.0}, {"mtbf_s": -1.0}])
def test_senseless_intervals_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="no checkpoints each"):
        Run("app", tmp_path, **wrong)


def test_discarded_checkpoints_are_gone_and_the_next_start_is_a_first(tmp_path):
    with pytest.raises(Preempted):
        relax(tmp_path, None, stop_at=3)
    run = Run("app", tmp_path, signals=())
    run.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["app.timeline.jsonl"]
    assert run.restore() is False
