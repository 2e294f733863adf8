"""Commands beside a real Slurm: what can not be harvested is refused; `rfaas run --slurm` leaves nothing behind."""

import json

import pytest

from cluster.rig import HEAD

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

RUN_S = 90.0
HELLO = """\
import os, rfaas
with rfaas.Executor(max_workers=1, memory="64MiB") as ex:
    print(ex.submit(os.uname).result(60)[1])
"""


def up(user, *arguments):
    done = user.run(HEAD, ["rfaas", "up", "--slurm", *arguments], RUN_S, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--partition", "rigid"), "jobs in partition 'rigid' are not taken back"),
        (("--partition", "ridgid"), "there is no partition 'ridgid'"),
        (("--nodes", "n[1-99]"), "has no node"),
        (("--nodes", "n[1"), "a bracket is not closed"),
    ],
)
def test_what_can_not_be_harvested_is_refused_before_anything_starts(cluster, alice, arguments, said):
    code, told = up(alice, *arguments)
    assert (code, said in told, "remedy: " in told) == (78, True, True), told


def test_a_slurmctld_that_is_down_is_named(cluster, alice):
    cluster.kill_daemon(HEAD)
    try:
        code, told = up(alice)
        doctor = alice.run(HEAD, ["rfaas", "doctor", "--json"], RUN_S, check=False)
    finally:
        cluster.start_daemon(HEAD)
        cluster.wait_idle()
    assert (code, "remedy: " in told) == (78, True), told
    found = {finding["check"]: finding for finding in json.loads(doctor.stdout)["findings"]}
    assert (doctor.returncode, found["Slurm"]["severity"]) == (1, "error"), found["Slurm"]
    assert found["Slurm"]["remedy"]


def test_a_program_runs_with_a_harvest_of_its_own_that_is_gone_afterwards(cluster, alice):
    program = alice.put("hello.py", HELLO)
    arguments = ["run", "--slurm", "--set", "harvest.nodes=n[1-2]", "--", "python", program]
    done = alice.run(HEAD, ["rfaas", *arguments], 2 * RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("n1", "n2")
    left = alice.run(HEAD, ["sh", "-c", "ls -a ~/.cache; squeue --me --noheader"], RUN_S).stdout
    assert "rfaas-run-" not in left
    assert "rfaas-slice" not in left


def test_bench_measures_calls_to_another_node_beside_tcp_to_the_same_worker(cluster, alice):
    bench = ["rfaas", "bench", "latency", "--quick", "--sizes", "1,64KiB", "--json"]
    done = alice.run(HEAD, ["rfaas", "run", "--slurm", "--", *bench], 2 * RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["medium"], told["node"] in cluster.settings.node_names) == ("tcp", True)
    assert all(row["raw"]["n"] and row["calls"]["n"] for row in told["rows"])


def test_doctor_knows_the_cluster(cluster, alice):
    doctor = alice.run(HEAD, ["rfaas", "doctor", "--json"], RUN_S, check=False)
    found = {finding["check"]: finding for finding in json.loads(doctor.stdout)["findings"]}
    assert (found["munge"]["severity"], found["Slurm"]["severity"]) == ("ok", "ok"), found
    assert "partition harvest can be harvested" in found["Slurm"]["text"]
