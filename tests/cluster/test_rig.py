"""The rig itself: users, MPI, preemption, nodes that die, and a stop that leaves nothing."""

import os
import signal
import sys
from pathlib import Path

import pytest

from cluster.rig import HEAD, Cluster, CommandFailed, CommandTimeout, RigError, Settings, commands, sweep
from cluster.rig.residue import Footprint, left_by_users, network_and_mounts
from support.waiting import wait_until

pytestmark = pytest.mark.slurm

RUN_S = 20.0  # a command on the cluster that takes a fraction of a second, on a busy machine

MPI_PROGRAM = """\
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank)
nodes = sorted(set(world.allgather(MPI.Get_processor_name())))
if world.rank == 0:
    print(world.size, total, *nodes)
"""

# exits at once on SIGTERM and leaves the time of it; "ready" tells that the trap is set
HARVEST_STEP = """\
#!/bin/bash
trap 'date +%s.%N > "$HOME/terminated.$SLURM_JOB_ID"; kill %1; exit 0' TERM
touch "$HOME/ready.$SLURM_JOB_ID"
sleep 600 &
wait
"""


def test_all_nodes_are_idle_and_have_what_was_declared(cluster):
    lines = cluster.head.run_as_root("sinfo", "-h", "-N", "-p", "rigid", "-o", "%N %T %c %m").split("\n")
    settings = cluster.settings
    expected = [f"{name} idle {settings.cpus} {settings.memory_mib}" for name in settings.node_names]
    assert sorted(line for line in lines if line) == expected


def test_users_exist_on_every_node_and_not_on_the_machine(cluster, alice, bob):
    for node in cluster.nodes:
        for user in (alice, bob):
            result = user.run(node.name, ["sh", "-c", "id -un; id -gn; id -u; pwd; hostname"], RUN_S)
            expected = [user.name, user.name, str(user.account.uid), f"/home/{user.name}", node.name]
            assert result.stdout.split() == expected
    entries = tuple(f"{user.name}:x:{user.account.uid}" for user in (alice, bob))
    with open("/etc/passwd") as passwd:
        assert not [line for line in passwd if line.startswith(entries)]


def test_tasks_run_as_the_user_who_submitted_them(alice):
    result = alice.run(HEAD, ["srun", "-N4", "sh", "-c", "id -un; hostname; echo $HOME"], RUN_S)
    assert sorted(result.stdout.split()) == sorted(["alice", "/home/alice"] * 4 + ["n1", "n2", "n3", "n4"])


def test_homes_are_private_and_the_same_on_all_nodes(alice, bob):
    path = bob.put("secret/letter.txt", "for bob")
    assert bob.run("n3", ["cat", path], RUN_S).stdout == "for bob"
    with pytest.raises(CommandFailed, match="Permission denied"):
        alice.run("n3", ["cat", path], RUN_S)
    with pytest.raises(CommandFailed, match="Permission denied"):
        alice.run(HEAD, ["ls", "/home/bob"], RUN_S)


def test_the_login_node_alone_has_a_runtime_directory(alice):
    assert alice.run(HEAD, ["stat", "-c", "%a %U", alice.account.runtime_dir], RUN_S).stdout.split() == ["700", "alice"]
    # srun carries the variable along, as on sites where only a login makes the folder
    lines = alice.run(HEAD, ["srun", "sh", "-c", 'echo $XDG_RUNTIME_DIR; ls -d "$XDG_RUNTIME_DIR" || :'], RUN_S)
    assert lines.stdout.split() == [alice.account.runtime_dir]


def test_users_run_the_built_wheel_and_not_the_checkout(cluster, alice):
    found = alice.run("n1", ["python", "-c", "import rfaas; print(rfaas.__file__)"], RUN_S).stdout
    assert found.startswith(f"{cluster.layout.venv}/lib/")
    assert alice.run("n2", ["rfaas", "--help"], RUN_S).stdout


def test_mpi_runs_over_two_nodes(alice):
    program = alice.put("hello_mpi.py", MPI_PROGRAM)
    result = alice.run(HEAD, ["srun", "--mpi=pmix", "-N2", "-n4", "python", program], 60)
    assert result.stdout.split()[:2] == ["4", "6"]
    assert len(result.stdout.split()[2:]) == 2


@pytest.mark.parametrize("grace_s", [0, 5])
def test_a_rigid_job_takes_the_nodes_of_a_harvest_step_that_exits_on_sigterm(cluster, alice, bob, grace_s):
    cluster.set_grace(grace_s)
    step = alice.put("step.sh", HARVEST_STEP, mode=0o700)
    script = alice.put("harvest.sh", f"#!/bin/sh\nexec srun {step}\n")
    for _ in cluster.settings.node_names:
        alice.run(HEAD, ["sbatch", "-p", "harvest", "-N1", "--exclusive", "-o", "harvest-%j.out", script], RUN_S)
    wait_until(lambda: len(list(alice.home.glob("ready.*"))) == 4, RUN_S, "four harvest steps")
    result = bob.run(HEAD, ["srun", "-N2", "--exclusive", "hostname"], RUN_S)
    assert len(set(result.stdout.split())) == 2
    assert len(list(alice.home.glob("terminated.*"))) == 2  # only the jobs in the way
    cluster.remove_users_things()


