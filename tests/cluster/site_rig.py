"""Site mode on a cluster: Slurm runs our hooks, the head has the site's allocator, one node root's node agent.

The other node has none, as rfaas is not everywhere. A module that uses this has `site_ground` as its `cluster`.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.fixtures import checked
from cluster.harvested import snapshot
from cluster.hook_rig import CONF, LOG, build_hook, unwell_nodes
from cluster.rig import Settings, commands, conf
from cluster.rig.settings import HEAD
from support.waiting import wait_until

NODE = "n1"
WAIT_S = 90.0
SITE_PORT, NODE_PORT = 7411, 7410
WATCH = "@site-watch"  # who hears PrologSlurmctld, if anybody does

HOOKS = """\
Prolog={hook}
Epilog={hook}
PrologSlurmctld={hook}
PrologFlags=Alloc
"""


@pytest.fixture(scope="module")
def site_cluster(start_cluster):
    """Two nodes whose Slurm runs the hooks, and an environment with the wheel."""
    folder = Path(f"/var/tmp/rfaas-site-hooks-{os.getpid()}")
    folder.mkdir()
    folder.chmod(0o755)
    hook = build_hook(folder / "rfaas-hook", CONF)
    yield start_cluster(Settings(nodes=2, cpus=2, extra_conf=HOOKS.format(hook=hook)))
    shutil.rmtree(folder)


@pytest.fixture
def site_ground(site_cluster):
    """The cluster of site mode, checked; tests have it as `cluster`."""
    hooks_conf = site_cluster.layout.etc / Path(CONF).name
    hooks_conf.write_text(
        f"log_file = {LOG}\ncgroup = rfaas-{site_cluster.layout.instance}\nallocator_socket = {WATCH}\n"
    )
    hooks_conf.chmod(0o644)
    with checked(site_cluster) as clean:
        yield clean
        assert unwell_nodes(clean) == ""  # no hook drained a node, whatever it met


@dataclass(frozen=True)
class Site:
    """The site's allocator on the head and root's agent on one node."""

    cluster: object
    folder: Path
    cgroup: str
    node_agent: subprocess.Popen

    @property
    def environment(self):
        """What a site says to its users in /etc/rfaas/rfaas.toml."""
        return {
            "RFAAS_SITE_ALLOCATOR": f"{conf.address(HEAD)}:{SITE_PORT}",
            "RFAAS_SITE_MUNGE_SOCKET": conf.MUNGE_SOCKET,
            "RFAAS_SITE_KEEP_S": "1",
            "RFAAS_SESSION_LINGER_S": "0.5",
        }

    def kill_node_agent(self):
        commands.kill_group(self.node_agent.pid)
        self.node_agent.wait(20)

    def lend(self, user, **changes):
        """Have an agent of the user's started, as the user would."""
        options = {"cores": "1", "memory": "1GiB", "for": "10m", **changes}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        where = ["--allocator", f"{conf.address(HEAD)}:{SITE_PORT}", "--munge-socket", conf.MUNGE_SOCKET]
        return user.run(HEAD, ["rfaas", "site", "start", *where, *words], WAIT_S, check=False)

    def hook(self, packet):
        """What root's hook hears on the node."""
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
            "s.connect('/run/rfaas/node.sock'); s.send(sys.argv[1].encode()); print(s.recv(4096).decode())"
        )
        return self.cluster.node(NODE).run_as_root("/usr/bin/python3", "-c", code, packet).strip()


@contextlib.contextmanager
def daemon(node, argv, log, ready):
    """A daemon of root's on a node, from when its log says that it is ready."""
    with log.open("ab") as out:
        process = commands.start([*node.way_in, *map(str, argv)], stdout=out, stderr=out)
    try:
        wait_until(lambda: ready in log.read_text() or process.poll() is not None, WAIT_S, ready)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            commands.kill_group(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            commands.kill_group(process.pid)
            process.wait(20)


@pytest.fixture
def site(site_ground):
    cluster = site_ground
    folder = cluster.layout.root / "site"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    python, node = cluster.layout.venv / "bin/python", cluster.node(NODE)
    key = folder / f"key-{secrets.token_hex(4)}"
    public = cluster.head.run_as_root(str(cluster.layout.venv / "bin/rfaas"), "site", "key", str(key)).strip()
    (agent,) = cluster.layout.venv.glob("lib/python3*/site-packages/rfaas_slurm_plugin/bin/rfaas-node-agent")
    cgroup = f"rfaas-{cluster.layout.instance}"
    settings = {
        "node": NODE,
        "listen": f"{conf.address(NODE)}:{NODE_PORT}",
        "allocator_key": public,
        "python": python,
        "cpus": "0-1",
        "memory": "2G",
        "munge_socket": conf.MUNGE_SOCKET,
        "cgroup": cgroup,
    }
    (folder / "node.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    (folder / "nodes").write_text(f"{NODE} {conf.address(NODE)}:{NODE_PORT} 2 2GiB\n")
    allocator = [python, "-m", "rfaas_allocator.site", "--listen", f"{conf.address(HEAD)}:{SITE_PORT}"]
    allocator += ["--key", key, "--nodes", folder / "nodes", "--munge-socket", conf.MUNGE_SOCKET, "--look-s", "0.5"]
    logs = [folder / f"{name}-{secrets.token_hex(4)}.log" for name in ("allocator", "node")]
    with (
        daemon(cluster.head, allocator, logs[0], "serving"),
        daemon(node, [agent, "-c", folder / "node.conf"], logs[1], "serving") as node_agent,
    ):
        wait_until(lambda: "lending jobs=0" in logs[1].read_text(), WAIT_S, "Slurm's word on the node's jobs")
        node.run_as_root("sleep", "1.1")  # grants of the second in which the node agent began are refused
        yield Site(cluster, folder, cgroup, node_agent)
    print("\n".join(log.read_text() for log in logs))
    wait_until(lambda: removed(cgroup), WAIT_S, "the end of what was lent")


def removed(cgroup):
    """Whether the control groups are gone: the node agent gives its slices their grace, and may be gone itself."""
    mounts = Path("/sys/fs/cgroup")
    for path in [*mounts.glob(f"*/{cgroup}/*/"), *mounts.glob(f"*/{cgroup}")]:
        with contextlib.suppress(OSError):
            path.rmdir()
    return not list(mounts.glob(f"*/{cgroup}"))


@pytest.fixture
def page(site_ground):
    """A file at the same path on the machine and on every node, that any user may write."""
    folder = site_ground.layout.share / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    folder.chmod(0o777)
    return folder / "page"


def up(user):
    return [entry for entry in snapshot(user)["slices"] if entry["state"] == "up"]
