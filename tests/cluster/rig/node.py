"""One node: the namespaces that make it, the way in, and what runs there.

A node is its init process (node-init.sh): killed, everything on the node is gone, as in a power cut. Must never
signal a process that is not the init it started: identity is pid and start time.
"""

import json
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

from cluster.rig import commands
from cluster.rig.conf import address
from cluster.rig.settings import HEAD, USERS, Layout, RigError, Settings
from support.waiting import wait_until

INIT_SCRIPT = Path(__file__).with_name("node-init.sh")
NAMESPACES = ("--net", "--uts", "--mount", "--pid", "--ipc")
START_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Process:
    """A process on a node; `pid` is the machine's number for it, so signals are sent from outside."""

    pid: int
    uid: int
    command: str

    def signal(self, signum: int) -> None:
        """Send a signal; nothing if the process is gone."""
        try:
            os.kill(self.pid, signum)
        except ProcessLookupError:
            return


@dataclass(frozen=True)
class Node:
    """A node by name; whether it runs is asked of the machine each time."""

    layout: Layout
    name: str

    @property
    def init_pid(self) -> int | None:
        """The machine's pid of the node's init; None when the node is down."""
        try:
            init = json.loads(self.layout.init_file(self.name).read_text())
        except FileNotFoundError:
            return None
        return init["pid"] if _start_time(init["pid"]) == init["start_time"] else None

    @property
    def way_in(self) -> list[str]:
        """The words before a command that make it run on this node.

        Raises:
            RigError: the node is down.
        """
        pid = self.init_pid
        if pid is None:
            raise RigError(f"node {self.name} is not running")
        return ["nsenter", "-t", str(pid), *NAMESPACES, "--"]

    def run_as_root(self, *argv: str, timeout_s: float = COMMAND_TIMEOUT_S, check: bool = True) -> str:
        """Run a command on the node as root and return what it wrote to stdout.

        Raises:
            CommandFailed, CommandTimeout: see `commands.run`.
            RigError: the node is down.
        """
        return commands.run(argv, prefix=self.way_in, timeout_s=timeout_s, check=check).stdout

    def processes(self) -> list[Process]:
        """What runs on the node, its init left out; empty when the node is down."""
        init = self.init_pid
        if init is None:
            return []
        namespace = _pid_namespace(init)
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        found = [_process(pid) for pid in pids if pid != init and namespace and _pid_namespace(pid) == namespace]
        return [process for process in found if process]

    def boot(self, settings: Settings, *, with_starter: bool) -> "Boot":
        """Make the namespaces and begin to boot; `Boot.wait` ends it, so that several nodes can boot together.

        Args:
            settings: what the cluster was given.
            with_starter: the node dies with the thread that calls this, however that ends.
        """
        for folder in (self.layout.spool(self.name), self.layout.log(self.name)):
            folder.mkdir(parents=True, exist_ok=True)
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        uids = [str(account.uid) for account in USERS] if self.name == HEAD else []
        argv = ["setpriv", "--pdeathsig", "KILL"] if with_starter else []
        argv += ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        argv += [str(INIT_SCRIPT), self.name, str(self.layout.root), str(writer)]
        argv += [str(settings.memory_mib), str(int(settings.cgroups)), settings.root, *uids]
        # not subprocess: the holder outlives this process when a person starts a cluster by hand
        log = os.open(self.boot_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        holder = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions, setsid=True)
        for descriptor in (writer, log, null):
            os.close(descriptor)
        return Boot(self, holder, reader)

    @property
    def boot_log(self) -> Path:
        """What the node's init wrote."""
        return self.layout.log(self.name) / "init.log"

    @property
    def temporary_folders(self) -> list[str]:
        """Folders of the node's own that are empty after its boot and gone with it."""
        return ["/dev/shm", "/tmp", *([account.runtime_dir for account in USERS] if self.name == HEAD else [])]

    def connect(self, head: "Node") -> None:
        """Lay a wire from the node's eth0 to the head's bridge; nothing lands in the machine's own network."""
        port = f"v{self.name}"
        wire = ["ip", "link", "add", port, "netns", str(head.init_pid), "type", "veth"]
        commands.run([*wire, "peer", "name", "eth0", "netns", str(self.init_pid)], timeout_s=COMMAND_TIMEOUT_S)
        head.ip_batch(f"link set {port} master br0 up")
        self.ip_batch(f"addr add {address(self.name)}/24 dev eth0", "link set eth0 up")

    def ip_batch(self, *lines: str) -> None:
        """Change the node's network by lines in the language of ip(8)."""
        argv = ["nsenter", "-t", str(self.init_pid), "--net", "--", "ip", "-batch", "-"]
        commands.run(argv, stdin="\n".join(lines) + "\n", timeout_s=COMMAND_TIMEOUT_S)

    def stop(self) -> None:
        """Cut the node's power and wait until all its processes are gone; nothing if it is down."""
        pid = self.init_pid
        if pid is None:
            return
        init = json.loads(self.layout.init_file(self.name).read_text())
        holder = init["holder"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _start_time(pid) != init["start_time"], START_TIMEOUT_S, f"the end of {self.name}")
        try:
            os.waitpid(holder, 0)
        except ChildProcessError:  # another process started the node; the machine's init reaps the holder some time
            wait_until(lambda: not _is_alive(holder), START_TIMEOUT_S, f"the end of {self.name}'s holder")
        self.layout.init_file(self.name).unlink()


@dataclass(frozen=True)
class Boot:
    """A node that is booting: `holder` made its namespaces, `ready` is written to when it is up."""

    node: Node
    holder: int
    ready: int

    def wait(self) -> None:
        """Wait until the node is up and remember its init.

        Raises:
            RigError: it did not come up; what its init wrote is in the message.
        """
        with os.fdopen(self.ready, "rb") as ready:
            answered, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
            up = bool(answered) and ready.read(1) != b""
        child = first_child(self.holder)
        if not up or child is None:
            raise RigError(f"node {self.node.name} did not come up: {self.node.boot_log.read_text()}")
        init = {"pid": child, "start_time": _start_time(child), "holder": self.holder}
        self.node.layout.init_file(self.node.name).write_text(json.dumps(init))


def first_child(pid: int) -> int | None:
    """The first child of a process that the machine knows by `pid`; None if it has none or is gone."""
    return next(iter(_children(pid)), None)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def process_identity(pid: int) -> tuple[int, int] | None:
    """What tells a process from a later one with the same pid; None for one that is gone or a zombie."""
    start_time = _start_time(pid)
    return None if start_time is None or not _is_alive(pid) else (pid, start_time)


def _is_alive(pid: int) -> bool:
    """Whether the process is more than a zombie that its parent has not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _start_time(pid: int) -> int | None:
    """Clock ticks since boot at which the process started: with the pid it names a process for good."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # gone meanwhile
        return ""


def _process(pid: int) -> Process | None:
    """The process, unless it ended meanwhile; a zombie has no command line and holds nothing, but still counts."""
    folder = Path(f"/proc/{pid}")
    try:
        uid = folder.stat().st_uid
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return Process(pid, uid, command or f"[{(folder / 'comm').read_text().strip()}]")
    except OSError:
        return None
