"""Find the session process or start it, and join: what the user's process does before its first call.

Runs in any thread of any program, an MPI rank included, with standard streams open or closed. Must load neither asyncio
nor grpc, and must leave no child, thread or descriptor but the connection (docs/spec/004-session.md section 3).
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rfaas.config import AllocatorChoice, Embedded, StateDir
from rfaas.control.address import AllocatorAddress
from rfaas.session import packets
from rfaas.session.connection import SessionConnection
from rfaas.session.environment import without_launcher
from rfaas.session.names import embedded_key, is_listed, personal_key, process_start, socket_name
from rfaas.settings import Settings
from rfaas_transport.errors import (
    AllocatorUnavailable,
    AuthenticationFailed,
    ConfigError,
    ProtocolError,
    RfaasError,
    VersionMismatch,
)
from rfaas_transport.messages import Message

VERSION: Final = 1
RESUME_BYTES: Final = 64 << 10  # of leases in one message, half of what a packet takes
PATIENCE_S: Final = 120.0
"""For a session process that lives and has not answered: a cold interpreter on a busy shared file system takes long.

One that dies is known at once; what waits for it has time-outs of its own (`acquire_timeout_s`).
"""
STARTS: Final = 10  # that somebody kills before they serve; each says nothing against the next
_AGAIN_S: Final = 0.02  # between tries while another session process is on its way out
_STATUS_BYTES: Final = 4096
_REJECTIONS: Final[dict[str, type[RfaasError]]] = {
    "version-mismatch": VersionMismatch,
    "authentication-failed": AuthenticationFailed,
    "config": ConfigError,
}
_NOT_FOR_DAEMONS: Final = ("PYTHONINSPECT", "PYTHONWARNINGS", "PYTHONPROFILEIMPORTTIME", "PYTHONTRACEMALLOC")


@dataclass(frozen=True, slots=True)
class _Target:
    """Which session process is meant, and how one is started."""

    name: str
    arguments: tuple[str, ...]
    log_path: Path | None  # None: the streams of this process


def connect(
    choice: AllocatorChoice,
    *,
    client_id: bytes,
    env: Message,
    options: Message | None = None,
    resume: Sequence[Message] = (),
    daemon_python: str | None = None,
    timeout_s: float = 10.0,
    wanted: Callable[[], bool] = lambda: True,
) -> SessionConnection:
    """Join the session process of this program, after starting it if nobody has. Blocks.

    Args:
        choice: a session process with an allocator of its own, or the one for the allocator of a state directory.
        client_id: 16 random bytes; the same when leases are resumed.
        env: see `rfaas.session.environment.current`.
        options: further keys of `join`, which no template depends on.
        resume: leases held through a session process that died, with their channels (004 section 3).
        daemon_python: interpreter that runs the session process; None: this one.
        timeout_s: limit for all of it.
        wanted: asked before a process is started; once it says False nothing more is.

    Raises:
        AllocatorUnavailable: not started, not answering, or it can't reach the allocator. Nothing is left behind.
        VersionMismatch: it runs another version of rfaas.
        AuthenticationFailed: somebody else sits at its address.
        ConfigError: the state directory, or the interpreter for it, can't be used.
    """
    deadline_s = time.monotonic() + timeout_s
    target = _target(choice)
    start = process_start(os.getpid())
    join = {
        "m": "join",
        "client": client_id,
        "version": VERSION,
        "start": start,
        "env": env,
        "resume": [],
        **(options or {}),
    }
    packed = [packets.pack(message) for message in (*_resumptions(resume), join)]
    starts = 0
    while True:
        sock = _reach(target.name, deadline_s)
        if sock is None:
            if not wanted():
                raise AllocatorUnavailable("the session process was not started: nobody wants it any more")
            starts += 1
            _start(target, daemon_python, deadline_s, may_be_silent=starts < STARTS)
            continue
        connection = _join(sock, packed, deadline_s)
        if connection is not None:
            return connection
        if time.monotonic() > deadline_s:
            raise AllocatorUnavailable("the session process closes every connection", hint=_where_to_look(target))
        time.sleep(_AGAIN_S)  # it was leaving; the next try starts another one


def serving(
    choice: AllocatorChoice, client: tuple[int, int], *, daemon_python: str | None = None, timeout_s: float = 10.0
) -> str:
    """Name of the socket of another program's session process, after starting one if nobody serves it. Blocks.

    For clients that join by themselves, as those in C do. It may leave again before they come.

    Args:
        choice, daemon_python, timeout_s: as for `connect`.
        client: pid of the program, and its start time (rfaas.session.names).

    Raises: as `connect`.
    """
    target = _target(choice, client)
    deadline_s = time.monotonic() + timeout_s
    starts = 0
    # Not by connecting: who joins nothing and leaves is an embedded session process's last client.
    while not is_listed(target.name):
        starts += 1
        _start(target, daemon_python, deadline_s, may_be_silent=starts < STARTS)
    return target.name


def _target(choice: AllocatorChoice, client: tuple[int, int] | None = None) -> _Target:
    uid = os.getuid()
    if isinstance(choice, Embedded):
        pid, start = client or (os.getpid(), process_start(os.getpid()))
        of_me = ("--embedded", "--client-pid", str(pid), "--client-start", str(start))
        return _Target(socket_name(uid, embedded_key(pid, start)), of_me, None)
    if choice.site:
        return _site_target(choice, uid)
    key = personal_key(AllocatorAddress.load(choice.path).alloc_id)
    arguments = ("--key", key, "--state-dir", str(choice.path))
    return _Target(socket_name(uid, key), arguments, choice.path / "log" / "session.log")


def _site_target(choice: StateDir, uid: int) -> _Target:
    """Its session process starts the allocator too, so there may be nothing yet to name it by but the place."""
    path = choice.path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the state directory {path} can't be made: {error}", hint="name another with RFAAS_STATE_DIR"
        ) from error
    key = personal_key(f"site {choice.site} {path}")
    arguments = ("--key", key, "--state-dir", str(path), "--site")
    return _Target(socket_name(uid, key), arguments, path / "log" / "session.log")


# --- reaching ---------------------------------------------------------------------------------------------------


def _reach(name: str, deadline_s: float) -> socket.socket | None:
    """Connect to the session process; None if nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(max(deadline_s - time.monotonic(), 0.01))
        sock.connect(name)
        _, uid = packets.peer(sock)
    except ConnectionRefusedError:
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise AllocatorUnavailable(f"the session process can't be reached: {error}") from error
    if uid != os.getuid():
        sock.close()
        raise AuthenticationFailed(
            f"the address of our session process is held by uid {uid}",
            hint="somebody on this machine took the name; tell the administrator",
        )
    return sock


