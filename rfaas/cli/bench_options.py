"""Options that the measurements of `rfaas bench` share: what they mean, what of them can't be, where results go."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rfaas.cli.common import EXIT_FAILED, Seconds, fail, json_option
from rfaas.units import parse_size_bytes
from rfaas_transport.errors import ConfigError, RfaasError

if TYPE_CHECKING:
    from rfaas.bench.pinning import Wish
    from rfaas.executor import Executor

PATIENCE_S: Final = 60
COPIES: Final = 10  # of the largest payload, all processes of this machine together, its memory for the bare link too


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that all measurements of calls have; errors are said with their remedy."""
    options = (
        click.option("--transport", help="Medium: auto, shm, verbs or tcp [executor.transport]."),
        click.option("--allocator", help="State directory, or embedded [as programs: `rfaas config show`]."),
        click.option("--pin/--no-pin", default=True, show_default=True, help="Client and worker to a CPU each."),
        click.option("--client-cpu", type=click.IntRange(0), help="CPU of the client [the first it may use]."),
        click.option("--worker-cpu", type=click.IntRange(0), help="CPU of the worker [one of another core]."),
        click.option("--seconds", type=Seconds(0.05, 600), help="A series, at most [1; quick: 0.1]."),
        click.option(
            "--blocks", type=click.IntRange(1, 100), help="In which a series is made, by turns [5; quick: 2]."
        ),
        click.option("--quick", is_flag=True, help="Few of everything: does it work here? No figure to quote."),
        json_option,
    )

    @functools.wraps(command)
    def guarded(as_json: bool, **rest: Any) -> None:  # noqa: ANN401 - options
        with errors_said(as_json):
            command(as_json=as_json, **rest)

    return functools.reduce(lambda made, option: option(made), reversed(options), guarded)


@contextmanager
def errors_said(as_json: bool) -> Iterator[None]:
    """Say what went wrong and what to do about it; never a traceback."""
    try:
        yield
    except RfaasError as error:
        fail(error, as_json=as_json)
    except OSError as error:
        if error.errno == errno.EPIPE:  # nobody reads any more
            raise
        fail(ConfigError(f"the measurement broke off: {error}", hint="rfaas doctor"), as_json=as_json)


def made_executor(transport: str | None, allocator: str | None, workers: int = 1) -> Executor:
    """The executor whose workers are measured; one that finds none gives up after a minute, or as the settings say."""
    from rfaas import Executor
    from rfaas.settings import Settings

    patience_s = Settings.load().value("executor.acquire_timeout_s") or PATIENCE_S
    return Executor(max_workers=workers, transport=transport, allocator=allocator, acquire_timeout_s=patience_s)


def check_settings(transport: str | None, allocator: str | None) -> None:
    """Refuse what no executor would take.

    Raises:
        ConfigError: which setting, and what it may be.
    """
    from rfaas.config import configure

    configure(transport=transport, allocator=allocator)


def hot_for_s() -> float:
    """How long a worker polls after a call."""
    from rfaas.settings import Settings

    return float(Settings.load().value("executor.hot_for_s"))


def wish(options: dict[str, Any]) -> Wish:
    """What the options say of CPUs.

    Raises:
        ConfigError: they contradict each other.
    """
    from rfaas.bench.pinning import Wish

    if not options["pin"] and (options["client_cpu"] is not None or options["worker_cpu"] is not None):
        raise ConfigError("--no-pin and a CPU to pin to", hint="leave one out")
    return Wish(options["pin"], options["client_cpu"], options["worker_cpu"])


def sizes_of(text: str | None, otherwise: str, *, zero: bool = False) -> list[int]:
    """Sizes in bytes, of a list as people write it; with `zero` 0 is one too.

    Raises:
        ConfigError: one is no size.
    """
    parts = [part.strip() for part in (otherwise if text is None else text).split(",")]
    return [0 if zero and part == "0" else parse_size_bytes(part, name="--sizes") for part in parts]


def numbers(name: str, text: str) -> list[int]:
    """Numbers from 1 to 2^20, of a list as people write it.

    Raises:
        ConfigError: one is none.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1 or max(found) > 1 << 20:
        raise ConfigError(f"{name}={text!r} is no list of numbers from 1", hint='write "1,16,256"')
    return found


def words(name: str, text: str, known: Any) -> list[str]:  # noqa: ANN401 - names, or a table of them
    """Words that are known, of a list as people write it.

    Raises:
        ConfigError: one is not.
    """
    found = [part.strip() for part in text.split(",")]
    for one in found:
        if one not in known:
            raise ConfigError(f"{name}={one!r} is not known here", hint=f"one or more of {','.join(known)}")
    return found


def check_room(largest: int) -> None:
    """Refuse payloads that would take this machine's memory, before anything is made.

    Raises:
        ConfigError: calls don't take so much, or the machine has not enough.
    """
    from rfaas import host_memory
    from rfaas.settings import Settings
    from rfaas_transport._core import DEFAULT_MAX_PAYLOAD_BYTES

    limit = int(Settings.load().value("executor.payload_limit") or DEFAULT_MAX_PAYLOAD_BYTES)
    if largest > limit:
        raise ConfigError(
            f"--sizes: {largest} bytes are more than a call takes: {limit}", hint="executor.payload_limit"
        )
    needed, available = COPIES * largest, host_memory.offered_bytes("MemAvailable")
    if needed > available:
        text = f"--sizes: payloads of {largest} bytes take about {needed} here, and {available} are available"
        raise ConfigError(text, hint=f"--sizes of {available // COPIES} at most")


def check_writable(*paths: Path | None) -> None:
    """Refuse before anything is measured what can't be written afterwards.

    Raises:
        ConfigError: there is no such directory, or this user may not write there.
    """
    for path in filter(None, paths):
        if path.is_dir():  # also what an unset variable of a shell leaves
            raise ConfigError(f"{path} is a directory", hint="name a file")
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{path}: there is no such directory", hint="make it first")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise ConfigError(f"{path} can't be written", hint="name a file where you may write")


def write(*files: tuple[Path | None, Callable[[Path], object]]) -> list[str]:
    """Write what was asked for; of what can't be written, why not: the figures are still to be printed."""
    failed = []
    for path, write in files:
        try:
            if path is not None:
                write(path)
        except OSError as error:
            failed.append(f"{path} was not written whole: {error.strerror or error}")
    return failed


def end(unwritten: Sequence[str]) -> None:
    """End the command: with what could not be written, if there is such."""
    for text in unwritten:
        click.echo(f"rfaas: {text}", err=True)
    if unwritten:
        sys.exit(EXIT_FAILED)
