"""Nodes that agents have left because functions slowed the job there: for how long nobody is to lend them.

A file a node in the state directory, written by the agent that leaves, read by the harvester and by the next agent of
that node. Never decides; a file that can't be read means nothing. Source: docs/adr/0028.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rfaas.control.messages import Neighbours

log = logging.getLogger(__name__)

RESTS: Final = "rests"
REMEMBERED_S: Final = 86_400.0  # a node that was left so long ago begins anew


@dataclass(frozen=True, slots=True)
class Rest:
    """One node is left alone until `until_wall_s`; `times`: how often in a row that happened."""

    until_wall_s: float
    times: int
    words: str


class RestFile:
    """The rests of one allocator's nodes."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / RESTS

    def leave(self, node: str, about: Neighbours, now_wall_s: float) -> None:
        """Note that this node is left. Where that can't be written it is logged, and the node may be lent too soon."""
        rest = {
            "node": node,
            "until_wall_s": now_wall_s + about.closed_for_s,
            "times": self.left(node, now_wall_s) + 1,
            "words": about.words,
        }
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            new = self._folder / f".{node}.{os.getpid()}"
            new.write_text(json.dumps(rest))
            os.replace(new, self._folder / f"{node}.json")
        except OSError as error:
            log.warning("rest not written node=%s error=%s", node, error)

    def left(self, node: str, now_wall_s: float) -> int:
        """How often the node was left in a row, not long ago."""
        rest = self._read(self._folder / f"{node}.json", now_wall_s)
        return 0 if rest is None else rest[1].times

    def all(self, now_wall_s: float) -> dict[str, Rest]:
        """The nodes that are to be left alone now."""
        try:
            found = [self._read(path, now_wall_s) for path in self._folder.glob("*.json")]
        except OSError:
            return {}
        return {node: rest for node, rest in filter(None, found) if rest.until_wall_s > now_wall_s}

    def _read(self, path: Path, now_wall_s: float) -> tuple[str, Rest] | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(path.read_bytes())
            rest = Rest(float(said["until_wall_s"]), int(said["times"]), str(said["words"]))
            if now_wall_s < rest.until_wall_s + REMEMBERED_S:
                return str(said["node"]), rest
        return None
