"""Quiet signals, children, control messages, environments, addresses: the small pieces, each with a real process."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from multiprocessing import util
from pathlib import Path

import pytest

from rfaas_executors import command, control, family, proc_usage
from rfaas_executors._process import HeldDescriptors
from rfaas_executors.doors import listen_at, listen_here
from rfaas_executors.leftovers import sweep
from rfaas_executors.template_host import template_variables
from rfaas_transport.errors import ConfigError
from support.leftovers import alive
from support.waiting import wait_until

QUIET = """
import os, signal, sys, time
from rfaas_executors import family
family.quiet_for_life()
def child(action):
    pid = os.fork()
    if pid == 0:
        action()
        time.sleep(100)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
def own():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    pid = os.fork()  # a handler of its own is inherited as usual
    if pid == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(1)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print([child(lambda: None) for _ in range(20)] == [-15] * 20, child(own) in (7, -15))
pid = os.fork()
if pid == 0:
    own()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_quiet_signals_end_with_a_fork_and_no_signal_is_lost_in_between():
    out = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=30, check=True).stdout
    assert out.splitlines() == ["True True", "7", "set()"]


def test_children_are_found_in_both_ways():
    with subprocess.Popen(["sleep", "100"]) as process:
        assert process.pid in family.children()
        assert process.pid in family._children_by_search(os.getpid())
        assert family.reap(process.pid) is None
        process.kill()
        wait_until(lambda: family.reap(process.pid) == signal.SIGKILL, 5)
        process.returncode = -9
    assert process.pid not in family.children()


def test_a_group_is_empty_only_when_its_last_member_was_reaped():
    process = subprocess.Popen(["sleep", "100"], start_new_session=True)
    assert not family.group_is_empty(process.pid)
    process.kill()
    process.wait()
    assert family.group_is_empty(process.pid)


def test_control_messages_carry_descriptors_and_end_in_order():
    here, there = control.pair()
    read_end, write_end = os.pipe()
    control.send(here, {"m": "x", "n": 1}, (write_end,))
    os.close(write_end)
    message, [descriptor] = control.receive(there)
    os.write(descriptor, b"!")
    os.close(descriptor)
    assert (message, os.read(read_end, 10)) == ({"m": "x", "n": 1}, b"!")
    os.close(read_end)
    with pytest.raises(BlockingIOError):
        control.receive(there, block=False)
    here.close()
    assert control.receive(there) is None
    there.close()


