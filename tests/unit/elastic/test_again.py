"""Which ends of a program ask for more, and what a job that is submitted anew may inherit."""

import os
import signal
import subprocess
import sys

import pytest

from rfaas.elastic.__main__ import RESTARTS, comes_again, n_restarts, without_job
from rfaas.elastic.ending import AGAIN, Preempted
from rfaas.elastic.run import Run


@pytest.mark.parametrize(
    ("status", "more"), [(0, False), (1, False), (2, False), (AGAIN, True), (137, True), (143, True)]
)
def test_stopped_and_killed_programs_come_again_and_failed_ones_do_not(status, more):
    assert comes_again(status) is more


def test_restarts_are_counted_over_requeues_and_submissions():
    assert n_restarts({}) == 0
    assert n_restarts({RESTARTS: "3", "SLURM_RESTART_COUNT": "2"}) == 5


def test_a_new_job_inherits_nothing_of_the_old_one():
    old = {"PATH": "/bin", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_CONF": "/x", "SLURMD_NODENAME": "n1"}
    assert without_job(old) == {"PATH": "/bin", "SLURM_CONF": "/x"}


def cli(*words, **environment):
    command = [sys.executable, "-m", "rfaas.elastic", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


def test_an_end_that_asks_for_nothing_is_passed_on():
    assert cli("again", "3", "job.sh").returncode == 3
    assert cli("again", "0", "job.sh").returncode == 0


STARTED_SO = """
import signal, sys
from rfaas.elastic.__main__ import main
signal.signal(signal.SIGTERM, {before})
sys.argv[1:] = ["again", "--by", "{by}", "0"]
main()
print(signal.getsignal(signal.SIGTERM).name)
"""


@pytest.mark.parametrize(
    ("by", "before", "after"), [("auto", "signal.SIG_DFL", "SIG_IGN"), ("slurm", "signal.SIG_IGN", "SIG_DFL")]
)
def test_no_signal_ends_what_asks_for_the_job_but_what_waits_for_it(by, before, after):
    program = STARTED_SO.format(by=by, before=before)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == after, done.stderr


def test_who_leaves_it_to_slurm_stays_until_it_is_signalled(tmp_path):
    command = [sys.executable, "-m", "rfaas.elastic", "again", "--by", "slurm", "75", "job.sh"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        assert "stays up to 120 s" in waiting.stdout.readline()
        waiting.terminate()
        assert waiting.wait(30) == -signal.SIGTERM
    given_up = cli("again", "--by", "slurm", "--stay-s", "0.1", "75", "job.sh")
    assert given_up.returncode == 75
    assert "Slurm did not take the job" in given_up.stderr


def test_a_program_that_was_restarted_often_enough_is_not_restarted_again():
    done = cli("again", "--most", "2", "75", "job.sh", **{RESTARTS: "2"})
    assert done.returncode == 75
    assert "ended with 75 after 2 restarts" in done.stderr


def test_checkpoints_are_listed_and_damage_is_told(tmp_path):
    run = Run("app", tmp_path, signals=(), look_every_s=0.0)
    run.array("field", (6, 4))
    run.restore()
    run.notify()
    with pytest.raises(Preempted):
        list(run.iterations(until=100))
    done = cli("show", str(tmp_path), "app")
    assert done.returncode == 0, done.stderr
    assert "1  iteration 2, 1 ranks, 228 bytes: field (6, 4) <f8" in done.stdout
    next(tmp_path.glob("*.part")).write_bytes(b"")
    done = cli("show", str(tmp_path), "app")
    assert done.returncode == 1
    assert "has 0 bytes instead of 228" in done.stdout


def test_every_public_name_is_there_and_a_batch_script_does_not_wait_for_numpy():
    import rfaas.elastic as elastic

    assert [name for name in elastic.__all__ if getattr(elastic, name, None) is None] == []
    seen = "import sys, runpy; sys.argv = ['again', 'again', '0']\n"
    seen += "try: runpy.run_module('rfaas.elastic', run_name='__main__')\n"
    seen += "except SystemExit: print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
