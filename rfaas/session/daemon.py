"""Becoming a daemon: its own session and streams, nothing inherited by chance, and word to whoever started it.

Runs before anything heavy is imported and before any thread exists. Standard library only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Collection
from typing import Final

LOG_VARIABLE: Final = "RFAAS_LOG"
"""Names the least level that daemons log: debug, info, warning, error."""
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Status:
    """Tells the starter once how the start went: "ok", or what went wrong; silence is a crash.

    Args:
        descriptor: the write end of its pipe; -1: nobody asked.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def say(self, text: str) -> None:
        """Say it; later calls do nothing."""
        if self.descriptor >= 0:
            with contextlib.suppress(BrokenPipeError):  # the starter has lost patience; the next client finds us
                os.write(self.descriptor, text.encode())
            os.close(self.descriptor)
            self.descriptor = -1


def detach(keep: Collection[int]) -> None:
    """Leave the starter's session and process group for good; returns in the daemon only.

    Standard output and error stay as they are, standard input becomes empty, every descriptor not in `keep` is closed.
    The working directory becomes `/`, so that no file system stays busy. Signals have their defaults.
    """
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():  # not the session's leader: opening a terminal never makes it ours
        os._exit(0)
    _empty_standard_input()
    for entry in os.listdir("/proc/self/fd"):
        descriptor = int(entry)
        if descriptor > 2 and descriptor not in keep:
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed already
                os.close(descriptor)
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def configure_logging(default: str) -> None:
    """Log to standard error, from the level that RFAAS_LOG names or else `default`."""
    level = os.environ.get(LOG_VARIABLE, default).upper()
    known = level in logging.getLevelNamesMapping()  # a typing error must not keep a program from its functions
    logging.basicConfig(stream=sys.stderr, level=level if known else default, format=_FORMAT)


def occupy_standard_descriptors() -> None:
    """Open /dev/null as those of 0, 1 and 2 that the starter had closed, for this process and what it starts.

    Call it before any descriptor is made: that would take the place, and it is closed in whatever this process starts.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # POSIX: the lowest number that is free
            os.set_inheritable(descriptor, True)


def _empty_standard_input() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
