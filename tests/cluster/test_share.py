"""A job lends what it leaves: --rfaas-share by the SPANK plugin, and `rfaas share` without it, on a real Slurm."""

import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.fixtures import checked
from cluster.harvested import cores_up, rfaas_up, snapshot
from cluster.hook_rig import CONF, build_hook, write_conf
from cluster.rig import HEAD, Cluster, Settings, commands
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

SPANK = Path(__file__).parents[2] / "slurm_plugin/spank"
RUN_S = 60.0
ALLOCATOR = "@hooks-of-the-test"
CPUS = 2  # as many as any machine has: tasks can be bound to them
SLEEP = "#!/bin/sh\nsrun sleep 600\n"
WHERE = """\
import json, os, sys, time, rfaas

def here():
    time.sleep(0.1)
    return os.uname()[1], tuple(sorted(os.sched_getaffinity(0)))

seen = {}
with rfaas.Executor(int(sys.argv[1]), memory="64MiB", acquire_timeout_s=60) as ex:
    while len(seen) < 2:  # workers come one after the other
        seen |= {node: cpus for node, cpus in (call.result() for call in [ex.submit(here) for _ in range(8)])}
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def plugin(start_cluster):
    """rfaas_spank.so, built as a site builds it."""
    folder = Path(f"/var/tmp/rfaas-spank-{os.getpid()}")
    shutil.copytree(SPANK, folder, ignore=shutil.ignore_patterns("*.so"))
    commands.run(["make", "-C", str(folder), "CFLAGS=-O2 -Werror"], timeout_s=RUN_S)
    folder.chmod(0o755)
    yield folder / "rfaas_spank.so"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sharing_cluster(start_cluster, plugin) -> Cluster:
    """Nodes whose tasks can be bound, and whose slurmctld has hooks."""
    hook = build_hook(plugin.parent / "rfaas-hook", CONF)
    extra = f"PrologSlurmctld={hook}\nEpilogSlurmctld={hook}\n"
    return start_cluster(Settings(nodes=2, cpus=CPUS, extra_conf=extra))


@pytest.fixture
def cluster(sharing_cluster):
    with checked(sharing_cluster) as clean:
        yield clean


@pytest.fixture
def spank(cluster, plugin):
    """The site's plugstack.conf names the plugin, with more words if you like."""
    conf = cluster.layout.etc / "plugstack.conf"

    def write(*words):
        conf.write_text(" ".join(["optional", str(plugin), *words]) + "\n")

    write()
    yield write
    conf.write_text("")


@contextmanager
def job(alice, *options, script=SLEEP):
    """A batch job of alice's for the length of the block: its id."""
    path = alice.put("job.sh", script, mode=0o700)
    job_id = alice.run(HEAD, ["sbatch", "--parsable", "-o", "job.out", *options, path], RUN_S).stdout.strip()
    try:
        yield job_id
    finally:
        alice.run(HEAD, ["scancel", "--full", job_id], RUN_S)


def shared(alice, job_id):
    """Cores by node of the slices that a job gives."""
    return {s["node"]: s["cores"] for s in snapshot(alice)["slices"] if s["job_id"] == job_id and s["state"] == "up"}


def await_shared(alice, job_id, wanted):
    """Wait until a job gives these cores by node; what the lenders wrote is told if it does not come to that."""
    try:
        wait_until(lambda: shared(alice, job_id) == wanted, RUN_S, f"job {job_id} to share {wanted}")
    except AssertionError as error:
        logs = [f"{log.name}: {log.read_text()}" for log in alice.home.glob(".local/state/rfaas/log/share-*.log")]
        raise AssertionError("\n".join([str(error), f"it shares {shared(alice, job_id)}", *logs])) from None


def where_calls_run(alice, workers):
    """Both nodes, and CPUs that a worker may run on there."""
    program = alice.put("where.py", WHERE)
    answer = json.loads(alice.run(HEAD, ["python", program, str(workers)], RUN_S).stdout)
    return {node: set(cpus) for node, cpus in answer.items()}


def test_a_job_shares_on_each_of_its_nodes_and_takes_all_along_when_it_ends(cluster, alice, spank):
    with rfaas_up(cluster, alice, cores=2 * CPUS):
        with job(alice, "-N2", "--exclusive", "--rfaas-share=1:300M:2") as job_id:
            await_shared(alice, job_id, {"n1": 1, "n2": 1})
            assert set(where_calls_run(alice, 2)) == {"n1", "n2"}
            assert alice.run(HEAD, ["squeue", "-h", "-j", job_id, "-o", "%T"], RUN_S).stdout.strip() == "RUNNING"
        await_shared(alice, job_id, {})
        wait_until(lambda: "COMPLETING" not in alice.run(HEAD, ["squeue", "-h"], RUN_S).stdout, RUN_S, "its end")
    assert cluster.head.run_as_root("sinfo", "-hR") == ""