def test_a_template_gets_nothing_of_the_launcher(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    got = template_variables({"PATH": "/bin", "OMP_NUM_THREADS": "4"}, b"\x01" * 16)
    assert got["RFAAS_GUARD_MARKS_DIR"] == "none"  # functions are no jobs beside a slice
    assert got["TMPDIR"] == "/var/tmp"
    assert got["PATH"] == "/bin"
    assert got["OMP_NUM_THREADS"] == "4"  # named by the client on purpose
    assert got["MKL_NUM_THREADS"] == "1"
    assert got["RFAAS_SLICE"] == "01" * 16
    assert not [name for name in got if name.startswith(("SLURM", "PMI"))]


def test_a_sweep_kills_what_carries_the_mark_and_nothing_else():
    name = os.urandom(16)
    marked = subprocess.Popen(["sleep", "100"], env={"PATH": os.environ["PATH"], "RFAAS_SLICE": name.hex()})
    other = subprocess.Popen(["sleep", "100"], env={"PATH": os.environ["PATH"], "RFAAS_SLICE": name.hex()[:-1] + "x"})
    wait_until(lambda: b"RFAAS" in Path(f"/proc/{marked.pid}/environ").read_bytes(), 5)
    assert sweep(name)
    assert marked.wait(5) == -signal.SIGKILL
    assert other.poll() is None
    other.kill()
    other.wait()


def test_listeners_say_where_they_are():
    here, address = listen_here()
    assert address == "unix:@" + here.getsockname()[1:].decode()
    here.close()
    there, address = listen_at("127.0.0.1", None)
    host, port = there.getsockname()
    assert address == f"tcp:{host}:{port}"
    with pytest.raises(ConfigError, match="can't listen"):
        listen_at("127.0.0.1", range(port, port + 1))
    there.close()
    with pytest.raises(ConfigError):
        listen_at("192.0.2.1", None)
    with pytest.raises(ConfigError):
        listen_at("no.such.host.invalid", None)


def test_a_slice_of_a_job_has_one_name_and_local_ones_differ():
    assert command.slice_key("boot:1:2", "17", 5) == command.slice_key("boot:1:2", "17", 5)
    others = [("boot:1:2", "17", 5), ("boot:1:2", "17", 6), ("boot:1:2", "18", 5), ("boot:9:3", "17", 5)]
    assert len({command.slice_key(*other) for other in others}) == 4
    assert command.slice_key("boot:1:2", "", 0) != command.slice_key("boot:1:2", "", 0)


def test_the_end_of_a_slice_comes_from_the_option_or_from_slurm():
    assert command.end_in_s(5.0, {"SLURM_JOB_END_TIME": "1"}) == 5.0
    assert command.end_in_s(None, {"SLURM_JOB_END_TIME": "1"}) == 0.0
    assert command.end_in_s(None, {"SLURM_JOB_END_TIME": "99999999999"}) > 0
    assert command.end_in_s(None, {}) is None
    assert command.end_in_s(None, {"SLURM_JOB_END_TIME": "0"}) is None


def test_workers_are_pinned_only_if_each_core_has_its_cpu():
    n = len(os.sched_getaffinity(0))
    assert command.cpus_to_pin(n) == tuple(sorted(os.sched_getaffinity(0)))
    assert command.cpus_to_pin(n + 1) == ()


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "secret"
    with pytest.raises(ConfigError, match="can't be read"):
        command.read_secret(tmp_path)
    path.write_bytes(b"x" * 32)
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        command.read_secret(tmp_path)
    path.chmod(0o600)
    assert command.read_secret(tmp_path) == b"x" * 32


def test_peers_of_another_user_have_no_way_in():
    from rfaas_executors.doors import _same_user

    left, right = socket.socketpair()
    with left, right:
        assert _same_user(left)


PUT_BACK = """
import os, signal, subprocess, resource
from rfaas_executors._process import exit_within, put_back_surroundings, remember_surroundings
print(put_back_surroundings())  # nothing is remembered: nothing is done
signal.setitimer(signal.ITIMER_REAL, 100)
remember_surroundings()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
signal.setitimer(signal.ITIMER_VIRTUAL, 100)
os.close(0)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
print(put_back_surroundings(), signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getitimer(0), signal.getitimer(1))
print(os.readlink("/proc/self/fd/0"), subprocess.run(["false"]).returncode, flush=True)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
exit_within(20, 7)
while True:
    pass
"""


def test_what_a_worker_stands_on_is_put_back_and_its_end_is_bounded():
    done = subprocess.run([sys.executable, "-c", PUT_BACK], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.splitlines() == ["True", "True set() (0.0, 0.0) (0.0, 0.0)", "/dev/null 1"], done.stderr
    assert done.returncode == 7


def test_descriptors_that_were_closed_or_replaced_are_found(tmp_path):
    held = HeldDescriptors()
    ends = socket.socketpair()
    fds = [end.detach() for end in ends]
    for fd in fds:
        held.add(fd)
    assert held.lost() == []
    copy = os.dup(fds[0])
    os.dup2(copy, fds[0])
    os.close(copy)
    assert held.lost() == []  # the same socket by the same number
    with open(tmp_path / "file", "w") as file:
        os.dup2(file.fileno(), fds[0])
    os.close(fds[1])
    assert held.lost() == fds
    held.remove(fds[1])
    assert held.lost() == fds[:1]
    os.close(fds[0])
    with pytest.raises(OSError, match="fstat"):
        held.add(fds[0])


TREE = """
import os, sys, time
def grow(depth):
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if depth:
                grow(depth - 1)
            break
grow(2)
time.sleep(60)
"""


def test_a_tree_is_killed_whole_and_a_tracker_is_spared():
    tree = subprocess.Popen([sys.executable, "-c", TREE])
    tracker = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "multiprocessing.resource_tracker"]
    )
    family_of_tree = wait_until(
        lambda: (f := proc_usage.family(tree.pid, 1000).resident.keys()) and len(f) == 40 and list(f), 30, "the tree"
    )
    wait_until(lambda: family.may_be_resource_tracker(tracker.pid), 5)
    assert family.kill_trees({tree.pid, tracker.pid}, spare_trackers=True) == 40
    wait_until(lambda: not any(map(alive, family_of_tree)), 5, "the end of the tree")
    assert alive(tracker.pid)
    wait_until(lambda: (family.kill_trees({tracker.pid}), not alive(tracker.pid))[1], 5, "the end of the tracker")
    for process in tree, tracker:
        with contextlib.suppress(ChildProcessError):  # whoever killed it may have reaped it too
            os.waitpid(process.pid, 0)
        process.returncode = -9


def test_a_tracker_is_spared_from_the_moment_on_at_which_its_parent_may_end():
    sleeps = [os.fsencode(sys.executable), b"-c", b"import time; time.sleep(60)"]
    found = 0
    for _ in range(50):
        with open("/dev/null", "rb") as nothing:  # as multiprocessing does
            pid = util.spawnv_passfds(sleeps[0], [*sleeps, b"multiprocessing.resource_tracker"], (nothing.fileno(),))
        found += family.kill_trees({pid}, spare_trackers=True)
        wait_until(lambda pid=pid: (family.kill_trees({pid}), family.reap(pid) is not None)[1], 5, "its end")
    assert found == 0


FEW = """
import os, resource, subprocess, time
from rfaas_executors import family
sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(20)]
resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
until_s = time.monotonic() + 20
while (left := family.children()) and time.monotonic() < until_s:
    family.kill_trees(left)
print(len(left))
"""


def test_children_end_though_no_descriptor_is_left_for_each():
    done = subprocess.run([sys.executable, "-c", FEW], capture_output=True, text=True, timeout=40, check=False)
    assert done.stdout == "0\n", done.stderr
