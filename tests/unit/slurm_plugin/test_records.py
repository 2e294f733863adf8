"""Slurm's records: recorded ones of 22.05.8, and the documented forms of later releases."""

import json
from pathlib import Path

import pytest

from rfaas_slurm_plugin.views.records import (
    UnknownForm,
    duration_s,
    jobs_of,
    nodes_of,
    partition_line,
    reservation_line,
    reservations_of,
)

RECORDED = Path(__file__).parent / "recorded"


def recorded(name):
    return json.loads((RECORDED / name).read_text())


def unset(number=0):
    return {"set": False, "infinite": False, "number": number}


def is_set(number):
    return {"set": True, "infinite": False, "number": number}


def test_nodes_of_22_05():
    n1, n2 = nodes_of(recorded("sinfo-22.05.json"))
    assert (n1.name, n1.address, n1.cores, n1.allocated_cores, n1.idle_cores) == ("n1", "10.77.0.11", 4, 2, 2)
    assert (n1.memory_mib, n1.allocated_memory_mib, n1.idle_memory_mib) == (8000, 500, 7500)
    assert n1.usable
    assert n1.states == {"MIXED"}
    assert n2.idle_cores == 4
    assert n2.partitions == ("rigid", "harvest")


def test_a_job_of_22_05():
    job = jobs_of(recorded("squeue-22.05.json"))[0]
    assert (job.job_id, job.name, job.state, job.nodes, job.cores) == (1, "rfaas-slice", "RUNNING", ("n1",), 2)
    assert (job.memory_per_node_mib, job.comment, job.required_nodes) == (500, "abc", ("n1",))
    assert not job.ended


LATER_JOB = {
    "job_id": 7,
    "name": "x",
    "user_name": "u",
    "partition": "p",
    "job_state": ["CANCELLED", "COMPLETING"],
    "nodes": "n[1-2]",
    "cpus": is_set(3),
    "memory_per_node": unset(),
    "comment": {"administrator": "", "job": "mine", "system": ""},
    "submit_time": is_set(17),
    "end_time": {"set": True, "infinite": True, "number": 0},
}


def test_a_job_in_the_form_of_later_releases():
    job = jobs_of({"jobs": [LATER_JOB]})[0]
    assert (job.state, job.cores, job.comment, job.submit_time_s, job.end_time_s) == ("COMPLETING", 3, "mine", 17, 0)
    assert not job.ended  # processes may still be there


def test_a_drained_node_is_not_usable():
    answer = recorded("sinfo-22.05.json")
    answer["nodes"][0] |= {"state": "idle", "state_flags": ["DRAIN"]}
    answer["nodes"][1] |= {"state": "down*", "state_flags": []}
    assert [node.usable for node in nodes_of(answer)] == [False, False]


def test_a_partition_line():
    line = (
        "PartitionName=harvest Nodes=n[1-2] GraceTime=5 MaxTime=1-00:30:00 PriorityTier=1 PreemptMode=CANCEL State=UP "
        "TRES=cpu=8,mem=16000M"
    )
    partition = partition_line(line)
    assert (partition.name, partition.nodes, partition.grace_s) == ("harvest", ("n1", "n2"), 5.0)
    assert (partition.priority_tier, partition.preempt_mode, partition.up) == (1, "CANCEL", True)
    assert partition.max_time_s == 88_200.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800.0), ("30:10", 1810.0), ("1:00:00", 3600.0), ("2-1", 176_400.0), ("0-0:2", 120.0), ("UNLIMITED", None)],
)
def test_durations_as_slurm_writes_them(text, seconds):
    assert duration_s(text) == seconds


def test_time_of_a_job_that_asks_for_none():
    line = "PartitionName=p Nodes=n1 DefaultTime={} MaxTime={}"
    assert partition_line(line.format("NONE", "UNLIMITED")).job_time_s is None
    assert partition_line(line.format("NONE", "1:00:00")).job_time_s == 3600.0
    assert partition_line(line.format("0:30:00", "UNLIMITED")).job_time_s == 1800.0


def test_nodes_in_the_form_of_data_parser():
    node = {
        "name": "n1",
        "address": "10.0.0.1",
        "state": ["MIXED", "DRAIN"],
        "partitions": ["p", "q"],
        "cpus": 8,
        "alloc_cpus": 3,
        "real_memory": 1000,
        "alloc_memory": 10,
        "slurmd_start_time": is_set(5),
        "boot_time": is_set(4),
    }
    (read,) = nodes_of({"nodes": [node]})
    assert (read.idle_cores, read.idle_memory_mib, read.slurmd_start_time_s, read.boot_time_s) == (5, 990, 5, 4)
    assert not read.usable
    assert read.leaving


def test_reservations_of_both_sources_are_the_same(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    answer = recorded("reservations-22.05.json")
    (by_rest,) = reservations_of(answer)
    assert by_rest.nodes == ("n3",)
    assert by_rest.end_time_s - by_rest.start_time_s == 3600
    assert "MAINT" in by_rest.flags
    line = (
        "ReservationName=maint1 StartTime=2026-11-25T22:19:18 EndTime=2026-11-25T23:19:18 Duration=01:00:00 Nodes=n3 "
        "NodeCnt=1 CoreCnt=2 Features=(null) PartitionName=(null) Flags=MAINT,SPEC_NODES TRES=cpu=2 Users=root"
    )
    assert reservation_line(line) == by_rest


def test_a_reservation_in_the_form_of_data_parser():
    entry = {"name": "r", "node_list": "n[1-2]", "flags": ["MAINT"], "start_time": is_set(5), "end_time": is_set(9)}
    (read,) = reservations_of({"reservations": [entry]})
    assert (read.nodes, read.start_time_s, read.end_time_s, read.flags) == (("n1", "n2"), 5, 9, {"MAINT"})


def test_numbers_that_mean_none_are_none():
    entry = recorded("squeue-22.05.json")["jobs"][0] | {"memory_per_node": None, "end_time": 4294967294}
    (job,) = jobs_of({"jobs": [entry]})
    assert (job.memory_per_node_mib, job.end_time_s) == (0, 0)


@pytest.mark.parametrize("answer", [{"meta": {}, "sinfo": []}, {"nodes": None}, {"nodes": [3]}, {"nodes": {"n1": {}}}])
def test_an_unknown_form_is_an_error_not_an_empty_cluster(answer):
    with pytest.raises(UnknownForm, match="no list of nodes"):
        nodes_of(answer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpus", "many"),
        ("cpus", True),
        ("cpus", {"value": 3}),
        ("state", 7),
        ("partitions", "rigid"),
        ("name", ""),
        ("alloc_cpus", ...),
    ],
)
def test_a_field_of_another_form_is_named(field, value):
    answer = recorded("sinfo-22.05.json")
    if value is ...:
        del answer["nodes"][0][field]
    else:
        answer["nodes"][0][field] = value
    with pytest.raises(UnknownForm, match=field):
        nodes_of(answer)


def test_a_hostlist_that_cannot_be_read_is_said():
    entry = recorded("squeue-22.05.json")["jobs"][0] | {"nodes": "n[1-"}
    with pytest.raises(UnknownForm, match="nodes"):
        jobs_of({"jobs": [entry]})


@pytest.mark.parametrize("line", ["ReservationName=r StartTime=soon EndTime=later", "ReservationName=r Nodes=n1"])
def test_a_reservation_line_that_cannot_be_read_is_said(line):
    with pytest.raises(UnknownForm, match="reservation"):
        reservation_line(line)
