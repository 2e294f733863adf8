"""The promise of it all: rigid jobs take their nodes back in the middle of calls, and no call is lost.

A rigid job that took no harvested core, or met no running call, fails the test: it would have shown nothing. Delays are
compared with a harvest step that exits at once on SIGTERM, in the same run and with the same slices.
"""

import json
import statistics
import time
from pathlib import Path

import pytest

from cluster.delay import InstantHarvest, Probe, RigidStart, build_probe
from cluster.harvested import cores_up, finish, rfaas_up, streaming
from cluster.rig import HEAD
from support.deadlines import assert_in_time
from support.invariants import assert_kept
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

RIGID_JOBS = 20
BASELINE_JOBS = 6
RIGID_NODES = 2
RUN_S = 60.0
HELLO = "import os, rfaas\nwith rfaas.Executor() as ex: print(ex.submit(os.uname).result()[1])\n"


@pytest.fixture(scope="module")
def probe(session_cluster) -> Probe:
    return build_probe(session_cluster)


def rigid_job(cluster, bob, probe, stream) -> RigidStart:
    """One rigid job onto nodes that are full of slices with calls running on them."""
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)  # what ran before the last rigid job proves nothing
    wait_until(lambda: len(stream.nodes_since(now_ns)) == cluster.settings.nodes, RUN_S, "calls on all nodes")
    return probe.rigid_start(bob, [f"-N{RIGID_NODES}", "--exclusive"], RUN_S, ["sleep", "0.3"])


def instant_delays(probe: Probe, user, bob, rounds: int) -> list[float]:
    """The least delay that any harvest causes: every round all nodes are full again."""
    delays = []
    for _ in range(rounds):
        with probe.instant_harvest(user) as harvest:
            assert isinstance(harvest, InstantHarvest)
            delays.append(probe.rigid_start(bob, [f"-N{RIGID_NODES}", "--exclusive"], RUN_S).delay_s)
            assert harvest.n_taken() == RIGID_NODES
    return delays


def no_harvest_delays(probe: Probe, bob, rounds: int) -> list[float]:
    delays = []
    for _ in range(rounds):
        with probe.no_harvest():
            delays.append(probe.rigid_start(bob, [f"-N{RIGID_NODES}", "--exclusive"], RUN_S).delay_s)
    return delays


def figures(name: str, delays: list[float]) -> str:
    return f"{name}: median {statistics.median(delays):.3f} s, worst {max(delays):.3f} s, n={len(delays)}"


def reclaim_signals(events: Path) -> list[tuple[int, str]]:
    """(time, node) of each SIGTERM that an agent acted on."""
    lines = [json.loads(line) for file in events.glob("agent-*.jsonl") for line in file.read_text().splitlines()]
    return sorted((line["t_boot_ns"], line["host"]) for line in lines if line["ev"] == "reclaim_sig")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("grace_s", [0, 5])
