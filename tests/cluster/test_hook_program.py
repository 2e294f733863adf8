"""The program of the hooks by itself, with sanitizers, on the kernel's real control groups: no Slurm, but root."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from cluster.hook_rig import build_heartbeat, build_hook
from support.c_build import ASAN
from support.waiting import wait_until

pytestmark = pytest.mark.slurm

RUN_S = 30.0
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURMD_NODENAME": "n1", "SLURM_JOB_PARTITION": "rigid"}
HIERARCHIES = ("unified", "freezer", "pids")


class Hook:
    """The program with a configuration of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.cgroup = f"hooks-of-test-{os.getpid()}"
        self.program = build_hook(folder / "rfaas-hook", str(folder / "hooks.conf"), *flags)
        self.heartbeat = build_heartbeat(folder / "heartbeat")

    def configure(self, *lines: str) -> None:
        self.socket.unlink(missing_ok=True)
        (self.folder / "log").unlink(missing_ok=True)
        defaults = (f"cgroup={self.cgroup}", f"node_socket = {self.socket}", f"log_file = {self.folder / 'log'}")
        (self.folder / "hooks.conf").write_text("\n".join(["# a comment", "", *defaults, *lines]))
        (self.folder / "hooks.conf").chmod(0o644)

    @property
    def socket(self) -> Path:
        return self.folder / "node.sock"

    def run(self, context: str = "prolog_slurmd", **variables: str) -> str:
        """Run it to its end, as Slurm would; return what it logged."""
        environment = {**JOB, "SLURM_SCRIPT_CONTEXT": context, **variables}
        began_s = time.monotonic()
        done = subprocess.run([self.program], env=environment, capture_output=True, text=True, timeout=RUN_S)
        print(f"{context}: {1e3 * (time.monotonic() - began_s):.1f} ms")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""


@pytest.fixture(scope="module")
def hook(_rig_can_start, tmp_path_factory):
    return Hook(tmp_path_factory.mktemp("hook"), *ASAN, "-g")


@contextlib.contextmanager
def listening(hook, answer, *, kind=socket.SOCK_SEQPACKET):
    """A node agent that answers once; yields the packets it got."""
    heard = []
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(str(hook.socket))
    server.listen()

    def serve():
        connection, _ = server.accept()
        with connection:
            heard.append(connection.recv(5000))
            if answer is not None:
                with contextlib.suppress(BrokenPipeError):
                    connection.send(answer)
            with contextlib.suppress(ConnectionResetError):  # hooks leave without having read it
                connection.recv(1)  # until it has gone

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield heard
        thread.join(RUN_S)
    finally:
        server.close()


@contextlib.contextmanager
def living(hook, hierarchy, *options):
    """A process in a group of two levels of one hierarchy."""
    folder = Path("/sys/fs/cgroup") / hierarchy / hook.cgroup
    (folder / "slice").mkdir(parents=True)
    page = hook.folder / "page"
    page.unlink(missing_ok=True)
    program = f"echo $$ > {folder}/slice/cgroup.procs && exec {hook.heartbeat} {page} {' '.join(options)}"
    process = subprocess.Popen(["nice", "-n", "19", "sh", "-c", program])
    procs = folder / "slice/cgroup.procs"
    try:
        wait_until(lambda: page.exists() and procs.read_text(), RUN_S, "its start")
        yield procs
    finally:
        for pid in procs.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        process.wait(RUN_S)
        wait_until(lambda: not procs.read_text(), RUN_S, "its end")
        (folder / "slice").rmdir()
        folder.rmdir()


@pytest.mark.parametrize("options", [(), ("forks",)], ids=["busy", "forking"])
@pytest.mark.parametrize("hierarchy", HIERARCHIES)
def test_what_lives_in_the_cgroup_is_dead_when_the_prolog_exits(hook, hierarchy, options):
    hook.configure()
    with living(hook, hierarchy, *options) as procs:
        logged = hook.run()
        assert procs.read_text() == ""
        assert f"no such socket; killed cgroup {hook.cgroup} myself" in logged
        assert "job 7:" in logged
        if hierarchy == "pids":  # its owner's limit is as it was
            assert (procs.parent.parent / "pids.max").read_text() == "max\n"


