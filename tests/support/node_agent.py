"""The root node agent, built from its sources, and a rig in which it serves: munged and two ordinary users."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rfaas.site.grant import Grant
from rfaas.site.starting import request, start
from rfaas_transport.munge import Munge
from support.c_build import ASAN, CBuild
from support.munged import munged
from support.waiting import wait_until

SOURCES = Path(__file__).parents[2] / "slurm_plugin/node_agent"
ALICE, BOB = 64201, 64202
USERS = {"alice": ALICE, "bob": BOB}
SECRET = bytes(range(32))
START_S = 30.0
MIB = 1 << 20


def build(folder, *flags):
    """The program, under the address and the undefined-behaviour sanitizer."""
    sources = sorted(SOURCES.glob("*.c"))
    return CBuild(folder, sources, (*ASAN, *flags), ("-lmunge", "-lcrypto")).link("rfaas-node-agent")


class NodeAgentRig:
    """One node agent at work.

    Args:
        program: `build`.
        directory: of its own; every user must be able to reach it.
        munge_socket: of the site.
        agent: path of what it starts as the users' agent (`python` of the configuration).
    """

    def __init__(self, program, directory, munge_socket, agent, **settings):
        self.program, self.directory, self.munge_socket = program, directory, munge_socket
        self.key = Ed25519PrivateKey.generate()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.cgroup = f"rfaas-test-{secrets.token_hex(4)}"
        self.settings = {
            "node": "n1",
            "listen": self.address,
            "allocator_key": self.key.public_key().public_bytes_raw().hex(),
            "python": str(agent),
            "cpus": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            "memory": "512M",
            "munge_socket": munge_socket,
            "run_dir": f"{directory}/run",
            "cgroup": self.cgroup,
            "agent_listen": "",
            "squeue": f"{directory}/squeue",
            "hold_check_ms": "300",
            "grace_ms": "1000",
            "evict_grace_ms": "50",
            **settings,
        }
        self.config = directory / "node.conf"
        self.write_config()
        self.slurm_knows()
        self.process = None
        self.log = directory / "node-agent.log"

    def slurm_knows(self, *jobs, status=0):
        """What squeue says from now on."""
        path = self.directory / "squeue"
        lines = "".join(f"echo {job}\n" for job in jobs)
        path.with_suffix(".new").write_text(f"#!/bin/sh\n{lines}exit {status}\n")
        path.with_suffix(".new").chmod(0o755)
        path.with_suffix(".new").replace(path)

    def write_config(self, **changes):
        self.settings.update(changes)
        self.config.write_text("".join(f"{key} = {value}\n" for key, value in self.settings.items()))
        self.config.chmod(0o644)

    def start(self):
        """Run it where alice and bob have accounts."""
        passwd = self.directory / "passwd"
        lines = [f"{name}:x:{uid}:{uid}::{self.directory}/{name}:/bin/sh" for name, uid in USERS.items()]
        passwd.write_text(Path("/etc/passwd").read_text() + "".join(line + "\n" for line in lines))
        script = 'mount --bind "$1" /etc/passwd && exec "$2" -c "$3"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", passwd, self.program, self.config]
        # What the kernel knows of leaks in a process that lives on in its children, LSan does not.
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        began = len(self.said())
        wait_until(
            lambda: "serving" in self.said()[began - len(self.said()) :] or self.process.poll() is not None, START_S
        )
        assert self.process.poll() is None, self.said()
        opened_s = int(time.time())
        wait_until(lambda: time.time() >= opened_s + 1, 5)  # grants of the second in which it began are refused

    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def stop(self, signo=signal.SIGTERM):
        if self.process is None:
            return None
        self.process.send_signal(signo)
        status = self.process.wait(START_S)
        self.process = None
        return status

    def close(self):
        self.stop()
        for folder in Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"):
            with contextlib.suppress(OSError):
                folder.rmdir()

    # --- what users do ---

    def grant(self, uid=ALICE, **about):
        now = int(time.time())
        fields = {
            "slice_id": secrets.token_bytes(16),
            "nonce": secrets.token_bytes(16),
            "issued_s": now,
            "use_by_s": now + 60,
            "ends_s": now + 600,
            "memory_bytes": 64 * MIB,
            "uid": uid,
            "cores": 1,
            "node": "n1",
        }
        return Grant(**{**fields, **about})

    def ask(self, grant, uid=None, key=None, munge_socket=None):
        """Ask as a user for what a grant says."""
        payload = request(grant.sign(key or self.key), SECRET, str(self.home(grant.uid)))
        return start(self.address, payload, MungeOf(uid or grant.uid, munge_socket or self.munge_socket))

    def home(self, uid):
        return self.directory / next((name for name, known in USERS.items() if known == uid), "nobody")

    # --- what hooks do ---

    def hook(self, packet, timeout_s=30.0):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(timeout_s)
            sock.connect(f"{self.directory}/run/node.sock")
            sock.send(packet.encode())
            return sock.recv(4096).decode()

    def groups(self):
        """The control groups of slices that are there."""
        return sorted({path.name for path in Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}/*") if path.is_dir()})

    def pids(self, slice_id):
        path = Path(f"/sys/fs/cgroup/freezer/{self.cgroup}/{slice_id.hex()}/cgroup.procs")
        return [int(line) for line in path.read_text().split()] if path.exists() else []


class MungeOf(Munge):
    """Asks munged as a user; one thread only, since the uid is the process's."""

    def __init__(self, uid, socket_path):
        super().__init__(socket_path)
        self._uid = uid

    @contextlib.contextmanager
    def _as_user(self):
        os.setegid(self._uid)
        os.seteuid(self._uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)

    def encode(self, *args, **about):
        with self._as_user():
            return super().encode(*args, **about)

    def decode(self, credential):
        with self._as_user():
            return super().decode(credential)


@contextlib.contextmanager
def rig(program, directory, agent, **settings):
    """A `NodeAgentRig` that serves, with a munged of its own."""
    for name, uid in USERS.items():
        (directory / name / "log").mkdir(parents=True)
        for path in (directory / name, directory / name / "log"):
            os.chown(path, uid, uid)
            path.chmod(0o700)
    (directory / "munge").mkdir()
    with munged(directory / "munge") as munge_socket:
        node = NodeAgentRig(program, directory, munge_socket, agent, **settings)
        try:
            node.start()
            yield node
        finally:
            node.close()
