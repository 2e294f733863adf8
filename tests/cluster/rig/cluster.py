"""A whole cluster: its nodes, wires and daemons, started together and removed together.

Must leave nothing behind: what `start` makes, `stop` removes, also after half a start. Everything lies in the
namespaces of the nodes, in `Layout.root`, and with `cgroups` in one sub-tree per hierarchy.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.rig import conf, logs
from cluster.rig.commands import CommandFailed
from cluster.rig.node import COMMAND_TIMEOUT_S, Node, Process
from cluster.rig.settings import HEAD, STATE_PREFIX, USERS, Layout, RigError, Settings, missing_requirement
from cluster.rig.users import User
from cluster.rig.wheel import install_environment
from support.waiting import wait_until

IDLE_TIMEOUT_S = 30.0
IDLE_POLL_S = 0.02
CGROUP_ROOT = Path("/sys/fs/cgroup")


class Cluster:
    """A cluster by its instance name; it need not run, and another process may have started it.

    Args:
        instance: apart from every other cluster on the machine.
    """

    def __init__(self, instance: str) -> None:
        self.layout = Layout(instance)

    @property
    def settings(self) -> Settings:
        """What it was started with. Raises RigError when there is no such cluster."""
        return self.layout.load()

    @property
    def head(self) -> Node:
        """The node with slurmctld, where users log in."""
        return self.node(HEAD)

    @property
    def nodes(self) -> list[Node]:
        """Every node, the head first. Raises RigError when there is no such cluster."""
        return [self.node(name) for name in self.settings.all_names]

    def node(self, name: str) -> Node:
        """The node of that name; it need not run."""
        return Node(self.layout, name)

    def user(self, name: str) -> User:
        """The user of that name. Raises KeyError for a stranger."""
        return User({account.name: account for account in USERS}[name], self.layout)

    def install_wheel(self) -> None:
        """Give the users an environment with the built wheel, first in their PATH; see `wheel.install_environment`."""
        install_environment(self.layout.venv, self.settings.root)

    @property
    def is_running(self) -> bool:
        """Whether its head is up."""
        return self.head.init_pid is not None

    def start(self, settings: Settings, *, with_starter: bool = False) -> float:
        """Start everything and wait until all nodes are idle; return the seconds that took.

        Args:
            settings: what the cluster shall look like.
            with_starter: its processes die with the calling thread, so that a killed test leaves none; the next
                `sweep` removes the folder.

        Raises:
            RigError: it already runs, or something did not start (then all is stopped
                again, and the message has the ends of the logs).
        """
        reason = missing_requirement()
        if reason:
            raise RigError(reason)
        if self.is_running:
            raise RigError(f"cluster '{self.layout.instance}' already runs in {self.layout.root}")
        began_s = time.monotonic()
        self._remove_files()
        self._make_files(settings, with_starter)
        try:
            self._start_all(settings, with_starter)
        except Exception as error:
            report = f"{error}\n{logs.tails(self.layout)}"
            self.stop()
            raise RigError(report) from error
        except BaseException:
            self.stop()
            raise
        return time.monotonic() - began_s

    def _make_files(self, settings: Settings, with_starter: bool) -> None:
        layout = self.layout
        layout.root.mkdir(mode=0o755)
        os.chmod(layout.root, 0o755)  # whatever the umask
        folders = (layout.etc, layout.run, layout.homes, layout.share, layout.spool(HEAD), layout.log(HEAD))
        for folder in folders:
            folder.mkdir(parents=True)
        layout.munge.mkdir(mode=0o700)
        key = layout.munge / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(1024))
        for daemon_folder in (layout.run, layout.log(HEAD), layout.spool(HEAD)):
            shutil.chown(daemon_folder, "slurm")
        for folder in (layout.spool(HEAD) / "slurmctld", *(layout.spool(n) / "slurmd" for n in settings.node_names)):
            folder.mkdir(parents=True)
        if settings.jwt:
            jwt_key = layout.spool(HEAD) / "slurmctld" / "jwt.key"
            jwt_key.touch(mode=0o600)
            jwt_key.write_bytes(os.urandom(32))
            shutil.chown(jwt_key, "slurm")
        shutil.chown(layout.spool(HEAD) / "slurmctld", "slurm")
        layout.save(settings)
        layout.starter_file.write_text(json.dumps(os.getpid() if with_starter else None))
        conf.write(layout, settings)
        for account in USERS:
            self.user(account.name).make_home()

    def _start_all(self, settings: Settings, with_starter: bool) -> None:
        boots = [node.boot(settings, with_starter=with_starter) for node in self.nodes]
        for boot in boots:
            boot.wait()
        self.head.ip_batch("link add br0 type bridge", f"addr add {conf.address(HEAD)}/24 dev br0", "link set br0 up")
        for name in settings.node_names:
            self.node(name).connect(self.head)
        self._start_munged()
        self.start_daemon(HEAD)
        for name in settings.node_names:
            self.start_daemon(name)
        self.wait_idle()

    def _start_munged(self) -> None:
        folder = self.layout.munge
        self.head.run_as_root(
            "munged",
            "--force",
            "--num-threads=2",
            f"--key-file={folder}/munge.key",
            f"--socket={conf.MUNGE_SOCKET}",
            "--pid-file=/run/rig/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed",
        )

    def wait_idle(self, timeout_s: float = IDLE_TIMEOUT_S) -> None:
        """Wait until every node answers and runs no job.

        Raises:
            RigError: not within `timeout_s`; the message has what Slurm says about the nodes.
        """
        wanted = set(self.settings.node_names)
        deadline_s = time.monotonic() + timeout_s
        while self._nodes_in_state("idle") != wanted:
            if time.monotonic() > deadline_s:
                raise RigError(f"nodes not idle after {timeout_s} s:\n{self.status()}")
            time.sleep(IDLE_POLL_S)

    def _nodes_in_state(self, state: str) -> set[str]:
        """Nodes that Slurm reports in exactly this state: a mark such as '*' (does not answer) makes it another."""
        lines = self.head.run_as_root("sinfo", "-h", "-N", "-o", "%N %T", check=False).splitlines()
        return {line.split()[0] for line in lines if line.split()[1:] == [state]}

    def stop(self) -> None:
        """Stop every node and remove everything that `start` made; nothing if there is no such cluster.

        Raises:
            AssertionError: a node's processes did not end; the files are still there.
        """
        with contextlib.suppress(RigError), ThreadPoolExecutor() as pool:
            list(pool.map(Node.stop, self.nodes))  # each waits for its kernel to clear a namespace: together
        self._remove_files()

    def _remove_files(self) -> None:
        for hierarchy in CGROUP_ROOT.iterdir() if CGROUP_ROOT.is_dir() else ():
            _remove_cgroup(hierarchy / self.layout.root.name)
        if self.layout.root.exists():
            if self.layout.root.lstat().st_uid != 0:
                raise RigError(f"{self.layout.root} is not root's: a stranger made it")
            shutil.rmtree(self.layout.root)

    def status(self) -> str:
        """What Slurm says about the nodes and which daemons run, for a person. Raises RigError when none runs."""
        if not self.is_running:
            raise RigError(f"cluster '{self.layout.instance}' is not running")
        lines = [self.head.run_as_root("sinfo", "-N", "-o", "%N %T %C %m %P %E", check=False).rstrip()]
        for node in self.nodes:
            daemons = [p.command.split()[0] for p in node.processes() if p.uid not in {a.uid for a in USERS}]
            shown = sorted({Path(name).name for name in daemons} & {"munged", "slurmctld", "slurmd", "slurmstepd:"})
            lines.append(f"{node.name}: {' '.join(shown) or 'down'}")
        return "\n".join(lines)

    def start_daemon(self, name: str) -> None:
        """Start the node's Slurm daemon: slurmctld on the head, slurmd elsewhere. Raises CommandFailed."""
        self.node(name).run_as_root(*(["slurmctld"] if name == HEAD else ["slurmd", "-N", name]))

    def ensure_daemon(self, name: str) -> None:
        """Start the node's Slurm daemon if it does not run. Raises CommandFailed."""
        if not self._daemons(name):
            self.start_daemon(name)

    def _daemons(self, name: str) -> list[Process]:
        command = "slurmctld" if name == HEAD else "slurmd"
        return [p for p in self.node(name).processes() if Path(p.command.split()[0]).name == command]

    def kill_daemon(self, name: str) -> None:
        """SIGKILL the node's Slurm daemon and wait for its end; jobs live on. Raises RigError if none runs.

        slurmctld saves its state every some seconds: started again, it has lost the newest jobs and believes for up
        to a minute that jobs still run which had just ended.
        """
        daemons = self._daemons(name)
        if not daemons:
            raise RigError(f"no daemon of Slurm runs on {name}")
        pids = {daemon.pid for daemon in daemons}
        for daemon in daemons:
            daemon.signal(signal.SIGKILL)
        wait_until(lambda: not pids & {p.pid for p in self.node(name).processes()}, COMMAND_TIMEOUT_S, "its end")

    def kill_node(self, name: str) -> None:
        """Cut a node's power: everything on it is gone at once; Slurm notices after SlurmdTimeout.

        Its wire goes first: the kernel would still say goodbye for the connections of processes that are killed.
        """
        self.head.ip_batch(f"link set v{name} down")
        self.node(name).stop()
        try:  # such connections keep the dead node's network for a while
            self.head.ip_batch(f"link del v{name}")
        except CommandFailed as gone:  # or nothing did, and the wire went with it
            if "Cannot find device" not in str(gone):
                raise

    def start_node(self, name: str) -> None:
        """Boot a node that was killed and start its daemon. Raises RigError if it runs or does not come up."""
        node = self.node(name)
        if node.init_pid is not None:
            raise RigError(f"node {name} already runs")
        starter = json.loads(self.layout.starter_file.read_text())
        node.boot(self.settings, with_starter=starter == os.getpid()).wait()
        node.connect(self.head)
        self.start_daemon(name)

    def set_grace(self, grace_s: int) -> None:
        """Change the harvest partition's GraceTime for jobs preempted from now on; slurmctld's restart keeps it."""
        file = self.layout.etc / "slurm.conf"
        text = file.read_text()
        if conf.with_grace(text, grace_s) == text:  # nothing to change, and an update makes slurmctld look again
            return
        new = file.with_suffix(".new")
        new.write_text(conf.with_grace(text, grace_s))
        new.replace(file)
        self.head.run_as_root("scontrol", "update", "PartitionName=harvest", f"GraceTime={grace_s}")

    def remove_users_things(self) -> None:
        """Cancel the users' jobs, kill their processes, empty their homes and every node's temporary folders.

        Raises:
            RigError: nodes did not become idle in time; the message has what Slurm says about them.
        """
        for account in USERS:  # scancel takes one user at a time
            self.head.run_as_root("scancel", "--full", f"--user={account.name}")
        self._kill_users_processes(but="srun")  # a step that cannot tell its srun that it ended tries for seconds
        self.wait_idle()
        self._kill_users_processes()
        for node in self.nodes:
            node.run_as_root("find", *node.temporary_folders, "-mindepth", "1", "-delete")
        for account in USERS:
            self.user(account.name).make_home()

    def _kill_users_processes(self, but: str | None = None) -> None:
        uids = {account.uid for account in USERS}
        for process in (process for node in self.nodes for process in node.processes()):
            if process.uid in uids and process.command.split()[0] != but:
                process.signal(signal.SIGKILL)


def sweep() -> list[str]:
    """Remove clusters whose starter was killed before it could stop them; return their names."""
    removed = []
    for folder in Path(STATE_PREFIX).parent.glob(Path(STATE_PREFIX).name + "*"):
        cluster = Cluster(str(folder).removeprefix(STATE_PREFIX))
        try:
            starter = json.loads(cluster.layout.starter_file.read_text())
        except (OSError, ValueError):
            continue
        if starter is not None and not Path(f"/proc/{starter}").exists() and not cluster.is_running:
            cluster.stop()
            removed.append(cluster.layout.instance)
    return removed


def _remove_cgroup(folder: Path) -> None:
    """Remove a cgroup and those below it; all are empty once the nodes are gone."""
    if not folder.is_dir():
        return
    for below in folder.iterdir():
        if below.is_dir():
            _remove_cgroup(below)
    wait_until(lambda: _rmdir(folder), COMMAND_TIMEOUT_S, f"the removal of {folder}")


def _rmdir(folder: Path) -> bool:
    """Whether it is gone: the kernel refuses for a moment after the last process ended."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