def test_it_leaves_cpus_that_tasks_are_bound_to_also_those_of_a_later_step(cluster, alice, spank):
    script = "#!/bin/sh\ntaskset -c 0 sleep 600\n"
    with (
        rfaas_up(cluster, alice, "--nodes", "n2", cores=CPUS),
        job(alice, "-N1", "-wn1", "--exclusive", "--rfaas-share=1:300M:1", script=script) as job_id,
    ):
        await_shared(alice, job_id, {"n1": 1})
        assert where_calls_run(alice, CPUS + 1)["n1"] == {1}
        while_wanted = "while [ -e wanted ]; do sleep 0.2; done"
        alice.put("wanted", "")
        later = ["srun", f"--jobid={job_id}", "--overlap", "-n1", "taskset", "-c", "1", "sh", "-c", while_wanted]
        with alice.popen(HEAD, later) as step:
            await_shared(alice, job_id, {})
            (alice.home / "wanted").unlink()
            assert step.wait(RUN_S) == 0
        await_shared(alice, job_id, {"n1": 1})
        log = (alice.home / f".local/state/rfaas/log/share-{job_id}-n1.log").read_text()
        assert "tasks took CPUs of [1]: giving all back" in log
        assert "nothing is shared while that is so" in log


def test_without_the_plugin_the_owner_shares_by_an_overlapping_step(cluster, alice):
    home = alice.account.home
    script = f"""#!/bin/sh
rfaas share --cores 1 --memory 300MiB --grace 2s > {home}/share.log 2>&1 &
while [ ! -e {home}/enough ]; do sleep 0.2; done
kill $!
wait $!
touch {home}/given-back
sleep 600
"""
    with rfaas_up(cluster, alice, cores=2 * CPUS), job(alice, "-N2", "--exclusive", script=script) as job_id:
        await_shared(alice, job_id, {"n1": 1, "n2": 1})
        assert set(where_calls_run(alice, 2)) == {"n1", "n2"}
        alice.put("enough", "")
        wait_until((alice.home / "given-back").exists, RUN_S, "the end of rfaas share")
        await_shared(alice, job_id, {})
        assert alice.run(HEAD, ["squeue", "-h", "-j", job_id, "-o", "%T"], RUN_S).stdout.strip() == "RUNNING"


@pytest.mark.parametrize("command", ["srun", "sbatch", "salloc"])
def test_a_wrong_value_is_refused_when_the_job_is_submitted(cluster, alice, spank, command):
    what = "--wrap=true" if command == "sbatch" else "true"
    refused = alice.run(HEAD, [command, "--rfaas-share=0:1G", what], RUN_S, check=False)
    assert refused.returncode != 0
    assert "no whole number of cores, 1 or more; write cores:mem[:grace], e.g. 2:8G" in refused.stderr
    assert alice.run(HEAD, ["squeue", "-h"], RUN_S).stdout == ""


def test_a_job_runs_all_the_same_where_nothing_can_be_shared(cluster, alice, spank):
    spank("command=/nowhere/rfaas")
    ran = alice.run(HEAD, ["srun", "--rfaas-share=1:300M", "echo", "ran"], RUN_S)
    assert ran.stdout == "ran\n"
    assert "nothing is shared: can't run /nowhere/rfaas: No such file or directory" in ran.stderr
    beyond = alice.run(HEAD, ["srun", "-n1", "--rfaas-share=2:300M", "echo", "ran"], RUN_S)
    assert beyond.stdout == "ran\n"
    assert "nothing is shared: 2 cores are asked for, and the job has 1 here" in beyond.stderr
    spank("commando=/nowhere")
    assert "is not understood" in alice.run(HEAD, ["srun", "--rfaas-share=1:300M:0", "true"], RUN_S).stderr


def test_outside_of_a_job_and_beyond_the_job_it_says_what_to_do(cluster, alice):
    outside = alice.run(HEAD, ["rfaas", "share", "--memory", "1GiB"], RUN_S, check=False)
    assert outside.returncode == 78
    assert "not inside a Slurm job" in outside.stderr
    beyond = ["srun", "-n1", "rfaas", "share", "--here", "--cores", "3", "--memory", "1GiB"]
    refused = alice.run(HEAD, beyond, RUN_S, check=False)
    assert refused.returncode == 78
    assert "the job has 1 here" in refused.stderr


def test_nodes_that_a_job_gave_back_are_harvested_again_before_the_next_cycle(cluster, alice, bob):
    write_conf(cluster, f"allocator_socket = {ALLOCATOR}", f"allocator_uid = {alice.account.uid}")
    cycle_s = 10 * RUN_S
    with rfaas_up(cluster, alice, "--cycle-s", str(cycle_s), "--hooks-socket", ALLOCATOR, cores=2 * CPUS):
        bob.run(HEAD, ["srun", "-N2", "--exclusive", "true"], RUN_S)
        began_s = time.monotonic()
        wait_until(lambda: cores_up(alice) == 2 * CPUS, RUN_S, "the slices to return")
        print(f"slices are back {time.monotonic() - began_s:.1f} s after the job; a cycle takes {cycle_s:.0f} s")
