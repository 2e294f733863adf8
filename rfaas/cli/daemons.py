"""Daemons that `rfaas up` starts and `rfaas down` stops: by pid *and* start time, so a recycled pid is never touched.

The record is `daemons.json` in the state directory. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rfaas.control.address import AllocatorAddress
from rfaas_transport.errors import ConfigError, RfaasError

RECORD = "daemons.json"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process of ours; `start_ticks`: field 22 of /proc/<pid>/stat; `log_offset`: where its log begins."""

    name: str
    pid: int
    start_ticks: int
    log_offset: int = 0

    @property
    def alive(self) -> bool:
        """True if that very process still runs (a zombie does not)."""
        return start_ticks(self.pid) == self.start_ticks


def start_ticks(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def prepare_state_dir(path: Path) -> Path:
    """Make the state directory (0700) and its `log/`, or check the one that is there.

    Raises:
        ConfigError: it can't be made, belongs to somebody else, or others may read it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (path / "log").mkdir(exist_ok=True, mode=0o700)
        status = path.stat()
    except OSError as error:
        raise ConfigError(
            f"state directory {path}: {error.strerror}", hint="name one that you can write with --state-dir"
        ) from error
    if status.st_uid != os.getuid():
        raise ConfigError(f"state directory {path} belongs to uid {status.st_uid}", hint="use one of your own")
    if status.st_mode & 0o077:
        raise ConfigError(f"state directory {path} is open to others", hint=f"chmod 700 {path}")
    return path


def spawn(name: str, command: Sequence[str], state_dir: Path, environ: Mapping[str, str] | None = None) -> Daemon:
    """Start a daemon in a session of its own, its output in `log/<name>.log`; `environ`: None inherits ours.

    Raises:
        ConfigError: its interpreter or its log can't be opened; nothing was started.
    """
    try:
        with (state_dir / "log" / f"{name}.log").open("ab") as log:
            log_offset = log.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=state_dir,
                env=environ,
            )
    except OSError as error:
        raise ConfigError(f"the {name} can't be started: {error}", hint="is --daemon-python right?") from error
    process.returncode = 0  # it outlives us and is known by its record: nothing here is left undone
    return Daemon(name, process.pid, start_ticks(process.pid), log_offset)


def save(state_dir: Path, daemons: Sequence[Daemon], settings: dict[str, object]) -> None:
    """Write the record: what runs, on which host, with which settings.

    Raises:
        ConfigError: it can't be written, as on a full disk; the record before, if any, is still there.
    """
    record = {"host": socket.gethostname(), "daemons": [asdict(daemon) for daemon in daemons], "settings": settings}
    temporary = state_dir / (RECORD + ".new")
    try:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.chmod(0o600)
        temporary.replace(state_dir / RECORD)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room there" if full else "is --state-dir writable for you?"
        raise ConfigError(f"{state_dir / RECORD} can't be written: {error.strerror}", hint=hint) from error


def load(state_dir: Path) -> tuple[list[Daemon], dict[str, object]] | None:
    """The record's daemons and settings; None if nothing was started from this state directory.

    Raises:
        ConfigError: the record is of another host or can't be read; nothing was touched.
    """
    try:
        record = json.loads((state_dir / RECORD).read_text())
        host, settings = str(record["host"]), dict(record["settings"])
        daemons = [Daemon(**daemon) for daemon in record["daemons"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{state_dir / RECORD} can't be read: {error}", hint="remove it if nothing runs") from error
    if host != socket.gethostname():
        raise ConfigError(
            f"the daemons of {state_dir} run on {host}, this is {socket.gethostname()}",
            hint=f"run this command on {host}",
        )
    return daemons, settings


def serving(state_dir: Path) -> Daemon | None:
    """The allocator that serves this state directory, by its own word; None if it runs not, or not on this host."""
    try:
        address = AllocatorAddress.load(state_dir)
        pid = address.pid
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, RfaasError):
        return None
    ours = b"rfaas_allocator" in command and os.fsencode(str(state_dir)) in command
    return Daemon("allocator", pid, start_ticks(pid)) if ours and address.local else None


def stop(daemon: Daemon, timeout_s: float) -> bool:
    """SIGTERM, then SIGKILL after the time; True if it left by itself (or was gone)."""
    if not daemon.alive:
        return True
    _signal(daemon, signal.SIGTERM)
    if wait_gone(daemon, timeout_s):
        return True
    _signal(daemon, signal.SIGKILL)
    wait_gone(daemon, 5.0)
    return False


def _signal(daemon: Daemon, number: int) -> None:
    try:
        pidfd = os.pidfd_open(daemon.pid)
    except ProcessLookupError:
        return
    try:
        if daemon.alive:  # the pidfd is open: this can't become another process's pid any more
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def wait_gone(daemon: Daemon, timeout_s: float) -> bool:
    """Wait until the process has ended; False if it has not within the time."""
    deadline_s = time.monotonic() + timeout_s
    while daemon.alive:
        if time.monotonic() > deadline_s:
            return False
        with contextlib.suppress(ChildProcessError):
            os.waitpid(daemon.pid, os.WNOHANG)  # our own child, if it was started by this very process
        time.sleep(0.02)
    return True
