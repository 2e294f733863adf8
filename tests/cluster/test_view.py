"""The view of the cluster on a real Slurm: what every back-end must say of it, as an ordinary user sees it.

Back-ends: Slurm's commands; slurmrestd on a unix socket, and behind a port with a token; in a root directory with a
newer Slurm (`make test-pyslurm`) also pyslurm.
"""

import json
import os
import re
import time

import pytest

from cluster.rig import HEAD
from cluster.rig.commands import CommandFailed
from support.waiting import wait_until

pytestmark = pytest.mark.slurm

RUN_S = 30.0

DUMP = """\
import asyncio, dataclasses, json, os, sys
from rfaas_slurm_plugin.views import hostlist
from rfaas_slurm_plugin.views import sources

def plain(value):
    return sorted(value) if isinstance(value, frozenset) else str(value)

async def main():
    source = (await sources.choose(sys.argv[1], os.environ.get("PYSLURM_PYTHON"))).source
    await source.ping()
    for _ in range(int(sys.argv[2])):
        view = await source.read()
    partitions, config = await asyncio.gather(source.partitions(), source.config())
    answer = {"view": dataclasses.asdict(view), "config": dataclasses.asdict(config)}
    answer["partitions"] = [dataclasses.asdict(p) for p in partitions]
    answer["version"] = await source.version() if hasattr(source, "version") else ""
    answer["usable"] = {node.name: node.usable for node in view.nodes}
    answer["leaving"] = {node.name: node.leaving for node in view.nodes}
    answer["ended"] = {job.job_id: job.ended for job in view.jobs}
    answer["expanded"] = [hostlist.expand(text) for text in sys.argv[3:]]
    print(json.dumps(answer, default=plain))

asyncio.run(main())
"""

QUERIES = """\
import asyncio, json
from rfaas_slurm_plugin.views.cli_view import CliView

async def main():
    view = CliView()
    queries = [view._nodes(), view._jobs(), view._reservations()]
    told = await asyncio.gather(*queries, return_exceptions=True)
    print(json.dumps([type(answer).__name__ for answer in told]))

asyncio.run(main())
"""


ROOT = os.environ.get("RFAAS_RIG_ROOT", "")
PYSLURM_PYTHON = "/opt/pyslurm/bin/python"
BACK_ENDS = ["commands", "slurmrestd socket", "slurmrestd token", *(["pyslurm"] if ROOT else [])]


@pytest.fixture(params=BACK_ENDS)
def read(request, alice):
    """Reads the cluster as alice by one back-end: `read()` gives DUMP's answer."""
    script = alice.put("dump.py", DUMP)

    def ask(url="", *hostlists, cycles=1, **environment):
        command = ["python", script, url, str(cycles), *hostlists]
        return json.loads(alice.run(HEAD, command, RUN_S, env=environment).stdout)

    if request.param in ("commands", "pyslurm"):
        python = "none" if request.param == "commands" else PYSLURM_PYTHON
        yield lambda *hostlists, **options: ask("", *hostlists, PYSLURM_PYTHON=python, **options)
    elif request.param == "slurmrestd socket":
        where = f"unix:{alice.account.home}/restd.sock"
        with alice.slurmrestd(where):
            yield lambda *hostlists, **options: ask(where, *hostlists, **options)
    else:
        token = alice.put("token", alice.run(HEAD, ["scontrol", "token"], RUN_S).stdout)
        with alice.slurmrestd("127.0.0.1:6820", auth="rest_auth/jwt"):
            yield lambda *hostlists, **options: ask(
                "http://127.0.0.1", *hostlists, RFAAS_SLURM_JWT_FILE=token, **options
            )


def test_nodes_partitions_and_settings_are_those_declared(cluster, read):
    cluster.set_grace(5)
    answer = read()
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


def test_a_running_job_is_seen_with_its_cores_memory_comment_and_end(cluster, read, bob):
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
        return next(entry for entry in read()["view"]["jobs"] if entry["job_id"] == job_id)

    wait_until(lambda: job()["state"] == "RUNNING", RUN_S, "the job to run")
    answer = read()
    seen = next(entry for entry in answer["view"]["jobs"] if entry["job_id"] == job_id)
    assert (seen["user"], seen["partition"], seen["nodes"], seen["cores"]) == ("bob", "rigid", ["n2"], 3)
    assert (seen["memory_per_node_mib"], seen["comment"]) == (1000, "rfaas:x:1")
    assert seen["start_time_s"] >= seen["submit_time_s"] > 0
    node = next(node for node in answer["view"]["nodes"] if node["name"] == "n2")
    assert (node["allocated_cores"], node["allocated_memory_mib"]) == (3, 1000)
    bob.run(HEAD, ["scancel", str(job_id)], RUN_S)
    wait_until(lambda: read()["ended"][str(job_id)], RUN_S, "the job to be over")
    assert job()["state"] == "CANCELLED"


