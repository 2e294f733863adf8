"""The harvest policy on a real Slurm: what is left alone, until when, and that `rfaas explain NODE` says why."""

import json

import pytest

from cluster.harvested import cores_up, rfaas_up
from cluster.rig import HEAD
from support.waiting import wait_until

pytestmark = pytest.mark.slurm

RUN_S = 60.0


def explained(user, node):
    return user.run(HEAD, ["rfaas", "explain", node], RUN_S).stdout


def test_nodes_that_are_left_alone_are_harvested_once_nothing_forbids_it(cluster, alice, bob):
    """n1: a job that wants no company; n2: drained; n3: left by the settings; n4: harvested."""
    cores, scontrol = cluster.settings.cpus, cluster.head.run_as_root
    shy = ["sbatch", "--parsable", "-n1", "-c1", "--mem=100", "-w", "n1", "--comment=rfaas=off", "--output=/dev/null"]
    job_id = bob.run(HEAD, [*shy, "--wrap=sleep 600"], RUN_S).stdout.strip()
    wait_until(lambda: "RUNNING" in bob.run(HEAD, ["squeue", "-h", "-j", job_id, "-o", "%T"], RUN_S).stdout, RUN_S)
    scontrol("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    with rfaas_up(cluster, alice, cores=cores, env={"RFAAS_HARVEST_LEAVE_NODES": "n[3]"}):
        assert f"job {job_id} runs there and asked not to have company" in explained(alice, "n1")
        assert "harvester: Slurm calls it DRAIN" in explained(alice, "n2")
        assert "scontrol update nodename=… state=resume" in explained(alice, "n2")
        assert "harvester: it is among the nodes to leave alone" in explained(alice, "n3")
        said = alice.run(HEAD, ["rfaas", "explain", "n4"], RUN_S).stdout
        assert f"harvester: harvested: {cores} of {cores} cores are in slices" in said
        bob.run(HEAD, ["scancel", job_id], RUN_S)
        scontrol("scontrol", "update", "nodename=n2", "state=resume")
        wait_until(lambda: cores_up(alice) == 3 * cores, RUN_S, "slices on n1 and n2")


def test_caps_of_the_settings(cluster, alice):
    with rfaas_up(cluster, alice, "--max-cores", "6", cores=6, env={"RFAAS_HARVEST_MAX_NODES_PER_USER": "2"}):
        said = [explained(alice, node) for node in cluster.settings.node_names]
        assert (
            sum("the cap is reached: 2 nodes of alice" in text or "6 cores in all" in text for text in said) == 3
        )  # of one of the two some cores are left


def test_the_report_tells_idle_nodes_shared_nodes_and_harvested_ones_apart(cluster, alice, bob):
    cores, memory_mib = cluster.settings.cpus, cluster.settings.memory_mib
    job = ["sbatch", "--parsable", "-n1", "-c1", "--mem=1000", "-w", "n1", "--output=/dev/null", "--wrap=sleep 600"]
    job_id = bob.run(HEAD, job, RUN_S).stdout.strip()
    wait_until(lambda: "RUNNING" in bob.run(HEAD, ["squeue", "-h", "-j", job_id, "-o", "%T"], RUN_S).stdout, RUN_S)
    with rfaas_up(cluster, alice, cores=4 * cores - 1):
        said = json.loads(alice.run(HEAD, ["rfaas", "slurm", "report", "--json"], RUN_S).stdout)
    bob.run(HEAD, ["scancel", job_id], RUN_S)
    assert (said["nodes"], said["idle_nodes"], said["harvested_cores"]) == (4, 3, 4 * cores - 1)
    assert said["cores"] == {"all": 4 * cores, "of_idle_nodes": 3 * cores, "idle_of_shared_nodes": cores - 1}
    assert said["gib"]["of_idle_nodes"] == pytest.approx(3 * memory_mib / 1024, abs=0.01)
    assert said["gib"]["unrequested_of_shared_nodes"] == pytest.approx((memory_mib - 1000) / 1024, abs=0.01)
