"""Which nodes of a job may go, and what is refused with which words; Slurm itself is asked in tests/cluster."""

import pytest

from rfaas.malleable import _alone, _choose, _environment, _must_stay, _told, give_back_nodes
from rfaas_transport.errors import ConfigError

NODES = ["n1", "n2", "n3", "n4"]


def must(keep=(), steps=None, batch_host="n1"):
    return _must_stay(NODES, keep, {"BatchHost": batch_host}, steps or {})


def test_the_script_s_node_and_those_with_steps_stay():
    found = must(steps={"7.0": ["n3", "n9"]})
    assert found == {"n1": "the job's script runs there", "n3": "step 7.0 runs there"}


def test_what_must_stay_comes_first_and_then_the_job_s_order():
    assert _choose(NODES, must(keep=("n4",)), 3, ("n4",)) == ("n1", "n2", "n4")
    assert _choose(NODES, must(keep=("n4",)), None, ("n4",)) == ("n1", "n4")
    assert _choose(NODES, must(), 4, ()) == tuple(NODES)


def test_this_process_s_own_node_stays(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "n2.cluster.example")
    assert must() == {"n2": "this process runs there", "n1": "the job's script runs there"}


@pytest.mark.parametrize("n_keep", [0, -1, 1, 5])
def test_numbers_that_can_t_be_are_refused_with_each_node_s_reason(n_keep):
    with pytest.raises(ConfigError, match=r"(?s)2 must stay .*n3: step 7.0 runs there.*end the steps"):
        _choose(NODES, must(steps={"7.0": ["n3"]}), n_keep, ())


def test_strange_nodes_and_no_wish_at_all_are_refused():
    with pytest.raises(ConfigError, match="n9: no nodes of this job"):
        must(keep=("n1", "n9"))
    with pytest.raises(ConfigError, match="nothing says what to keep"):
        _choose(NODES, must(), None, ())


@pytest.mark.parametrize("job", ["", "x", "7;reboot"])
def test_without_a_job_nothing_is_asked(job, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="is no Slurm job"):
        give_back_nodes(1, job_id=job)


def test_the_next_srun_is_told_of_what_is_left():
    environ = {
        "SLURM_JOB_NUM_NODES": "4",
        "SLURM_NNODES": "4",
        "SLURM_JOB_NODELIST": "n[1-4]",
        "SLURM_JOB_CPUS_PER_NODE": "4(x2),8,2",
        "SLURM_TASKS_PER_NODE": "2(x4)",
        "SLURM_NTASKS": "8",
    }
    assert _environment(NODES, ("n1", "n3"), environ) == {
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "n1,n3",
        "SLURM_JOB_CPUS_PER_NODE": "4,8",
        "SLURM_TASKS_PER_NODE": "2,2",
        "SLURM_NTASKS": "4",
    }


@pytest.mark.parametrize("strange", ["", "4(x3)", "four", "4(x2),"])
def test_counts_that_do_not_fit_the_nodes_are_left_alone(strange):
    assert _environment(NODES, ("n1",), {"SLURM_TASKS_PER_NODE": strange, "SLURM_NTASKS": "8"}) == {}


ARRAY = [
    "JobId=9 ArrayJobId=9 ArrayTaskId=2 JobName=x JobState=RUNNING NodeList=n[1-2] BatchHost=n1",
    "JobId=10 ArrayJobId=9 ArrayTaskId=1 JobName=x JobState=RUNNING NodeList=n[3-4] BatchHost=n3",
]


@pytest.mark.parametrize(("job", "nodes", "name"), [("9", "n[1-2]", "9_2"), ("10", "n[3-4]", "9_1")])
def test_of_an_array_one_task_is_meant_though_the_last_has_the_array_s_id(job, nodes, name):
    told = _told(job, ARRAY)
    assert (told["NodeList"], _alone(told)) == (nodes, name)
    assert _told(name, ARRAY) == told  # as it is asked for while Slurm shrinks it


def test_a_part_of_a_heterogeneous_job_is_refused():
    with pytest.raises(ConfigError, match="part of the heterogeneous job 5"):
        _told("5", ["JobId=5 HetJobId=5 HetJobOffset=0 JobState=RUNNING", "JobId=6 HetJobId=5 JobState=RUNNING"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"keep": "n3"}, "keep='n3' is no list"),
        ({"keep": 3}, "keep=3 is no list"),
        ({"keep": [3]}, "names of nodes are texts"),
        ({"n_keep": 1.5}, "n_keep=1.5"),
        ({"n_keep": "2"}, "n_keep='2'"),
        ({"n_keep": True}, "n_keep=True"),
        ({"n_keep": 1, "timeout_s": float("nan")}, "timeout_s=nan"),
        ({"n_keep": 1, "timeout_s": -1}, "timeout_s=-1"),
    ],
)
def test_values_of_another_kind_are_refused_before_slurm_is_asked(wrong, words, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match=words):
        give_back_nodes(job_id="7", **wrong)
