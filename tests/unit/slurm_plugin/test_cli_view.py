"""Reading Slurm's answers: recorded ones of 22.05.8, and the object form of later releases."""

import json
import sys
from pathlib import Path

import pytest

from rfaas_slurm_plugin.cli_view import CliView, _job, _partition, duration_s, parse_nodes, run
from rfaas_slurm_plugin.view import ClusterUnavailable

RECORDED = Path(__file__).parent / "recorded"


def test_nodes_of_22_05():
    n1, n2 = parse_nodes(json.loads((RECORDED / "sinfo-22.05.json").read_text()))
    assert (n1.name, n1.address, n1.cores, n1.allocated_cores, n1.idle_cores) == ("n1", "10.77.0.11", 4, 2, 2)
    assert (n1.memory_mib, n1.allocated_memory_mib, n1.idle_memory_mib) == (8000, 500, 7500)
    assert n1.usable
    assert n1.states == {"MIXED"}
    assert n2.idle_cores == 4
    assert n2.partitions == ("rigid", "harvest")


def test_a_job_of_22_05():
    job = _job(json.loads((RECORDED / "squeue-22.05.json").read_text())["jobs"][0])
    assert (job.job_id, job.name, job.state, job.nodes, job.cores) == (1, "rfaas-slice", "RUNNING", ("n1",), 2)
    assert (job.memory_per_node_mib, job.comment, job.required_nodes) == (500, "abc", ("n1",))
    assert not job.ended


def test_a_job_in_the_form_of_later_releases():
    job = _job(
        {
            "job_id": 7,
            "name": "x",
            "user_name": "u",
            "partition": "p",
            "job_state": ["CANCELLED", "COMPLETING"],
            "nodes": "n[1-2]",
            "cpus": {"set": True, "infinite": False, "number": 3},
            "memory_per_node": {"set": False, "infinite": False, "number": 0},
            "comment": {"administrator": "", "job": "mine", "system": ""},
            "submit_time": {"set": True, "infinite": False, "number": 17},
            "end_time": {"set": True, "infinite": True, "number": 0},
        }
    )
    assert (job.state, job.cores, job.comment, job.submit_time_s, job.end_time_s) == ("COMPLETING", 3, "mine", 17, 0)
    assert not job.ended  # processes may still be there


def test_a_drained_node_is_not_usable():
    answer = json.loads((RECORDED / "sinfo-22.05.json").read_text())
    answer["nodes"][0] |= {"state": "idle", "state_flags": ["DRAIN"]}
    answer["nodes"][1] |= {"state": "down*", "state_flags": []}
    assert [node.usable for node in parse_nodes(answer)] == [False, False]


def test_a_partition_line():
    line = (
        "PartitionName=harvest Nodes=n[1-2] GraceTime=5 MaxTime=1-00:30:00 PriorityTier=1 PreemptMode=CANCEL State=UP "
        "TRES=cpu=8,mem=16000M"
    )
    partition = _partition(line)
    assert (partition.name, partition.nodes, partition.grace_s) == ("harvest", ("n1", "n2"), 5.0)
    assert (partition.priority_tier, partition.preempt_mode, partition.up) == (1, "CANCEL", True)
    assert partition.max_time_s == 88_200.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800.0), ("30:10", 1810.0), ("1:00:00", 3600.0), ("2-1", 176_400.0), ("0-0:2", 120.0), ("UNLIMITED", None)],
)
def test_durations_as_slurm_writes_them(text, seconds):
    assert duration_s(text) == seconds


def test_an_unknown_form_is_an_error_not_an_empty_cluster():
    with pytest.raises(KeyError, match="no list of nodes"):
        parse_nodes({"meta": {}, "sinfo": []})


async def _run(*args, **kwargs):
    return await run(*args, **kwargs)


def test_a_command_that_hangs_is_killed_and_said():
    import asyncio

    with pytest.raises(ClusterUnavailable, match=r"no answer within 0\.2 s"):
        asyncio.run(run([sys.executable, "-c", "import time; time.sleep(60)"], {}, timeout_s=0.2))


def test_a_command_that_is_not_installed_or_fails_is_said():
    import asyncio

    with pytest.raises(ClusterUnavailable, match="can't be started"):
        asyncio.run(run(["rfaas-no-such-command"], {}))
    with pytest.raises(ClusterUnavailable, match="boom"):
        asyncio.run(run([sys.executable, "-c", "import sys; sys.exit('boom')"], {}))


def test_answers_that_are_not_json_are_said(tmp_path):
    import asyncio

    for name in ("sinfo", "squeue"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ClusterUnavailable, match="not JSON"):
        asyncio.run(CliView({"PATH": f"{tmp_path}:/usr/bin:/bin"}).read())