def test_short_calls_survive_twenty_rigid_jobs(small_cluster, grace_s, record_property):
    cluster, alice, bob = small_cluster, small_cluster.user("alice"), small_cluster.user("bob")
    probe = build_probe(cluster)
    cluster.set_grace(grace_s)
    alone = no_harvest_delays(probe, bob, BASELINE_JOBS // 2)
    instant = instant_delays(probe, alice, bob, BASELINE_JOBS)
    events = {"RFAAS_EVENT_LOG": f"{alice.account.home}/events"}
    with rfaas_up(cluster, alice, env=events), streaming(alice) as stream:
        starts = [rigid_job(cluster, bob, probe, stream) for _ in range(RIGID_JOBS)]
        answer = finish(stream)
    instant += instant_delays(probe, alice, bob, BASELINE_JOBS)
    alone += no_harvest_delays(probe, bob, BASELINE_JOBS // 2)
    delays = [start.delay_s for start in starts]

    print(f"\nGraceTime {grace_s}, {answer['submitted']} calls, statistics {answer['statistics']}")
    for name, values in (("no harvest", alone), ("instant harvest", instant), ("rfaas", delays)):
        print(f"GraceTime {grace_s}, {figures(name, values)}")
        record_property(f"grace {grace_s} {name}", figures(name, values))

    # nothing was lost, nothing ran twice
    witness = stream.witness
    assert answer["submitted"] >= stream.settings["n_calls"]
    assert answer["errors"] == []
    assert answer["right"] == answer["submitted"]
    assert set(witness.executions().values()) == {1}
    assert len(witness.runs) == answer["submitted"]

    assert_kept(alice.home / "events")

    # each rigid job took harvested cores and met running calls
    signals = reclaim_signals(alice.home / "events")
    for start in starts:
        taken = [t for t, node in signals if node in start.nodes and start.launched_ns < t < start.tasks[0].began_ns]
        assert len(taken) == RIGID_NODES, f"the job at {start.launched_ns} took {len(taken)} slices"
        # a worker idles some milliseconds between two calls: look at the whole time that the job asked
        met = witness.running_between(start.launched_ns, max(taken), start.nodes)
        assert met, f"the job at {start.launched_ns} met no call"
        # and none of its tasks began while a call still ran on its nodes
        assert not [run for task in start.tasks for run in witness.running_at(task.began_ns, [task.node])]

    # the promise is +0.1 s and +1 s; asserted at three times that, the figures are printed above
    assert statistics.median(delays) <= statistics.median(instant) + 3 * 0.1
    assert max(delays) <= max(instant) + 3 * 1.0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("idempotent", [True, False])
def test_calls_longer_than_the_grace_fail_typed_or_run_again(cluster, alice, bob, probe, idempotent):
    grace_s = 2
    cluster.set_grace(grace_s)
    options = {"idempotent": True, "retries": 3} if idempotent else {}
    events = {"RFAAS_EVENT_LOG": f"{alice.account.home}/events"}
    n_jobs = 4
    long_s = grace_s + 4.0
    changes = {"n_calls": 1500, "long_every": 50, "long_s": long_s, "options": options}
    with rfaas_up(cluster, alice, env=events), streaming(alice, **changes) as stream:
        starts = [rigid_job(cluster, bob, probe, stream) for _ in range(n_jobs)]
        answer = finish(stream)
    for start in starts:
        assert_in_time(start.delay_s, grace_s + cluster.settings.kill_wait_s + 2.0)
    print(f"\ndelays {[round(start.delay_s, 2) for start in starts]}, errors {len(answer['errors'])}")

    assert_kept(alice.home / "events")
    witness = stream.witness
    executions = witness.executions()
    assert set(executions) == set(range(answer["submitted"]))
    cut_off = {run.inv for run in witness.runs if not run.end_ns}
    assert cut_off, "no rigid job met a long call"
    if idempotent:
        assert answer["errors"] == []
        assert answer["right"] == answer["submitted"]
        assert all(count == 1 for inv, count in executions.items() if inv not in cut_off)
        return
    assert {error["inv"] for error in answer["errors"]} <= cut_off
    for error in answer["errors"]:
        assert (error["code"], error["may_have_run"], error["phase"]) == ("reclaimed", True, "STARTED"), error
        assert error["reason_code"] == 1, error
    assert len(answer["errors"]) <= n_jobs * RIGID_NODES * cluster.settings.cpus  # one a worker that was taken
    assert answer["right"] == answer["submitted"] - len(answer["errors"])
    assert set(executions.values()) == {1}


def test_up_and_down_leave_nothing_and_say_what_is_wrong(cluster, alice):
    with rfaas_up(cluster, alice) as answer:
        assert answer["slurm"]["partition"] == "harvest"
        again = alice.run(HEAD, ["rfaas", "up", "--slurm"], RUN_S, check=False)
        assert again.returncode == 78
        assert "already up" in again.stderr
        hello = alice.put(
            "hello.py", "import os, rfaas\nwith rfaas.Executor() as ex: print(ex.submit(os.uname).result()[1])\n"
        )
        assert alice.run(HEAD, ["python", hello], RUN_S).stdout.strip() in cluster.settings.node_names
        # from inside a job on a node, by TLS
        inside = ["srun", "-p", "rigid", "-n1", "python", hello]
        assert alice.run(HEAD, inside, RUN_S).stdout.strip() in cluster.settings.node_names
        # the job inside was a rigid one: its node's slice went for it, and comes back
        wait_until(lambda: "n1" in alice.run(HEAD, ["rfaas", "status"], RUN_S).stdout, RUN_S, "a slice on n1")
    assert list(alice.home.glob(".local/state/rfaas/*")) == []


def test_what_no_node_of_the_cluster_can_hold_is_denied_and_accounts_name_the_job(cluster, alice):
    program = (
        "import rfaas, sys\n"
        "with rfaas.Executor(1, cores=int(sys.argv[1])) as ex:\n"
        "    print(ex.submit(pow, 2, 5).result())\n"
    )
    with rfaas_up(cluster, alice):
        script = alice.put("wide.py", program)
        too_wide = str(cluster.settings.cpus + 1)
        denied = alice.run(HEAD, ["python", script, too_wide], RUN_S, check=False)
        assert "rfaas_transport.errors.LeaseDenied" in denied.stderr
        assert "no host of the inventory is as large as one worker" in denied.stderr
        assert alice.run(HEAD, ["python", script, "1"], RUN_S).stdout == "32\n"
        listed = json.loads(alice.run(HEAD, ["rfaas", "inventory", "list", "--json"], RUN_S).stdout)
        assert listed["complete"]
        assert {host["name"]: (host["source"], host["cores"]) for host in listed["hosts"]} == {
            name: ("slurm", cluster.settings.cpus) for name in cluster.settings.node_names
        }

        def ended():
            rows = json.loads(alice.run(HEAD, ["rfaas", "accounting", "--json"], RUN_S).stdout)["accounts"]
            return rows if rows and all(row["end"] != "Unknown" for row in rows) else None

        # Often one; a lease that was on its way when the program ended is given back at once, and has an account too.
        rows = wait_until(ended, RUN_S, "the accounts to be closed")
        assert sum(row["calls"] for row in rows) == 1
        assert {(row["user"], row["job_id"].isdigit()) for row in rows} == {("alice", True)}


def test_no_preemptible_partition_is_refused_with_the_line_to_add(cluster, alice):
    cluster.head.run_as_root("scontrol", "update", "PartitionName=harvest", "PreemptMode=OFF")
    try:
        refused = alice.run(HEAD, ["rfaas", "up", "--slurm"], RUN_S, check=False)
    finally:
        cluster.head.run_as_root("scontrol", "update", "PartitionName=harvest", "PreemptMode=CANCEL")
    assert refused.returncode == 78
    assert "no partition of this cluster is preemptible" in refused.stderr
    assert "PreemptMode=CANCEL" in refused.stderr


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--nodes=n99", "has no node n99"),
        ("--listen=127.0.0.1", "can't reach this host there"),
        ("--partition=nowhere", "no partition 'nowhere'"),
        ("--partition=rigid", "not taken back for other jobs"),
        ("--sbatch-option=--nonsense", "sbatch refuses"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(cluster, alice, option, words):
    refused = alice.run(HEAD, ["rfaas", "up", "--slurm", option], RUN_S, check=False)
    assert refused.returncode == 78
    assert words in refused.stderr


def test_another_user_is_shut_out(cluster, alice, bob):
    with rfaas_up(cluster, alice):
        state_dir = f"{alice.account.home}/.local/state/rfaas"
        program = "import sys, rfaas\nrfaas.Executor(allocator=sys.argv[1]).submit(print).result()\n"
        script = bob.put("intrude.py", program)
        refused = bob.run(HEAD, ["python", script, state_dir], RUN_S, check=False)
        assert refused.returncode != 0
        assert "ermission" in refused.stderr or "no directory" in refused.stderr
        nodes = bob.run(HEAD, ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'"], RUN_S).stdout
        assert (alice.home / ".local/state/rfaas/secret").read_bytes().hex() not in nodes


def test_slices_return_after_the_rigid_job_and_leave_room_when_told(cluster, alice, bob):
    cores = cluster.settings.cpus
    with rfaas_up(cluster, alice):
        bob.run(HEAD, ["srun", "-N2", "--exclusive", "sleep", "1"], RUN_S)
        began_s = time.monotonic()
        wait_until(lambda: cores_up(alice) == cluster.settings.nodes * cores, RUN_S, "slices to return")
        print(f"\nslices returned after {time.monotonic() - began_s:.1f} s")
        # a rigid job that leaves cores over: they are harvested too
        with bob.popen(HEAD, ["srun", "-w", "n1", f"-n{cores - 1}", "sleep", "600"]):
            left_over = (cluster.settings.nodes - 1) * cores + 1
            wait_until(lambda: cores_up(alice) == left_over, RUN_S, "a slice on the left-over core")
        cluster.head.run_as_root("scancel", "--user=bob")
