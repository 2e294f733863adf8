"""Running commands with a limit, and saying what went wrong when they fail.

Every wait is bounded: a command that does not end is killed with everything in its process group.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

TAIL_CHARACTERS = 4000  # of output in an error message: enough for a traceback


class CommandFailed(Exception):
    """A command ended with a non-zero status; `result` holds it all."""

    def __init__(self, argv: Sequence[str], result: subprocess.CompletedProcess[str]) -> None:
        self.result = result
        super().__init__(f"{shown(argv)} ended with {result.returncode}{_output(result.stdout, result.stderr)}")


class CommandTimeout(Exception):
    """A command was still running at its limit and was killed; the message holds its output so far."""

    def __init__(self, argv: Sequence[str], timeout_s: float, stdout: str, stderr: str) -> None:
        super().__init__(f"{shown(argv)} still ran after {timeout_s} s{_output(stdout, stderr)}")


def shown(argv: Sequence[str]) -> str:
    """The command as a person would type it, cut to a line."""
    line = " ".join(argv)
    return line if len(line) <= 300 else line[:297] + "..."


def _output(stdout: str, stderr: str) -> str:
    parts = [("stdout", stdout), ("stderr", stderr)]
    return "".join(f"\n--- {name}\n{text[-TAIL_CHARACTERS:].rstrip()}" for name, text in parts if text.strip())


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    check: bool = True,
    stdin: str | None = None,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `prefix + argv` to its end and return its output as text.

    Args:
        argv: the command, as error messages show it.
        timeout_s: after that many seconds its whole process group is killed.
        check: a non-zero status is an error.
        stdin: what it reads; nothing (end of file) if None.
        prefix: how to get there (nsenter, setpriv, ...), left out of messages.
        env: environment; None inherits.
        cwd: folder to start in; None inherits.

    Raises:
        CommandFailed: it ended with a non-zero status and `check` is set.
        CommandTimeout: it was killed at the limit.
    """
    process = subprocess.Popen(
        [*prefix, *argv],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env=env,
        cwd=cwd,
    )
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill_group(process.pid)
        stdout, stderr = _rest(process)
        raise CommandTimeout(argv, timeout_s, stdout, stderr) from None
    except BaseException:
        kill_group(process.pid)
        process.wait()
        raise
    result = subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)
    if check and result.returncode != 0:
        raise CommandFailed(argv, result)
    return result


def _rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a killed command wrote; a descendant that left the group may hold the pipes open, so only a second."""
    try:
        return process.communicate(timeout=1)
    except subprocess.TimeoutExpired as error:
        process.kill()
        return _text(error.stdout), _text(error.stderr)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def kill_group(pid: int, signum: int = signal.SIGKILL) -> None:
    """Signal the process group that `pid` leads; nothing if it is gone."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:
        return


def start(
    argv: Sequence[str],
    *,
    stdin: int | IO[str] | None = subprocess.DEVNULL,
    stdout: int | IO[str] | None = None,
    stderr: int | IO[str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[str]:
    """Start a command as the leader of its own session and process group; the caller ends it."""
    return subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=tuple(pass_fds),
    )
