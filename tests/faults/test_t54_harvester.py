"""T54, the harvester: SIGTERM while it has slices to ask for. It ends the step it is in, submits nothing more, exits 0;
slices and calls go on. A second SIGTERM breaks off a query that slurmctld does not answer.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.harvested import cores_up, event_log, finish, rfaas_up, streaming
from cluster.rig import HEAD
from support.deadlines import SLACK, assert_in_time
from support.invariants import assert_kept
from support.soak import timeout_s
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(timeout_s())]

LIMIT_S = 1.5  # a query of Slurm's commands and a submission
AT_ONCE_GOAL_S = 0.5
RUN_S = 60.0
SHORT = {"n_calls": 0, "ahead": 16, "min_s": 0.05, "max_s": 0.2}
WORDS = b"rfaas_slurm_plugin\0harvest\0"


def test_harvester(fault_cluster):
    cluster, alice = fault_cluster, fault_cluster.user("alice")
    with rfaas_up(cluster, alice, env=event_log(alice)), streaming(alice, max_workers=4, **SHORT) as stream:
        wait_until(lambda: stream.nodes_since(0), RUN_S, "calls")
        [first] = harvesters(cluster)
        command = Path(f"/proc/{first.pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        at_s = time.monotonic()
        first.signal(signal.SIGTERM)
        wait_until(lambda: not harvesters(cluster), RUN_S, "the end of the harvester")
        took_s = [time.monotonic() - at_s]
        jobs = jobs_of(alice)
        with alice.popen(HEAD, command, env=event_log(alice)) as second:  # whose status is seen
            wait_until(lambda: harvesters(cluster), RUN_S, "another one")
            end_job(alice, sorted(jobs)[0])
            wait_until(lambda: jobs_of(alice) - jobs, RUN_S, "its successor: it harvests")
            wait_until(lambda: cores_up(alice) == cluster.settings.nodes * cluster.settings.cpus, RUN_S)
            end_job(alice, sorted(jobs)[1])
            at_s = time.monotonic()
            second.signal(signal.SIGTERM)
            assert second.wait(RUN_S) == 0
            took_s.append(time.monotonic() - at_s)
        left = jobs_of(alice)
        with alice.popen(HEAD, command, env=event_log(alice)) as third:
            wait_until(lambda: jobs_of(alice) - left, RUN_S, "a job: it harvests")
            [slurmctld] = named(cluster, "slurmctld")
            os.kill(slurmctld.pid, signal.SIGSTOP)
            try:
                wait_until(lambda: queries(cluster), RUN_S, "a query that is not answered")
                third.signal(signal.SIGTERM)
                until_s = time.monotonic() + LIMIT_S
                wait_until(lambda: time.monotonic() > until_s, LIMIT_S + 1)
                assert third.process.poll() is None, "it did not wait for its query"
                at_s = time.monotonic()
                third.signal(signal.SIGTERM)
                assert third.wait(RUN_S) == 0
                at_once_s = time.monotonic() - at_s
                assert not queries(cluster)
            finally:
                os.kill(slurmctld.pid, signal.SIGCONT)
        answer = finish(stream)
    print(
        f"\nharvester: exit 0 {max(took_s):.3f} s after SIGTERM (goal {LIMIT_S} s), {at_once_s:.3f} s after a second "
        f"one (goal {AT_ONCE_GOAL_S} s); {answer['submitted']} calls, {len(answer['errors'])} failed"
    )
    ended = [error for error in answer["errors"] if error["type"] != "Reclaimed"]  # by us: the jobs that were cancelled
    assert not ended, ended
    assert_in_time(max(took_s), SLACK * LIMIT_S)
    assert_in_time(at_once_s, SLACK * AT_ONCE_GOAL_S)
    assert_kept(alice.home / "events")


def harvesters(cluster):
    """The harvesters that run on the head."""
    return [process for process in cluster.head.processes() if WORDS in command_line(process.pid)]


def queries(cluster):
    """Slurm's commands that run on the head."""
    return named(cluster, "sinfo", "squeue", "scontrol")


def named(cluster, *names):
    """Processes of these programs on the head."""
    return [p for p in cluster.head.processes() if p.command and Path(p.command.split()[0]).name in names]


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def jobs_of(user):
    """Ids of the user's jobs that run or wait."""
    return set(user.run(HEAD, ["squeue", "-h", "-o", "%i"], RUN_S).stdout.split())


def end_job(user, job_id):
    user.run(HEAD, ["scancel", job_id], RUN_S)
