"""Tells the user, before the first call runs there, that a node's modules are not those of this program."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from rfaas.client.safe_log import SafeLogger
from rfaas.session.modules import REMEDY, Difference, describe

_log = SafeLogger(__name__)


class EnvironmentWarning(UserWarning):
    """A node has other modules, or other versions, than this program; the message names them."""


@dataclass(slots=True, eq=False)
class Differs:
    """A node that has just been reached has other modules."""

    node: str
    modules: tuple[Difference, ...]


class Mismatches:
    """Warns once of each node and difference."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, event: Differs) -> None:
        """Warn, unless that was said. Where that raises, as warnings that are errors do, it is logged: nobody could
        catch it here, and `warnings.showwarning` is the program's own.
        """
        text = f"{describe(event.modules, event.node)}\n  remedy: {REMEDY}"
        if text in self._told:
            return
        self._told.add(text)
        try:
            warnings.warn(text, EnvironmentWarning, stacklevel=1)
        except BaseException:
            _log.error("%s", text)
