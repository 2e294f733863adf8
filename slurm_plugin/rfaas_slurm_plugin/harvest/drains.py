"""Nodes that the harvester leaves alone because somebody said so: `rfaas slurm drain`, kept in the state directory.

A drained node is shown to the policy and to the book of slices with the state RFAAS_DRAIN, which means there what
Slurm's own drain means: nothing new, and what runs ends within its grace. Slurm itself is told nothing; jobs go on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from rfaas_slurm_plugin.views.view import RFAAS_DRAIN, ClusterView
from rfaas_transport.errors import ConfigError

log = logging.getLogger(__name__)

FILE: Final = "drains.json"


@dataclass(frozen=True, slots=True)
class Drain:
    """Why a node is not harvested, who said so, and when (wall clock)."""

    reason: str
    by: str
    since_s: int


class DrainFile:
    """The drained nodes of one allocator's harvester, kept across its restarts."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._last: dict[str, Drain] = {}

    def read(self) -> dict[str, Drain]:
        """Drained nodes by name.

        Raises:
            ConfigError: the file can't be read, or is not what was written.
        """
        try:
            found = json.loads(self._path.read_bytes())["nodes"]
            return {str(name): Drain(str(d["reason"]), str(d["by"]), int(d["since_s"])) for name, d in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self._path}: {error}", hint="remove it, and drain the nodes again") from error

    def change(self, add: Mapping[str, Drain], remove: frozenset[str] = frozenset()) -> dict[str, Drain]:
        """Add and remove drains, and return all that are left; another change at the same time waits.

        Root may do it in a user's directory: the files are that user's then, and no link of hers leads elsewhere.

        Raises:
            ConfigError: as `read`, or it can't be written; nothing was changed.
        """
        try:
            with os.fdopen(_lock_file(self._path.with_suffix(".lock")), "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                drains = {name: drain for name, drain in self.read().items() if name not in remove} | dict(add)
                text = json.dumps({"nodes": {name: asdict(drain) for name, drain in sorted(drains.items())}}, indent=1)
                new = self._path.with_suffix(".new")
                new.unlink(missing_ok=True)
                with os.fdopen(_new_file(new), "w") as file:
                    file.write(text + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, self._path)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "make room there" if full else "is --state-dir that of the allocator, and yours?"
            raise ConfigError(f"{error.filename or self._path}: {error.strerror}", hint=hint) from error
        return drains

    def applied_to(self, view: ClusterView) -> ClusterView:
        """The view with drained nodes marked; with those of the last reading if the file can't be read now."""
        try:
            self._last = self.read()
        except ConfigError as error:
            log.warning("drained nodes as before: %s", error)
        if not self._last:
            return view
        nodes = tuple(
            replace(node, states=node.states | {RFAAS_DRAIN}) if node.name in self._last else node
            for node in view.nodes
        )
        return replace(view, nodes=nodes)


def _lock_file(path: Path) -> int:
    """A descriptor of the file, made if it isn't there; no link is followed."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.close(_new_file(path))
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _new_file(path: Path) -> int:
    """A descriptor of a file that was not there, which belongs to whom its directory belongs."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor
