"""Slurm's hooks on a real Slurm: nothing of rfaas runs any more when a job begins, and no job fails for them."""

import os
import shutil
import statistics
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster.delay import Probe, RigidStart, build_probe
from cluster.fixtures import checked
from cluster.hook_rig import (
    CGROUP,
    CONF,
    NODE_SOCKET,
    build_heartbeat,
    build_hook,
    clear,
    executor,
    listener,
    node_log,
    unwell_nodes,
    write_conf,
)
from cluster.rig import HEAD, Cluster, Settings
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.figures]

RUN_S = 60.0
FREEZER = f"/sys/fs/cgroup/freezer/{CGROUP}/slice"
ALLOCATOR = "@hooks-of-the-test"
LINES = """\
Prolog={hook}
Epilog={hook}
PrologSlurmctld={hook}
EpilogSlurmctld={hook}
PrologFlags=Alloc
"""


@pytest.fixture(scope="module")
def programs():
    """The hook and the executor, where every user of every node can run them."""
    folder = Path(f"/var/tmp/rfaas-hooks-{os.getpid()}")
    folder.mkdir()
    folder.chmod(0o755)
    build_hook(folder / "rfaas-hook", CONF)
    build_heartbeat(folder / "heartbeat")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hooked_cluster(start_cluster, programs) -> Cluster:
    """Two nodes whose Slurm runs all four hooks."""
    extra = LINES.format(hook=programs / "rfaas-hook")
    return start_cluster(Settings(nodes=2, cpus=2, cgroups=True, extra_conf=extra), wheel=False)


@pytest.fixture
def cluster(hooked_cluster):
    with checked(hooked_cluster) as clean:
        clear(clean)
        yield clean
        assert unwell_nodes(clean) == ""  # no hook drained a node, whatever it met


@pytest.fixture
def folder(cluster) -> Path:
    """At the same path on the machine and on every node, as /tmp is not."""
    path = cluster.layout.share / "hooks"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


@pytest.fixture
def probe(cluster) -> Probe:
    return build_probe(cluster)


def rigid_job(bob, probe: Probe, executors=()) -> RigidStart:
    """A job on both nodes. `srun` fails, and so does this, if a hook failed it."""
    assert all(running.pids() for running in executors)  # they live until then
    return probe.rigid_start(bob, ["-N2", "--exclusive"], RUN_S)


def executors_on(stack, cluster, heartbeat, folder, *options):
    """One on each node."""
    return [stack.enter_context(executor(cluster, n, heartbeat, folder, *options)) for n in cluster.settings.node_names]


def assert_evicted_in_time(executors, start: RigidStart) -> None:
    began_ns = {task.node: task.began_ns for task in start.tasks}
    assert len(began_ns) == 2
    for running in executors:
        last_ns, node = running.last_ns(), running.node.name
        assert running.pids() == []
        assert last_ns < began_ns[node], f"{node}: it ran {last_ns - began_ns[node]} ns too long"
        ahead_ms = (began_ns[node] - last_ns) / 1e6
        print(f"{node}: last instruction of the executor {ahead_ms:.1f} ms before the job's first")


@pytest.mark.parametrize("how", [(), ("forks",)], ids=["busy", "forking"])
def test_executors_are_dead_before_the_first_instruction_of_a_job(cluster, bob, probe, programs, folder, how):
    with ExitStack() as stack:
        ends = [
            stack.enter_context(
                listener(cluster.node(n).way_in, folder / n, NODE_SOCKET, *(() if how else ("--evict", FREEZER)))
            )
            for n in cluster.settings.node_names
        ]
        if how:  # a node agent that is there, and hangs
            for end in ends:
                end.stop()
        executors = executors_on(stack, cluster, programs / "heartbeat", folder, *how)
        start = rigid_job(bob, probe, executors)
        assert_evicted_in_time(executors, start)
        print(f"the job's first instruction {start.delay_s:.3f} s after srun's start")
        if how:
            for node in cluster.settings.node_names:
                (line,) = [line for line in node_log(cluster, node) if "no answer in time" in line]
                assert f"killed cgroup {CGROUP} myself" in line
            return
        for node, end in zip(cluster.settings.node_names, ends, strict=True):
            wait_until(lambda end=end: len(end.heard()) == 2, RUN_S, "the Epilog")
            lines = [line.split() for line in end.heard()]
            assert [words[:3] for words in lines] == [["0", "rfaas-hook/1", verb] for verb in ("evict", "free")]
            for words in lines:
                fields = dict(word.split("=") for word in words[3:])
                assert fields["uid"] == str(bob.account.uid)
                assert fields["node"] == node
                assert fields["job"].isdigit()
                assert fields["partition"] == "rigid"
            assert node_log(cluster, node) == []


def test_a_node_agent_that_died_is_replaced_by_the_prolog(cluster, bob, probe, programs, folder):
    with ExitStack() as stack:
        for node in cluster.settings.node_names:
            stack.enter_context(listener(cluster.node(node).way_in, folder / node, NODE_SOCKET)).kill()
        executors = executors_on(stack, cluster, programs / "heartbeat", folder)
        assert_evicted_in_time(executors, rigid_job(bob, probe, executors))
        assert all("nobody listens there; killed" in node_log(cluster, n)[0] for n in cluster.settings.node_names)


def test_an_agent_that_says_anything_else_than_done_is_not_believed(cluster, bob, probe, programs, folder):
    with ExitStack() as stack:
        answer = "--answer=rfaas-hook/1 error reason=bad-packet"
        for node in cluster.settings.node_names:
            stack.enter_context(listener(cluster.node(node).way_in, folder / node, NODE_SOCKET, answer))
        executors = executors_on(stack, cluster, programs / "heartbeat", folder)
        assert_evicted_in_time(executors, rigid_job(bob, probe, executors))
        assert all("refused; killed" in node_log(cluster, n)[0] for n in cluster.settings.node_names)