def _resumptions(resume: Sequence[Message]) -> Iterator[Message]:
    """Messages that say which leases are resumed, each short enough for a packet."""
    entries: list[Message] = []
    n_bytes = 0
    for entry in resume:
        entry_bytes = len(packets.pack({"m": "", "resume": [entry]}))
        if entries and n_bytes + entry_bytes > RESUME_BYTES:
            yield {"m": "resume", "resume": entries}
            entries, n_bytes = [], 0
        entries.append(entry)
        n_bytes += entry_bytes
    if entries:
        yield {"m": "resume", "resume": entries}


def _join(sock: socket.socket, packed: Sequence[bytes], deadline_s: float) -> SessionConnection | None:
    """Exchange join and welcome; None if the session process left meanwhile. Owns the socket."""
    try:
        sock.settimeout(max(deadline_s - time.monotonic(), 0.01))
        for data in packed:
            packets.send(sock, data)
        received = packets.receive(sock)
        answer = received[0] if received else None
    except TimeoutError as error:
        sock.close()
        raise AllocatorUnavailable("the session process does not answer", hint="try again; then see its log") from error
    except ProtocolError:
        sock.close()
        raise
    except OSError:
        answer = None
    if answer is None:
        sock.close()
        return None
    if answer["m"] == "welcome" and abs(int(answer["version"]) - VERSION) <= 1:
        return SessionConnection(sock, answer)
    sock.close()
    code, hint = str(answer.get("code", "version-mismatch")), str(answer.get("hint", ""))
    raise _REJECTIONS.get(code, AllocatorUnavailable)(f"the session process refused this program: {code}", hint=hint)