@pytest.mark.parametrize("answer", [b"rfaas-hook/1 done evicted=1 ms=2", b"rfaas-hook/1 done"])
def test_who_answers_done_is_believed_and_told_what_it_must_know(hook, answer):
    hook.configure()
    with living(hook, "freezer") as procs, listening(hook, answer) as heard:
        assert hook.run() == ""
        assert procs.read_text() != ""
        assert heard == [b"rfaas-hook/1 evict job=7 uid=1000 node=n1 partition=rigid"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "no answer in time"),
        (b"", "refused"),
        (b"rfaas-hook/1 donexx", "refused"),
        (b"rfaas-hook/2 done", "refused"),
        (b"rfaas-hook/1 error reason=bad-packet", "refused"),
        (b"\0" * 5000, "refused"),
    ],
)
def test_any_other_answer_makes_the_prolog_kill(hook, answer, words):
    hook.configure("answer_ms = 50")
    with living(hook, "freezer") as procs, listening(hook, answer):
        assert f"{words}; killed" in hook.run()
        assert procs.read_text() == ""


def test_a_socket_of_another_kind_and_one_that_nobody_listens_at_count_as_dead(hook):
    hook.configure()
    for kind, words in (socket.SOCK_STREAM, "refused"), (socket.SOCK_SEQPACKET, "nobody listens there"):
        hook.configure()
        with socket.socket(socket.AF_UNIX, kind) as dead:
            dead.bind(str(hook.socket))
            assert f"{words}; nothing of it ran" in hook.run()


def test_an_agent_with_a_full_queue_is_not_waited_for(hook):
    hook.configure()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        server.bind(str(hook.socket))
        server.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(hook.socket))
        assert "no answer in time" in hook.run()
        hook.run("epilog_slurmd")


def test_values_that_may_not_stand_in_a_packet_are_left_out(hook):
    hook.configure(f"allocator_socket = {hook.socket}")
    variables = {"SLURM_JOB_NODELIST": "n[1-9999]," * 500, "SLURM_JOB_PARTITION": "a b\ncgroup=/", "SLURM_JOB_UID": ""}
    with listening(hook, b"rfaas-hook/1 done") as heard:
        assert hook.run("prolog_slurmctld", **variables) == ""
    assert heard == [b"rfaas-hook/1 warn job=7 node=n1"]


def test_without_a_job_or_a_context_it_says_so_and_exits(hook):
    hook.configure()
    assert "says which hook this is" in hook.run("")
    assert "says which hook this is" in hook.run("prolog_slurmd; rm -rf /")


def test_a_log_that_cannot_be_written_hinders_nothing(hook):
    for log in "/nowhere/log", str(hook.folder), "/dev/full":
        hook.configure(f"log_file = {log}", "nonsense")
        hook.run()
    os.mkfifo(hook.folder / "pipe")
    hook.configure(f"log_file = {hook.folder / 'pipe'}", "nonsense")
    hook.run()


@pytest.mark.parametrize(
    "line",
    [
        "node_socket = relative",
        "node_socket = /" + "x" * 200,
        "allocator_socket = nowhere",
        "allocator_uid = -1",
        "allocator_uid = root",
        "cgroup = /",
        "cgroup = a/../../slurm",
        "cgroup =",
        "answer_ms = 0",
        "answer_ms = 501",
        "answer_ms = 99999999999999999999",
        "no equals sign",
        "=",
        "x" * 5000,
    ],
)
def test_a_line_that_is_wrong_is_named_and_left_out(hook, line):
    hook.configure(line)
    logged = hook.run("epilog_slurmctld")
    assert "not understood, so it is left out" in logged
    assert line.partition("=")[0].strip()[:80] in logged


def test_a_file_that_is_too_large_counts_as_absent(hook):
    hook.configure("# " + "x" * 20_000)
    assert hook.run("epilog_slurmctld") == ""  # and so does the log that it names
