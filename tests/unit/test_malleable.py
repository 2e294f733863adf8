"""Which nodes of a job may go, and what is refused with which words; Slurm itself is asked in tests/cluster."""

import pytest

from rfaas.malleable import _choose, _environment, _must_stay, give_back_nodes
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
