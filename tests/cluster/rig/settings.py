"""What one cluster is given and where it keeps its things.

Must not start or change anything: reading settings is always safe. Several clusters live side by side on one
machine; the instance name keeps their folders, cgroups and processes apart.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

HEAD = "head"  # the node with slurmctld and munged; like a login node it runs no job
REPOSITORY = Path(__file__).resolve().parents[3]
STATE_PREFIX = "/var/tmp/rfaas-cluster-"  # on disk and reachable for the cluster's users, unlike a private /tmp
PROGRAMS = ("slurmctld", "slurmd", "slurmrestd", "srun", "munged", "ip", "unshare", "nsenter", "setpriv", "cc")


@dataclasses.dataclass(frozen=True)
class Account:
    """An ordinary user of the cluster: known to its nodes alone, with a group and a home of the same name."""

    name: str
    uid: int

    @property
    def home(self) -> str:
        """The home on every node, mode 0700."""
        return f"/home/{self.name}"

    @property
    def runtime_dir(self) -> str:
        """XDG_RUNTIME_DIR: there on the head alone, as on sites where only a login makes it."""
        return f"/run/user/{self.uid}"


# Each of pytest-xdist's workers has a cluster of its own, and users of its own: the machine's kernel counts by uid.
FIRST_UID = 20001 + 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
USERS = (Account("alice", FIRST_UID), Account("bob", FIRST_UID + 1))


class RigError(Exception):
    """The cluster could not be brought to the state asked for; the message says what to look at."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cluster looks like to its users.

    Args:
        nodes: compute nodes, named n1, n2, ...; the head comes in addition.
        cpus: CPUs that each node declares, more than the machine has if you like (nothing is pinned).
        memory_mib: memory that each node declares.
        grace_s: GraceTime of the harvest partition at the start; `Cluster.set_grace` changes it live.
        kill_wait_s: Slurm's KillWait, from SIGTERM to SIGKILL.
        scheduler: SchedulerParameters. The default makes slurmctld look again at once instead of every some seconds.
        cgroups: Slurm tracks processes and enforces memory by cgroup v1, each node in a sub-tree of its own.
        bound: jobs are kept to their own cores by cpusets; with `cgroups`, and no more `cpus` than the machine has.
        slurmd_timeout_s: SlurmdTimeout, after which slurmctld gives a silent node up.
        jwt: slurmctld believes JSON web tokens too; `scontrol token` makes them.
        extra_conf: lines for the end of slurm.conf.
        root: directory that is / on the nodes, of another Debian with a Slurm of 23.02 or later, as `forky/build` makes
            it (default: $RFAAS_RIG_ROOT); empty: the machine's own files, with the Slurm of Debian 12.
    """

    nodes: int = 4
    cpus: int = 4
    memory_mib: int = 8000
    grace_s: int = 5
    kill_wait_s: int = 5
    scheduler: str = (
        "bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0,preempt_youngest_first,"
        "preempt_send_user_signal,permit_job_expansion"
    )
    cgroups: bool = False
    bound: bool = False
    slurmd_timeout_s: int = 30
    jwt: bool = False
    extra_conf: str = ""
    root: str = os.environ.get("RFAAS_RIG_ROOT", "")

    @property
    def node_names(self) -> list[str]:
        """The compute nodes, without the head."""
        return [f"n{i}" for i in range(1, self.nodes + 1)]

    @property
    def all_names(self) -> list[str]:
        """Every node, the head first."""
        return [HEAD, *self.node_names]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where one instance keeps its files, as seen from the machine and, by bind mounts, from the nodes."""

    instance: str

    @property
    def root(self) -> Path:
        """The one folder that holds all the rest; removed by stop."""
        return Path(STATE_PREFIX + self.instance)

    @property
    def etc(self) -> Path:
        """Slurm's configuration and the nodes' passwd, group and hosts; /etc/slurm on every node."""
        return self.root / "etc"

    @property
    def run(self) -> Path:
        """/run/rig on every node: munge's socket (path sockets cross network namespaces) and pid files."""
        return self.root / "run"

    @property
    def homes(self) -> Path:
        """/home on every node: one set of homes, as if served by NFS."""
        return self.root / "home"

    @property
    def share(self) -> Path:
        """World-readable programs for the cluster's users, at this same path on every node."""
        return self.root / "share"

    @property
    def venv(self) -> Path:
        """The users' virtual environment with the wheel, when one was installed."""
        return self.share / "venv"

    @property
    def munge(self) -> Path:
        """The key and the log of munged; root alone may look."""
        return self.root / "munge"

    @property
    def settings_file(self) -> Path:
        """What `start` was given, for later commands in other processes."""
        return self.root / "settings.json"

    @property
    def starter_file(self) -> Path:
        """Pid of the process that the cluster lives and dies with; null when it was started by hand."""
        return self.root / "starter.json"

    def spool(self, node: str) -> Path:
        """The node's Slurm state: /var/lib/slurm there."""
        return self.root / "nodes" / node / "spool"

    def log(self, node: str) -> Path:
        """The node's logs: /var/log/slurm there."""
        return self.root / "nodes" / node / "log"

    def init_file(self, node: str) -> Path:
        """Names the node's init, the process that its namespaces live and die with."""
        return self.root / "nodes" / node / "init.json"

    def save(self, settings: Settings) -> None:
        """Keep the settings beside the cluster they describe."""
        self.settings_file.write_text(json.dumps(dataclasses.asdict(settings), indent=1))

    def load(self) -> Settings:
        """Settings of a cluster that was started earlier.

        Raises:
            RigError: there is none of this name.
        """
        try:
            return Settings(**json.loads(self.settings_file.read_text()))
        except FileNotFoundError:
            raise RigError(f"no cluster '{self.instance}' ({self.root} is not there)") from None


def default_instance() -> str:
    """RFAAS_RIG_ID, or a name that belongs to this checkout: two checkouts never meet on one cluster."""
    chosen = os.environ.get("RFAAS_RIG_ID")
    return chosen or hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:8]


def missing_requirement() -> str | None:
    """Why no cluster can be started here, in a sentence; None if one can."""
    if os.geteuid() != 0:
        return "the cluster ring needs root: it makes namespaces and starts Slurm's daemons"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"the cluster ring lacks {', '.join(missing)}; apt-get install the packages of tools/apt-packages.txt"
    return None
