"""The two moments when executors must be looked after though nobody calls them: interpreter exit, and a fork.

**Exit.** Pending calls and their callbacks finish before any `atexit` handler runs, as with the standard executors, by
the same hook: `threading._register_atexit` runs its functions at the start of `threading._shutdown`, while everything
still works. It is private but unchanged from 3.9 to 3.14, and concurrent.futures itself depends on it. `atexit` would
be too late: handlers that a program registers after ours would run before it.

**Fork.** A child has no I/O thread and must not speak on its parent's connections. Its copies of the descriptors are
dropped without a byte sent; leases hang on the parent's pid, not on sockets.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from typing import Final, Protocol

FORKED: Final = "fork: this process is a child, the executor is its parent's; make a new one here"
_EXIT: Final = "interpreter shutdown"


class Served(Protocol):
    """What is looked after (rfaas.client.engine.Engine)."""

    def shutdown(self, *, wait: bool, cancel_queued: bool, why: str) -> None:
        """Finish what is pending."""

    def forget_in_forked_child(self, error: BaseException) -> None:
        """Drop what belongs to the parent."""


_engines: weakref.WeakSet[Served] = weakref.WeakSet()
_hooked = False


def register(engine: Served) -> None:
    """Look after this engine from now on; keeps it no longer alive.

    Raises:
        RuntimeError: the interpreter shuts down.
    """
    global _hooked
    if not _hooked:
        try:
            threading._register_atexit(_finish_all)  # type: ignore[attr-defined]  # see above
        except RuntimeError:  # in words that name its own function; only a thread that outlives the main one gets here
            raise RuntimeError(f"cannot schedule new futures after {_EXIT}") from None
        os.register_at_fork(after_in_child=_forget_all)
        _hooked = True
    _engines.add(engine)


def _finish_all() -> None:
    for engine in list(_engines):
        engine.shutdown(wait=True, cancel_queued=False, why=_EXIT)


def _forget_all() -> None:
    error = RuntimeError(f"the call is not this process's after {FORKED}")
    for engine in list(_engines):
        engine.forget_in_forked_child(error)
    _engines.clear()


def drop_descriptors(descriptors: Iterable[int]) -> None:
    """Let go of what these descriptors refer to, and keep the numbers taken.

    The objects that own them stay whole: whatever they still do hits /dev/null, and never a number that was given to
    somebody else meanwhile. A socket is neither shut down nor reset by this: the parent goes on using it.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)
