"""Who reads a worker's channels while its functions run, and what becomes of that when a function forks.

Must not hold policy. Loaded with `worker`; spec: docs/spec/001-invocation.md section 3.
"""

from __future__ import annotations

import contextlib
import os
import weakref

from rfaas_executors._process import StatePage
from rfaas_transport._core import Attendant, Channel

_attendants: weakref.WeakSet[Attendant] = weakref.WeakSet()
_hooked = False


def attend(channel: Channel, page: StatePage, page_slot: int) -> Attendant | None:
    """Have a channel attended while a call of its slot runs; None: this process can't have another thread."""
    global _hooked
    try:
        attendant = Attendant(channel, *page.progress_places(page_slot), page)
    except OSError:
        return None
    _attendants.add(attendant)
    if not _hooked:
        _hooked = True
        # A process of several threads that forks is warned of it, and its child inherits what they hold.
        os.register_at_fork(before=_stop_all, after_in_parent=_start_all, after_in_child=_attendants.clear)
    return attendant


def leave(attendant: Attendant | None) -> None:
    """Have a channel attended no longer; before it is closed, and before the page goes."""
    if attendant is not None:
        _attendants.discard(attendant)
        attendant.stop()


def _stop_all() -> None:
    for attendant in list(_attendants):
        attendant.stop()


def _start_all() -> None:
    for attendant in list(_attendants):
        with contextlib.suppress(OSError):  # take-backs are answered after the call then
            attendant.start()