def test_a_drained_node_is_not_usable_until_it_is_resumed(cluster, read):
    cluster.head.run_as_root("scontrol", "update", "nodename=n3", "state=drain", "reason=test")
    try:
        answer = read()
        assert answer["usable"] == {"n1": True, "n2": True, "n3": False, "n4": True}
        assert answer["leaving"] == {"n1": False, "n2": False, "n3": True, "n4": False}
    finally:
        cluster.head.run_as_root("scontrol", "update", "nodename=n3", "state=resume")
    wait_until(lambda: read()["usable"]["n3"], RUN_S, "the node to be usable again")


def test_hostlists_expand_as_slurm_expands_them(cluster, read):
    hostlists = ["n[1-4]", "a[08-11],b", "r[1-2]c[1-3]", "x[1,3,5-6]"]
    ours = read(*hostlists)["expanded"]
    slurms = [cluster.head.run_as_root("scontrol", "show", "hostnames", text).split() for text in hostlists]
    assert ours == slurms


def test_a_reservation_is_seen_with_its_nodes_and_times(cluster, read):
    make = ["scontrol", "create", "reservation", "ReservationName=maint", "StartTime=now+1hour", "Duration=30"]
    began_s = time.time()
    cluster.head.run_as_root(*make, "Nodes=n[2-3]", "Users=root", "Flags=MAINT")
    try:
        (seen,) = read()["view"]["reservations"]
    finally:
        cluster.head.run_as_root("scontrol", "delete", "ReservationName=maint")
    assert (seen["name"], seen["nodes"], "MAINT" in seen["flags"]) == ("maint", ["n2", "n3"], True)
    assert began_s + 3590 <= seen["start_time_s"] <= time.time() + 3610
    assert seen["end_time_s"] - seen["start_time_s"] == 1800


@pytest.mark.figures
def test_a_cycle_asks_slurmctld_once_for_each_kind_whatever_the_number_of_nodes_and_jobs(cluster, read, alice, bob):
    jobs = ["sbatch", "--parsable", "--array=1-12", "-c1", "--mem=100", "--output=/dev/null", "--wrap=sleep 600"]
    job_id = bob.run(HEAD, jobs, RUN_S).stdout.strip()
    read()  # what is asked once only is asked here and below
    once = asked_by(cluster, alice, read, 1)
    many = asked_by(cluster, alice, read, 6)
    bob.run(HEAD, ["scancel", job_id], RUN_S)
    per_cycle = {kind: (count - once.get(kind, 0)) / 5 for kind, count in many.items()}
    print(f"\nRPCs a cycle, 4 nodes and 12 jobs: { {kind: n for kind, n in per_cycle.items() if n} }")
    assert per_cycle["REQUEST_NODE_INFO"] == per_cycle["REQUEST_JOB_INFO"] == 1
    assert 1 <= per_cycle["REQUEST_RESERVATION_INFO"] <= 2  # sinfo reads them too
    assert not [kind for kind, count in per_cycle.items() if count > 2]


def asked_by(cluster, user, read, cycles):
    """What slurmctld was asked for while a reader made that many cycles, by message type."""
    cluster.head.run_as_root("sdiag", "--reset")
    read(cycles=cycles)
    lines = cluster.head.run_as_root("sdiag").splitlines()
    found = [re.match(r"\s+(REQUEST_\w+)\s+\(\s*\d+\) count:(\d+)", line) for line in lines]
    return {match[1]: int(match[2]) for match in found if match}


def test_slurmrestd_says_its_newest_version(cluster, read):
    assert read()["version"] in ("", "v0.0.45" if ROOT else "v0.0.38")


@pytest.mark.parametrize("read", [name for name in BACK_ENDS if "token" not in name], indirect=True)
def test_slurmctld_down_is_said_and_not_taken_for_an_empty_cluster(cluster, read):
    read()
    cluster.head.run_as_root("scontrol", "shutdown", "slurmctld")  # saves its state first, unlike a kill
    try:
        with pytest.raises(CommandFailed, match="ClusterUnavailable"):
            read()
    finally:
        cluster.start_daemon(HEAD)
        cluster.wait_idle()


def test_no_query_takes_a_slurmctld_that_is_down_for_an_empty_cluster(cluster, alice):
    """It may die between two queries of one reading, so each must say so, not only one of them."""
    script = alice.put("queries.py", QUERIES)
    cluster.head.run_as_root("scontrol", "shutdown", "slurmctld")
    try:
        told = json.loads(alice.run(HEAD, ["python", script], RUN_S).stdout)
    finally:
        cluster.start_daemon(HEAD)
        cluster.wait_idle()
    assert told == ["ClusterUnavailable"] * 3


def test_a_slurmrestd_that_is_not_there_or_does_not_believe_us_is_said(cluster, alice, bob):
    script = alice.put("dump.py", DUMP)
    socket_path = f"{alice.account.home}/restd.sock"
    nobody = alice.run(HEAD, ["python", script, f"unix:{socket_path}", "1"], RUN_S, check=False)
    assert "No such file" in nobody.stderr
    with alice.slurmrestd("127.0.0.1:6820", auth="rest_auth/jwt"):
        stranger = bob.run(HEAD, ["python", bob.put("dump.py", DUMP), "http://127.0.0.1", "1"], RUN_S, check=False)
    assert "does not believe who we are" in stranger.stderr
