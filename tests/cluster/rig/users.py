"""The cluster's ordinary users: what a test does as alice on a node.

Must not lend root's rights, environment or working directory to what it runs. Every wait has a limit.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cluster.rig import commands
from cluster.rig.node import Node, first_child
from cluster.rig.settings import HEAD, Account, Layout
from support.waiting import wait_until

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
END_TIMEOUT_S = 10.0
# those with a database end slurmrestd where there is none; since 23.11 versions are no plugins of their own
REST_PLUGINS = "openapi/v0.0.37,openapi/v0.0.38"
REST_PLUGINS_OF_A_ROOT = "openapi/slurmctld"


@dataclass(frozen=True)
class User:
    """One account on one cluster.

    Args:
        account: name and uid.
        layout: of the cluster. When the wheel is installed there, its commands come first in PATH, as if the user
            had activated the environment.
    """

    account: Account
    layout: Layout

    @property
    def name(self) -> str:
        """The login name."""
        return self.account.name

    @property
    def home(self) -> Path:
        """The home as the machine sees it; on the nodes it is `account.home`."""
        return self.layout.homes / self.name

    @property
    def python(self) -> str:
        """The interpreter that has the built wheel; when none is installed the distribution's."""
        python = self.layout.venv / "bin" / "python"
        return str(python) if python.exists() else "/usr/bin/python3"

    def way_in(self, node: str, *, env: Mapping[str, str] | None = None, cwd: str | None = None) -> list[str]:
        """The words before a command that make it run as this user on `node`, with a login's environment.

        Raises:
            RigError: the node is down.
        """
        uid = str(self.account.uid)
        become = ["setpriv", "--reuid", uid, "--regid", uid, "--init-groups", "--"]
        words = [f"{name}={value}" for name, value in {**self._environment(node), **(env or {})}.items()]
        return [*Node(self.layout, node).way_in, *become, "env", "-C", cwd or self.account.home, "-i", *words]

    def run(
        self,
        node: str,
        argv: Sequence[str],
        timeout_s: float,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node to its end; stdout and stderr come back as text.

        Args:
            node: "head", "n1", ...
            argv: the command; found in the venv first, then in the system's folders.
            timeout_s: then everything in its process group is killed (a job that it submitted lives on).
            env: added to a login's environment.
            cwd: folder on the node; the home if None.
            stdin: what it reads; end of file if None.
            check: a non-zero status is an error.

        Raises:
            CommandFailed: non-zero status, and `check` is set. The command has ended.
            CommandTimeout: it was killed at the limit.
            RigError: the node is down; nothing ran.
        """
        prefix = self.way_in(node, env=env, cwd=cwd)
        return commands.run(argv, prefix=prefix, timeout_s=timeout_s, check=check, stdin=stdin)

    @contextlib.contextmanager
    def popen(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.PIPE,
    ) -> Iterator["Running"]:
        """A command that runs beside the test for as long as the `with` block; then it is killed if it still runs.

        Raises:
            RigError: the node is down; nothing was started.
        """
        argv_there = [*self.way_in(node, env=env, cwd=cwd), *argv]
        process = commands.start(argv_there, stdin=stdin, stdout=stdout, stderr=stderr)
        running = Running(process)
        try:
            yield running
        finally:
            running.kill()

    @contextlib.contextmanager
    def slurmrestd(self, where: str, *, auth: str = "rest_auth/local", plugins: str = "") -> Iterator[None]:
        """A slurmrestd of the user's on the head for the length of the `with` block; it answers when the block begins.

        Args:
            where: "unix:/path" or "host:port".
            auth: rest_auth/local (the socket's user) or rest_auth/jwt.
            plugins: versions of its interface; those of the cluster's Slurm if left out.
        """
        plugins = plugins or (REST_PLUGINS_OF_A_ROOT if self.layout.load().root else REST_PLUGINS)
        socket_path = Path(where.removeprefix("unix:"))
        argv = ["/usr/sbin/slurmrestd", "-a", auth, "-s", plugins, where]
        env = {"SLURM_JWT": "daemon"} if auth == "rest_auth/jwt" else {}  # else munge speaks for it, and rejects tokens
        with self.popen(HEAD, argv, env=env, stderr=subprocess.DEVNULL) as running:
            try:
                wait_until(lambda: self._listens(where), END_TIMEOUT_S, "slurmrestd")
                assert running.process.poll() is None
                yield
            finally:
                running.signal(signal.SIGKILL)
                if where.startswith("unix:"):
                    (self.home / socket_path.relative_to(self.account.home)).unlink(missing_ok=True)

    def _listens(self, where: str) -> bool:
        kind, name = ("-xl", where.removeprefix("unix:")) if where.startswith("unix:") else ("-tl", where)
        return f"{name} " in Node(self.layout, HEAD).run_as_root("ss", "-Hn", kind)

    def put(self, name: str, text: str, *, mode: int = 0o600) -> str:
        """Write a file of the user's into the home and return its path on the nodes."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        for entry in (path, *path.parents):
            if entry == self.home:
                break
            os.chown(entry, self.account.uid, self.account.uid)
        return f"{self.account.home}/{name}"

    def make_home(self) -> None:
        """An empty private home in place of whatever is there."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.home, self.account.uid, self.account.uid)
        for entry in self.home.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _environment(self, node: str) -> dict[str, str]:
        path = f"{self.layout.venv}/bin:{SYSTEM_PATH}" if self.layout.venv.exists() else SYSTEM_PATH
        names = {"HOME": self.account.home, "USER": self.name, "LOGNAME": self.name, "SHELL": "/bin/bash"}
        names |= {"PATH": path, "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")}
        if node == HEAD:
            names["XDG_RUNTIME_DIR"] = self.account.runtime_dir
        return names


@dataclass
class Running:
    """A command on a node that has not ended yet, or its status when it has."""

    process: subprocess.Popen[str]
    _pid: int | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """The machine's pid of the command itself (the way in stays its parent).

        Raises:
            AssertionError: it ended before it could be seen.
        """
        pid = self._pid or wait_until(lambda: first_child(self.process.pid), END_TIMEOUT_S, "the command's start")
        assert pid is not None
        self._pid = pid
        return pid

    def signal(self, signum: int) -> None:
        """Send a signal to the command alone; nothing if it has ended."""
        if self.process.poll() is None:
            os.kill(self.pid, signum)

    def wait(self, timeout_s: float) -> int:
        """Its exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self.process.wait(timeout=timeout_s)

    def output(self, timeout_s: float) -> tuple[str, str]:
        """Wait for the end and return stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self.process.communicate(timeout=timeout_s)

    def kill(self) -> None:
        """Kill it with its process group, if it still runs, and close its pipes."""
        commands.kill_group(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=END_TIMEOUT_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
