"""What an administrator does on a real Slurm: from nothing to harvesting, nodes left alone, and every byte put back."""

import json

import pytest

from cluster.rig import HEAD
from cluster.rig.commands import CommandFailed
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

RUN_S = 60.0
SLICES_S = 40.0


def as_root(cluster, *arguments):
    """`rfaas slurm` as root on the head; what it prints as JSON."""
    return json.loads(cluster.head.run_as_root(f"{cluster.layout.venv}/bin/rfaas", "slurm", *arguments, "--json"))


def slurm(user, *arguments):
    return json.loads(user.run(HEAD, ["rfaas", "slurm", *arguments, "--json"], RUN_S).stdout)


@pytest.fixture
def installed(cluster):
    """A cluster with the partition `idle` of `rfaas slurm install`; afterwards it is as it was."""
    path = cluster.layout.etc / "slurm.conf"
    before = path.read_bytes()
    files = sorted(cluster.layout.etc.iterdir())
    assert as_root(cluster, "install", "--partition", "idle", "--grace", "3")["written"] == []
    assert path.read_bytes() == before
    done = as_root(cluster, "install", "--partition", "idle", "--grace", "3", "--write")
    assert (done["written"], done["restart"]) == (["/etc/slurm/slurm.conf"], False)
    cluster.head.run_as_root("scontrol", "reconfigure")
    yield
    wait_until(lambda: not cluster.head.run_as_root("squeue", "-h", "-p", "idle"), RUN_S, "no jobs in the partition")
    as_root(cluster, "uninstall", "--write")
    assert (path.read_bytes(), sorted(cluster.layout.etc.iterdir())) == (before, files)
    cluster.head.run_as_root("scontrol", "reconfigure")
    with pytest.raises(CommandFailed, match="idle"):
        cluster.head.run_as_root("scontrol", "show", "partition", "idle")


def test_from_nothing_to_harvesting_and_back(cluster, installed, alice, bob):
    found = {finding["check"]: finding for finding in slurm(alice, "check", "--partition", "idle")["findings"]}
    assert "idle: CANCEL, tier 0, GraceTime 3 s" in found["partition"]["text"]
    options = ["--slurm", "--partition", "idle", "--nodes", "n[1-2]", "--cycle-s", "1"]
    alice.run(HEAD, ["rfaas", "up", *options], RUN_S)
    try:
        _nodes_come_and_go(cluster, alice, bob)
    finally:
        alice.run(HEAD, ["rfaas", "down"], RUN_S)


def _nodes_come_and_go(cluster, alice, bob):
    def harvested():
        return sorted(one["node"] for one in slurm(bob, "status")["slices"] if one["state"] == "RUNNING")

    wait_until(lambda: harvested() == ["n1", "n2"], SLICES_S, "slices on both nodes")
    seen = slurm(bob, "status", "n1")["slices"]
    assert [(one["node"], one["user"], one["cores"]) for one in seen] == [("n1", "alice", cluster.settings.cpus)]
    assert seen[0]["since_s"] > 0
    left = slurm(alice, "drain", "n[1]", "--reason", "new firmware", "--wait", str(int(SLICES_S)))
    assert left == {"meta": left["meta"], "drained": ["n1"], "left": []}
    assert harvested() == ["n2"]
    said = slurm(alice, "status")["drained"]["n1"]
    assert (said["reason"], said["by"]) == ("new firmware", "alice")
    bob.run(HEAD, ["srun", "-p", "rigid", "-w", "n2", "--exclusive", "true"], RUN_S)
    wait_until(lambda: slurm(bob, "status")["preempted_today"] >= 1, SLICES_S, "the slice to count as taken back")
    wait_until(lambda: harvested() == ["n2"], SLICES_S, "the slice to come back, and none on the drained node")
    assert slurm(alice, "resume", "ALL")["resumed"] == ["n1"]
    wait_until(lambda: harvested() == ["n1", "n2"], SLICES_S, "slices on both nodes again")


def test_nodes_that_are_not_there_or_not_drained_are_refused(cluster, alice):
    for arguments, said in (
        (["drain", "n[3-9]", "--reason", "x"], "the cluster has no node n[5-9]"),
        (["status", "n[3-9]"], "the cluster has no node n[5-9]"),
        (["drain", "", "--reason", "x"], "no node is named"),
        (["drain", "n[1", "--reason", "x"], "a bracket is not closed"),
        (["resume", "n1"], "n1 is not drained"),
    ):
        done = alice.run(HEAD, ["rfaas", "slurm", *arguments], RUN_S, check=False)
        assert (done.returncode, said in done.stderr, "remedy: " in done.stderr) == (78, True, True), done.stderr
