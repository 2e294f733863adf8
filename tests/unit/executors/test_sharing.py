"""Which CPUs of a job are lent: none that a bound task may use."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_executors.sharing import Share, check, choose, tasks_of
from rfaas_transport.errors import ConfigError

CPUS = frozenset(range(8))
masks = st.frozensets(st.integers(0, 11), min_size=1)


def test_what_tasks_are_bound_to_is_left_to_them():
    assert choose(CPUS, [frozenset({6, 7}), frozenset({0})], 2, 8) == {4, 5}


def test_tasks_that_may_run_anywhere_take_nothing():
    assert choose(CPUS, [CPUS, CPUS | {8, 9}], 3, 8) == {5, 6, 7}


def test_too_few_are_none_at_all():
    assert choose(CPUS, [frozenset(range(7))], 2, 8) == frozenset()


def test_where_more_cpus_are_declared_than_there_are_all_are_lent():
    assert choose(frozenset({0, 1}), [frozenset({0})], 4, 16) == {0, 1}


@given(st.lists(masks, max_size=6), st.integers(1, 8))
def test_never_a_cpu_of_a_bound_task(tasks, cores):
    lent = choose(CPUS, tasks, cores, len(CPUS))
    assert lent <= CPUS
    assert len(lent) in (0, cores)
    assert all(not lent & task for task in tasks if CPUS - task)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SLURM_CPUS_ON_NODE": "1"}, "the job has 1 here"),
        ({"SLURM_MEM_PER_NODE": "100"}, "the job has 100 MiB here"),
        ({"SLURM_CPUS_ON_NODE": "2", "SLURM_MEM_PER_CPU": "100"}, "the job has 200 MiB here"),
    ],
)
def test_more_than_the_job_has_is_refused(variables, words):
    with pytest.raises(ConfigError, match=words):
        check(Share(2, 1 << 30), variables)


def test_unknown_variables_forbid_nothing():
    check(Share(2, 1 << 30), {"SLURM_CPUS_ON_NODE": "2", "SLURM_MEM_PER_NODE": "0"})


def test_tasks_are_the_users_processes_of_that_job_but_the_lenders_own():
    cpu = min(os.sched_getaffinity(0))
    program = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True); sys.stdin.read()"
    environment = {**os.environ, "SLURM_JOB_ID": f"test-{os.getpid()}"}
    command = [sys.executable, "-c", program, str(cpu)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as task:
        assert task.stdout.readline() == b"\n"
        assert list(tasks_of(environment["SLURM_JOB_ID"], but=-1)) == [{cpu}]
        assert list(tasks_of(environment["SLURM_JOB_ID"], but=os.getpid())) == []
        assert list(tasks_of("another", but=-1)) == []
        task.stdin.close()