# --- starting ---------------------------------------------------------------------------------------------------


def _start(target: _Target, daemon_python: str | None, deadline_s: float, *, may_be_silent: bool) -> None:
    """Start a session process and wait until it, or one that was quicker, serves; or was killed, if that may be.

    Raises:
        AllocatorUnavailable: it ended before it served, or the time is over.
        ConfigError: the interpreter can't be executed.
    """
    python = daemon_python or sys.executable
    if not python:
        raise ConfigError("this program does not know its own Python", hint="set daemon_python to an interpreter")
    # An interpreter named for the daemon has rfaas of its own, and PYTHONPATH is the program's, not its.
    options = ["-P", "-E"] if daemon_python else ["-P"]
    status, theirs = _status_pipe()
    try:
        command = [python, *options, "-m", "rfaas.session", *target.arguments, "--status-fd", str(theirs)]
        try:
            exit_code = _run(command, theirs, target.log_path, deadline_s)
        finally:
            os.close(theirs)
        text = _read_status(status, deadline_s)
    except OSError as error:
        raise ConfigError(f"the session process can't be started with {python}: {error}") from error
    finally:
        os.close(status)
    if text is None:
        raise AllocatorUnavailable("the session process did not start in time", hint=_where_to_look(target))
    was_killed = text == "" and exit_code <= 0  # the launcher by a signal, or the daemon after it
    if text != "ok" and not (was_killed and may_be_silent):
        problem = text or "it ended before it said why"
        raise AllocatorUnavailable(f"the session process did not start: {problem}", hint=_where_to_look(target))


def _status_pipe() -> tuple[int, int]:
    """A pipe whose write end is none of 0, 1 and 2, which this program may have closed: a child's are its streams."""
    status, low = os.pipe()
    try:
        return status, fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        os.close(status)
        raise
    finally:
        os.close(low)


def _run(command: list[str], status_fd: int, log_path: Path | None, deadline_s: float) -> int:
    """Run the launcher, which leaves the daemon behind and ends at once; returns its exit code."""
    output: int | None = None
    if log_path is not None:
        log_path.parent.mkdir(mode=0o700, exist_ok=True)
        output = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        launcher = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(status_fd,),
            start_new_session=True,  # Ctrl-C at the terminal is not for it
            env=_daemon_environment(),
        )
    finally:
        if output is not None:
            os.close(output)
    try:
        return launcher.wait(max(deadline_s - time.monotonic(), 0.01))
    except subprocess.TimeoutExpired:
        launcher.kill()
        return launcher.wait()


def _daemon_environment() -> dict[str, str]:
    """Variables for the daemon, with what this program's `rfaas.toml` says: it runs in another directory."""
    said = {**os.environ, **Settings.load().exported()}
    return {k: v for k, v in without_launcher(said).items() if k not in _NOT_FOR_DAEMONS}


def _read_status(descriptor: int, deadline_s: float) -> str | None:
    """Read what the daemon says of its start: "ok" or what went wrong; None when the time is over."""
    text = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while poll.poll(max(deadline_s - time.monotonic(), 0) * 1000):
        data = os.read(descriptor, _STATUS_BYTES)
        if not data:
            return text.decode(errors="replace").strip()
        text += data
    return None


def _where_to_look(target: _Target) -> str:
    if target.log_path is not None:
        return f"see {target.log_path}"
    return "what it said is on the standard error of this program; RFAAS_LOG=info says more"