def test_a_rigid_job_is_never_preempted(cluster, alice, bob):
    with alice.popen(HEAD, ["srun", "-N4", "--exclusive", "sleep", "600"]):
        wait_until(lambda: cluster.head.run_as_root("squeue", "-h", "-t", "R").strip(), RUN_S, "the rigid job")
        with pytest.raises(CommandFailed, match="nodes are busy"):
            bob.run(HEAD, ["srun", "--immediate=1", "-p", "harvest", "hostname"], RUN_S)
        with pytest.raises(CommandFailed, match="nodes are busy"):
            bob.run(HEAD, ["srun", "--immediate=1", "hostname"], RUN_S)
        assert cluster.head.run_as_root("squeue", "-h", "-t", "R").split()[3] == "alice"
    cluster.remove_users_things()


def test_a_killed_node_is_gone_at_once_and_works_after_its_start(cluster, alice):
    cluster.kill_node("n2")
    assert cluster.node("n2").init_pid is None
    assert cluster.node("n2").processes() == []
    cluster.start_node("n2")
    cluster.wait_idle()
    assert alice.run(HEAD, ["srun", "-w", "n2", "hostname"], RUN_S).stdout == "n2\n"


@pytest.mark.parametrize("name", [HEAD, "n1"])
def test_a_daemon_can_be_killed_and_started_again(cluster, alice, name):
    cluster.kill_daemon(name)
    cluster.start_daemon(name)
    cluster.remove_users_things()  # jobs of the tests before may have risen from slurmctld's saved state
    assert alice.run(HEAD, ["srun", "-w", "n1", "hostname"], RUN_S).stdout == "n1\n"


def test_a_changed_grace_time_outlives_slurmctld(cluster):
    cluster.set_grace(17)
    cluster.kill_daemon(HEAD)
    cluster.start_daemon(HEAD)
    cluster.remove_users_things()
    assert "GraceTime=17" in cluster.head.run_as_root("scontrol", "show", "partition", "harvest")


def test_a_command_at_its_limit_is_killed_and_its_output_kept(cluster, alice):
    with pytest.raises(CommandTimeout, match="so far"):
        alice.run("n1", ["sh", "-c", "echo so far; sleep 600"], 1.0)
    wait_until(lambda: not left_by_users(cluster), RUN_S, "nothing to be left of it")


def test_what_a_user_leaves_is_noticed_and_can_be_removed(cluster, alice):
    program = """\
import os, socket, time
name = socket.socket(socket.AF_UNIX); name.bind("\\0left-behind")
port = socket.socket(); port.bind(("", 0)); port.listen()
open("/tmp/left", "w"); open("/dev/shm/left", "w")
if os.fork() == 0:
    os.setsid(); os.closerange(0, 3); time.sleep(600)
"""
    alice.run("n1", ["python", "-c", program], RUN_S, env={"PYTHONWARNINGS": "ignore"})
    left = "\n".join(left_by_users(cluster))
    for kind in ("process", "file on n1: /tmp/left", "file on n1: /dev/shm/left", "abstract socket", "listening"):
        assert kind in left
    cluster.remove_users_things()
    assert left_by_users(cluster) == []


def test_a_command_beside_the_test_can_be_signalled_and_ends_with_its_block(cluster, alice):
    with alice.popen("n1", ["sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"]) as loop:
        assert loop.process.stdout.readline() == "up\n"
        loop.signal(signal.SIGTERM)
        assert loop.output(RUN_S) == ("bye\n", "")
        assert loop.wait(RUN_S) == 3
    with alice.popen("n1", ["sleep", "600"]) as sleeper:
        pid = sleeper.pid
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), RUN_S, "its end")


def test_a_cluster_that_cannot_start_says_why_and_is_gone():
    cluster = Cluster(f"test-{os.getpid()}-broken")
    with pytest.raises(RigError, match="NoSuchWord"):
        cluster.start(Settings(nodes=1, extra_conf="NoSuchWord=1\n"), with_starter=True)
    assert not cluster.layout.root.exists()
    assert not cluster.is_running


def test_a_cluster_dies_with_the_process_that_started_it_and_is_swept():
    name = f"test-{os.getpid()}-orphan"
    program = (
        "import os, signal; from cluster.rig import *;"
        f"Cluster('{name}').start(Settings(nodes=1), with_starter=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    tests_folder = Path(__file__).parents[1]
    starter = commands.run([sys.executable, "-c", program], timeout_s=RUN_S, check=False, cwd=tests_folder)
    assert starter.returncode == -signal.SIGKILL, starter.stderr
    cluster = Cluster(name)
    wait_until(lambda: not cluster.is_running, RUN_S, "the end of the nodes")
    sweep()
    assert not cluster.layout.root.exists()


@pytest.mark.parametrize("cgroups", [False, True])
def test_stop_leaves_nothing_on_the_machine(cgroups):
    before = network_and_mounts()
    cluster = Cluster(f"test-{os.getpid()}-stop")
    cluster.start(Settings(nodes=2, cgroups=cgroups), with_starter=True)
    try:
        cluster.user("alice").run(HEAD, ["srun", "-N2", "hostname"], RUN_S)
        footprint = Footprint(cluster)
        assert footprint.n_processes > 8
        assert footprint.remains()
    finally:
        cluster.stop()
    assert footprint.remains() == []
    assert network_and_mounts() == before
