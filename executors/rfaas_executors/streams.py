"""Standard output and error of a worker: where they lead, and whether a call has written to them.

Descriptors 1 and 2 lead there, so what C code and child processes print counts too. Must not read what was printed (the
agent does: `output`) and must cost next to nothing when nothing is. Loaded in the user's own environment.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from rfaas_executors._process import StatePage, line_buffer_c_output

AS_BEFORE, PIPES, DISCARDED = "", "pipes", "discard"
"""Values of `output` in the message `fork` (see `control`)."""


class Streams:
    """The worker's two streams.

    Args:
        page: counts what the agent took from the pipes.
        pipes: write ends of standard output and error, owned from here on; empty: there is nobody who takes it.
    """

    def __init__(self, page: StatePage, pipes: tuple[int, ...] = ()) -> None:
        self._page = page
        self._out_fd, self._err_fd = pipes or (-1, -1)

    @classmethod
    def redirect(cls, page: StatePage, output: str, pipes: tuple[int, ...]) -> Streams:
        """Lead descriptors 1 and 2, and with them all that this process and its children print, where it belongs."""
        for stream in sys.stdout, sys.stderr:  # what was printed before went elsewhere
            _flush(stream)
        if output == DISCARDED:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        elif output == PIPES:
            for descriptor, pipe in zip((1, 2), pipes, strict=True):
                os.dup2(pipe, descriptor)
            line_buffer_c_output()
            if sys.stdout is not None:  # a long call is to be followed while it runs
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        return cls(page, pipes)

    def call_printed(self) -> bool:
        """Write out what Python and C hold back; True if anything was printed since the last time."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # a function has closed, replaced or removed one
            _flush(sys.stdout)
            _flush(sys.stderr)
        return self._out_fd >= 0 and self._page.printed(self._out_fd, self._err_fd)


def _flush(stream: TextIO | None) -> None:
    """Let what was printed be seen before a result: a killed worker flushes nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.flush()  # type: ignore[union-attr]
