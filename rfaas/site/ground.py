"""What a session process stands on where a site lends: the user's own allocator, which is started if it is missing.

It ends by itself some seconds after the last session process, and takes its slices along. Must not be imported by a
program: it loads what daemons need. Spec: docs/spec/010-node-agent.md section 8.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rfaas.cli import daemons
from rfaas.control.address import AllocatorAddress
from rfaas.control.route import own_address_towards
from rfaas.session.hosting import Personal
from rfaas.site.borrower import SiteSettings
from rfaas_transport.errors import AllocatorUnavailable, ConfigError, RfaasError
from rfaas_transport.munge import Munge

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 15.0
LAST_LEAVES_S: Final = 15.0  # as long as it may wait for its agents, and some time to close
LOOK_S: Final = 0.02
ALLOCATOR: Final = "allocator"
LOCK: Final = "site.lock"


class SiteGround(Personal):
    """An allocator of a state directory that nobody has to start; made by `start`."""

    site: SiteSettings

    @classmethod
    async def start(cls, state_dir: Path, site: SiteSettings) -> SiteGround:
        """Have an allocator run.

        Raises:
            ConfigError: directory, address or interpreter can't be used, or there is no libmunge.
            AuthenticationFailed: munged of this host makes no credentials, so nobody would lend anything.
            AllocatorUnavailable: the allocator did not start; its log says more.
        """
        await asyncio.to_thread(Munge(site.munge_socket).encode, b"", for_uid=os.getuid())
        await asyncio.to_thread(ensure_allocator, state_dir, site)
        ground = cls(state_dir)
        ground.site = site
        return ground

    async def dial(self) -> Any:  # noqa: ANN401 - as of Personal
        """Make a link to the allocator, after starting one where there is none any more."""
        try:
            return await super().dial()
        except (OSError, RfaasError) as error:
            log.info("allocator not reached, is it there? why=%s", error)
            await asyncio.to_thread(ensure_allocator, self._state_dir, self.site)
            return await super().dial()


def ensure_allocator(state_dir: Path, site: SiteSettings) -> None:
    """See that an allocator serves this directory, or start one. Blocks.

    Raises:
        ConfigError, AllocatorUnavailable: it can't be started; the message says why.
    """
    daemons.prepare_state_dir(state_dir)
    with _lock(state_dir / LOCK):
        if _is_served(state_dir):
            return
        _await_last(state_dir)
        if _is_served(state_dir):
            return
        host = site.allocator.rpartition(":")[0].strip("[]")
        try:
            listen = site.listen or own_address_towards(host)
        except OSError as error:
            raise ConfigError(
                f"site.allocator {site.allocator}: {error}", hint="see how it is spelled; else set site.listen"
            ) from error
        options = ["--state-dir", str(state_dir), "--listen", listen, "--leave-after-s", f"{site.keep_s:g}"]
        command = [sys.executable, "-P", "-m", "rfaas_allocator", *options]
        daemon = daemons.spawn(ALLOCATOR, command, state_dir)
        settings: dict[str, object] = {"slurm": None, "alloc_id": "", "daemon_python": sys.executable}
        daemons.save(state_dir, [daemon], settings | {"commands": {"allocator": command}, "exported": {}})
        _wait(state_dir, daemon)
        log.info("started an allocator pid=%d listen=%s", daemon.pid, listen)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One start at a time; where the file system has no locks, the journal's refuses the second allocator."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_served(state_dir: Path) -> bool:
    try:
        return AllocatorAddress.load(state_dir).alive
    except AllocatorUnavailable:
        return False


def _await_last(state_dir: Path) -> None:
    """Wait until an allocator that lives and does not serve, since it comes or goes, does either.

    Daemons of `rfaas up` that live belong to that: it knows how they were started.

    Raises:
        AllocatorUnavailable: agents live, and their allocator is gone; or an allocator neither serves nor ends.
    """
    try:
        found = daemons.load(state_dir)
    except ConfigError:  # of another host, where nothing may run any more: the journal's lock decides
        return
    alive = [daemon for daemon in found[0] if daemon.alive] if found else []
    others = [daemon.name for daemon in alive if daemon.name != ALLOCATOR]
    if others:
        raise AllocatorUnavailable(
            f"the allocator of {state_dir} has ended, its {' and '.join(others)} lives",
            hint="`rfaas up` starts it again as it was",
        )
    deadline_s = time.monotonic() + LAST_LEAVES_S
    for last in alive:
        while _still_runs(last):
            if _is_served(state_dir):
                return
            if time.monotonic() > deadline_s:
                raise AllocatorUnavailable(
                    f"the allocator of {state_dir}, process {last.pid}, neither serves nor ends",
                    hint=f"see {state_dir / 'log' / 'allocator.log'}, and end it with SIGTERM",
                )
            time.sleep(LOOK_S)


def _wait(state_dir: Path, daemon: daemons.Daemon) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if _is_served(state_dir):
            return
        if not _still_runs(daemon):
            break
        time.sleep(LOOK_S)
    log_file = state_dir / "log" / "allocator.log"
    said = log_file.read_bytes()[daemon.log_offset :].decode(errors="replace").strip().splitlines()[-2:]
    why = " ".join(said) or "it said nothing"
    raise AllocatorUnavailable(f"an allocator did not start: {why}", hint=f"see {log_file}")


def _still_runs(daemon: daemons.Daemon) -> bool:
    """Whether it still runs; one that ended is reaped."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(daemon.pid, os.WNOHANG)
    return daemon.alive