def test_where_rfaas_is_absent_jobs_start_as_if_there_were_no_hooks(cluster, bob, probe, programs):
    delays = [rigid_job(bob, probe).delay_s for _ in range(5)]
    for name in cluster.settings.all_names:
        assert node_log(cluster, name) == []
    (cluster.layout.etc / Path(CONF).name).unlink()  # not even that
    rigid_job(bob, probe)
    took_ms = []
    for _ in range(20):
        began_s = time.perf_counter()
        subprocess.run([programs / "rfaas-hook", "prolog_slurmd"], check=True, timeout=RUN_S)
        took_ms.append(1e3 * (time.perf_counter() - began_s))
    print(f"srun to first instruction with hooks: median {statistics.median(delays):.3f} s, worst {max(delays):.3f} s")
    print(f"one hook from exec to exit: median {statistics.median(took_ms):.2f} ms, worst {max(took_ms):.2f} ms")


def test_nothing_is_told_to_a_socket_in_a_directory_that_is_not_roots(cluster, bob, probe, folder):
    with listener(cluster.node("n1").way_in, folder / "n1", NODE_SOCKET, "--mode=777") as end:
        rigid_job(bob, probe)
        assert end.heard() == []
        assert "not of whom it must be" in node_log(cluster, "n1")[0]


def test_nothing_is_told_to_a_user_that_took_the_sockets_place(cluster, alice, bob, probe, folder):
    write_conf(cluster, f"allocator_socket = {ALLOCATOR}", "allocator_uid = 1")
    with listener(alice.way_in(HEAD), folder / "heard", ALLOCATOR) as end:
        rigid_job(bob, probe)
        assert end.heard() == []
    assert any("not of whom it must be" in line for line in node_log(cluster, HEAD))


def test_the_allocator_hears_of_the_whole_job_before_it_starts_and_after_it_ended(cluster, alice, bob, probe, folder):
    write_conf(cluster, f"allocator_socket = {ALLOCATOR}", f"allocator_uid = {alice.account.uid}")
    slurm_uid = cluster.layout.run.stat().st_uid
    with listener(alice.way_in(HEAD), folder / "heard", ALLOCATOR) as end:
        rigid_job(bob, probe)
        wait_until(lambda: len(end.heard()) == 2, RUN_S, "EpilogSlurmctld")
        for line, verb in zip(end.heard(), ("warn", "free"), strict=True):
            assert line.startswith(f"{slurm_uid} rfaas-hook/1 {verb} job=")
            assert f" uid={bob.account.uid} " in line
            assert " nodes=n[1-2]" in line
        assert node_log(cluster, HEAD) == []


@pytest.fixture
def own_program(cluster, programs):
    """A program of the site's for PrologSlurmctld, as docs/deployment.md writes it; afterwards the hook is back."""
    own = programs / "ctld.d" / "prolog"
    own.parent.mkdir(exist_ok=True)
    said = cluster.layout.share / "own-said"
    said.touch()
    said.chmod(0o666)
    own.write_text(f'#!/bin/sh\n{programs}/rfaas-hook\necho "$SLURM_JOB_ID" >> {said}\n')
    own.chmod(0o755)
    file = cluster.layout.etc / "slurm.conf"
    before = file.read_text()

    def set_to(value: object) -> None:
        file.write_text(before.replace("PrologSlurmctld=", f"PrologSlurmctld={value} #", 1))
        cluster.head.run_as_root("scontrol", "reconfigure")
        wait_until(lambda: str(value) in cluster.head.run_as_root("scontrol", "show", "config"), RUN_S, "it")

    yield own, said, set_to
    file.write_text(before)
    cluster.head.run_as_root("scontrol", "reconfigure")


def test_a_program_of_the_sites_beside_slurmctld_calls_the_hook(cluster, alice, bob, probe, folder, own_program):
    own, said, set_to = own_program
    set_to(own)
    write_conf(cluster, f"allocator_socket = {ALLOCATOR}", f"allocator_uid = {alice.account.uid}")
    with listener(alice.way_in(HEAD), folder / "heard", ALLOCATOR) as end:
        rigid_job(bob, probe)
        wait_until(lambda: len(end.heard()) == 2, RUN_S, "EpilogSlurmctld")
        assert [line.split()[2] for line in end.heard()] == ["warn", "free"]
    assert len(said.read_text().splitlines()) == 1


def test_an_allocator_that_hangs_holds_nobody_up(cluster, alice, bob, probe, folder):
    write_conf(cluster, f"allocator_socket = {ALLOCATOR}", f"allocator_uid = {alice.account.uid}")
    with listener(alice.way_in(HEAD), folder / "heard", ALLOCATOR) as end:
        end.stop()
        delays = [rigid_job(bob, probe).delay_s for _ in range(3)]
    print(f"with an allocator that is stopped: worst {max(delays):.3f} s")


@pytest.mark.parametrize(
    ("lines", "mode", "words"),
    [
        ((), 0o666, "not root's alone to write"),
        (("cgroup = ../slurm",), 0o644, "not understood"),
        (("answer_ms = 5000",), 0o644, "answer_ms"),
    ],
)
def test_a_configuration_that_is_wrong_is_said_and_harms_nobody(cluster, bob, probe, lines, mode, words):
    write_conf(cluster, *lines, mode=mode)
    rigid_job(bob, probe)
    if mode == 0o666:  # the log that it names is not believed either
        return
    for node in cluster.settings.node_names:
        assert any(words in line for line in node_log(cluster, node))
