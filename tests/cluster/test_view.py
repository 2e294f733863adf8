"""The view of the cluster on a real Slurm: what every back-end must say of it, as an ordinary user sees it."""

import json
import subprocess

import pytest

from cluster.rig import HEAD
from support.waiting import wait_until

pytestmark = pytest.mark.slurm

RUN_S = 30.0

DUMP = """\
import asyncio, dataclasses, json, sys
from rfaas_slurm_plugin import check, hostlist
from rfaas_slurm_plugin.cli_view import CliView

def plain(value):
    return sorted(value) if isinstance(value, frozenset) else str(value)

async def main():
    source = CliView()
    view, partitions, config = await asyncio.gather(source.read(), source.partitions(), source.config())
    answer = {"view": dataclasses.asdict(view), "config": dataclasses.asdict(config)}
    answer["partitions"] = [dataclasses.asdict(p) for p in partitions]
    answer["usable"] = {node.name: node.usable for node in view.nodes}
    answer["ended"] = {job.job_id: job.ended for job in view.jobs}
    answer["expanded"] = [hostlist.expand(text) for text in sys.argv[1:]]
    print(json.dumps(answer, default=plain))

asyncio.run(main())
"""


def read(user, *hostlists):
    script = user.put("dump.py", DUMP)
    return json.loads(user.run(HEAD, ["python", script, *hostlists], RUN_S).stdout)


def test_nodes_partitions_and_settings_are_those_declared(cluster, alice):
    cluster.set_grace(5)
    answer = read(alice)
    settings = cluster.settings
    nodes = {node["name"]: node for node in answer["view"]["nodes"]}
    assert sorted(nodes) == settings.node_names
    for node in nodes.values():
        assert (node["cores"], node["memory_mib"]) == (settings.cpus, settings.memory_mib)
        assert (node["allocated_cores"], node["allocated_memory_mib"]) == (0, 0)
    partitions = {partition["name"]: partition for partition in answer["partitions"]}
    assert partitions["harvest"]["preempt_mode"] == "CANCEL"
    assert partitions["harvest"]["grace_s"] == 5.0
    assert partitions["harvest"]["nodes"] == settings.node_names
    assert partitions["rigid"]["priority_tier"] > partitions["harvest"]["priority_tier"]
    assert answer["config"]["kill_wait_s"] == settings.kill_wait_s
    assert answer["config"]["preempt_type"] == "preempt/partition_prio"


def test_a_running_job_is_seen_with_its_cores_memory_comment_and_end(cluster, alice, bob):
    command = [
        "sbatch",
        "--parsable",
        "-n1",
        "-c3",
        "--mem=1000",
        "-w",
        "n2",
        "--comment=rfaas:x:1",
        "--wrap=sleep 600",
    ]
    job_id = int(bob.run(HEAD, command, RUN_S).stdout)

    def job():
        return next(entry for entry in read(alice)["view"]["jobs"] if entry["job_id"] == job_id)

    wait_until(lambda: job()["state"] == "RUNNING", RUN_S, "the job to run")
    answer = read(alice)
    seen = next(entry for entry in answer["view"]["jobs"] if entry["job_id"] == job_id)
    assert (seen["user"], seen["partition"], seen["nodes"], seen["cores"]) == ("bob", "rigid", ["n2"], 3)
    assert (seen["memory_per_node_mib"], seen["comment"]) == (1000, "rfaas:x:1")
    assert seen["start_time_s"] >= seen["submit_time_s"] > 0
    node = next(node for node in answer["view"]["nodes"] if node["name"] == "n2")
    assert (node["allocated_cores"], node["allocated_memory_mib"]) == (3, 1000)
    bob.run(HEAD, ["scancel", str(job_id)], RUN_S)
    wait_until(lambda: read(alice)["ended"][str(job_id)], RUN_S, "the job to be over")
    assert job()["state"] == "CANCELLED"


def test_a_drained_node_is_not_usable_until_it_is_resumed(cluster, alice):
    cluster.head.run_as_root("scontrol", "update", "nodename=n3", "state=drain", "reason=test")
    try:
        assert read(alice)["usable"] == {"n1": True, "n2": True, "n3": False, "n4": True}
    finally:
        cluster.head.run_as_root("scontrol", "update", "nodename=n3", "state=resume")
    wait_until(lambda: read(alice)["usable"]["n3"], RUN_S, "the node to be usable again")


def test_hostlists_expand_as_slurm_expands_them(cluster, alice):
    hostlists = ["n[1-4]", "a[08-11],b", "r[1-2]c[1-3]", "x[1,3,5-6]"]
    ours = read(alice, *hostlists)["expanded"]
    slurms = [cluster.head.run_as_root("scontrol", "show", "hostnames", text).split() for text in hostlists]
    assert ours == slurms


def test_slurmctld_down_is_said_and_not_taken_for_an_empty_cluster(cluster, alice):
    script = alice.put("dump.py", DUMP)
    cluster.head.run_as_root("scontrol", "shutdown", "slurmctld")  # saves its state first, unlike a kill
    try:
        # Slurm's own commands take their time to give up
        with alice.popen(HEAD, ["python", script], stderr=subprocess.PIPE) as reader:
            out, err = reader.output(120.0)
        assert out == ""
        assert "ClusterUnavailable" in err
    finally:
        cluster.start_daemon(HEAD)
        cluster.wait_idle()
