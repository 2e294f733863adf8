"""What the hooks of Slurm are tested with: the program built as a site would, executors to evict, listeners to tell.

Executors are heartbeats: each writes the time to a page that outlives it, in a cgroup of its node's freezer.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.rig import HEAD, Cluster, commands
from cluster.rig.node import Node
from support.waiting import wait_until

HOOKS = Path(__file__).parents[2] / "slurm_plugin/hooks"
HEARTBEAT = Path(__file__).with_name("heartbeat.c")
LISTENER = Path(__file__).with_name("hook_listener.py")
CONF = "/etc/slurm/rfaas-hooks.conf"  # on every node of the rig
LOG = "/var/log/slurm/rfaas-hook.log"
NODE_SOCKET = "/run/rfaas/node.sock"
CGROUP = "executors-of-the-test"
STRICT = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")
BUILD_S = 60.0
WAIT_S = 10.0


def build_hook(target: Path, conf: str, *flags: str) -> Path:
    """`cc` alone makes the program, as its head says; `conf` in place of /etc/rfaas/hooks.conf."""
    sources = [str(path) for path in sorted(HOOKS.glob("*.c"))]
    argv = ["cc", *STRICT, *(flags or ("-O2", "-static")), f'-DRFAAS_HOOKS_CONF="{conf}"', "-o", str(target), *sources]
    commands.run(argv, timeout_s=BUILD_S)
    target.chmod(0o755)
    return target


def build_heartbeat(target: Path) -> Path:
    """The executor."""
    commands.run(["cc", "-O2", *STRICT, "-o", str(target), str(HEARTBEAT)], timeout_s=BUILD_S)
    target.chmod(0o755)
    return target


@dataclass
class Executor:
    """A heartbeat on a node, in its cgroup there."""

    node: Node
    page: Path
    process: subprocess.Popen[str]

    def last_ns(self) -> int:
        """When it last ran (CLOCK_BOOTTIME); 0 if it never did."""
        return int.from_bytes(self.page.read_bytes()[:8], sys.byteorder) if self.page.exists() else 0

    def pids(self) -> list[str]:
        """What lives in its cgroup."""
        script = f"cat /sys/fs/cgroup/freezer/{CGROUP}/slice/cgroup.procs 2>/dev/null"
        return self.node.run_as_root("sh", "-c", script, check=False).split()


@contextmanager
def executor(cluster: Cluster, node_name: str, heartbeat: Path, folder: Path, *options: str) -> Iterator[Executor]:
    """An executor on the node for the length of the block; running when it begins."""
    node = cluster.node(node_name)
    cgroup = f"/sys/fs/cgroup/freezer/{CGROUP}"
    page = folder / f"{node_name}.page"
    page.unlink(missing_ok=True)
    enter = f"mkdir -p {cgroup}/slice && echo $$ > {cgroup}/slice/cgroup.procs && exec nice -n 19 {heartbeat} {page}"
    running = Executor(node, page, commands.start([*node.way_in, "sh", "-c", f"{enter} {' '.join(options)}"]))
    try:
        wait_until(lambda: running.last_ns() > 0, WAIT_S, "the executor's start")
        yield running
    finally:
        for pid in running.pids():
            node.run_as_root("kill", "-9", pid, check=False)
        commands.kill_group(running.process.pid)
        running.process.wait(timeout=WAIT_S)
        wait_until(lambda: not running.pids(), WAIT_S, "the executor's end")
        node.run_as_root("rmdir", f"{cgroup}/slice", cgroup)


@dataclass
class Listener:
    """A daemon's end of a hook socket, which writes down what it was told."""

    process: subprocess.Popen[str]
    heard_file: Path
    pid: int

    def heard(self) -> list[str]:
        """The packets so far."""
        return self.heard_file.read_text().splitlines() if self.heard_file.exists() else []

    def stop(self) -> None:
        """It lives on and answers nobody."""
        os.kill(self.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """It dies without a word; its socket's file stays."""
        commands.kill_group(self.process.pid)
        self.process.wait(timeout=WAIT_S)


@contextmanager
def listener(way_in: list[str], heard: Path, socket: str, *options: str) -> Iterator[Listener]:
    """A listener there for the length of the block: hook_listener.py says what it does."""
    heard.unlink(missing_ok=True)
    heard.touch()
    heard.chmod(0o666)
    program = shutil.copy(LISTENER, heard.parent)  # nodes need not see where the tests are
    argv = [*way_in, "/usr/bin/python3", program, socket, str(heard), *options]
    process = commands.start(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "listening\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Listener(process, heard, int(children[0]) if children else process.pid)
    finally:
        commands.kill_group(process.pid)
        process.wait(timeout=WAIT_S)
        process.stdout.close()


def node_log(cluster: Cluster, node: str) -> list[str]:
    """What hooks wrote there so far."""
    path = cluster.layout.log(node) / Path(LOG).name
    return path.read_text().splitlines() if path.exists() else []


def write_conf(cluster: Cluster, *lines: str, mode: int = 0o644) -> None:
    """The site's hooks.conf; the log and the cgroup are always those of the tests."""
    path = cluster.layout.etc / Path(CONF).name
    path.write_text("\n".join([f"log_file = {LOG}", f"cgroup = {CGROUP}", *lines]) + "\n")
    path.chmod(mode)


def clear(cluster: Cluster) -> None:
    """No hook has said anything, and nobody listens."""
    for name in cluster.settings.all_names:
        (cluster.layout.log(name) / Path(LOG).name).unlink(missing_ok=True)
        cluster.node(name).run_as_root("rm", "-rf", str(Path(NODE_SOCKET).parent))
    write_conf(cluster)


def unwell_nodes(cluster: Cluster) -> str:
    """Nodes with a reason beside their name: drained or down ones."""
    return cluster.node(HEAD).run_as_root("sinfo", "-hR")
