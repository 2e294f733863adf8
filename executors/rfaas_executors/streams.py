"""Standard output and error of a worker: where they lead, and whether a call has written to them.

Descriptors 1 and 2 lead there, so what C code and child processes print counts too. Must not read what was printed (the
agent does: `output`) and must cost next to nothing when nothing is. Loaded in the user's own environment.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

from rfaas_executors._process import StatePage, count_write, line_buffer_c_output

AS_BEFORE, PIPES, DISCARDED = "", "pipes", "discard"
"""Values of `output` in the message `fork` (see `control`)."""


TRIES: Final = 16  # of a write to a pipe, to learn what one takes


class CountedWriter(io.BufferedWriter):
    """What Python's own streams write through: says whether anything was written, without a system call."""

    def write(self, data: Buffer, /) -> int:
        """As of any buffered writer."""
        count_write()
        return super().write(data)


class Streams:
    """The worker's two streams.

    Attributes:
        page: knows what the agent took from the pipes.
        writers: what Python's own two streams write through, and those streams; empty: not ours.
        write_ns: less time than a write to a pipe takes. A function that was faster has printed nothing but by these.

    Args:
        page: counts what the agent took from the pipes.
        pipes: write ends of standard output and error, owned from here on; empty: there is nobody who takes it.
    """

    def __init__(self, page: StatePage, pipes: tuple[int, ...] = ()) -> None:
        self.page = page
        self.writers: tuple[CountedWriter, ...] = ()
        self.streams: tuple[object, ...] = ()
        self.write_ns = 0
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
        made = cls(page, pipes)
        if output == PIPES:
            made._count()
        return made

    @property
    def pipes(self) -> tuple[int, int]:
        """Descriptors of standard output and error that the agent reads; (-1, -1): nobody does."""
        return self._out_fd, self._err_fd

    @property
    def unseen_ns(self) -> int:
        """A function that took less has printed nothing, unless it did through Python; 0: that can't be known."""
        return self.write_ns if self.streams and (sys.stdout, sys.stderr) == self.streams else 0

    def _count(self) -> None:
        """Have Python's streams, where they are its usual ones, write whole lines through writers that count."""
        writers = []
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name)
            if type(stream) is not io.TextIOWrapper:
                return
            writer = CountedWriter(io.FileIO(descriptor, "w", closefd=False))
            counted = io.TextIOWrapper(
                writer, stream.encoding, stream.errors, newline="\n", line_buffering=True, write_through=True
            )
            setattr(sys, name, counted)
            setattr(sys, f"__{name}__", counted)
            writers.append(writer)
        self.writers, self.streams = tuple(writers), (sys.stdout, sys.stderr)
        self.write_ns = _shortest_write_ns() // 2

    def call_printed(self) -> bool:
        """Write out what Python and C hold back; True if anything was printed since the last time."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # a function has closed, replaced or removed one
            _flush(sys.stdout)
            _flush(sys.stderr)
        return self._out_fd >= 0 and self.page.printed(self._out_fd, self._err_fd)


def _shortest_write_ns() -> int:
    """What a write of one byte to a pipe takes here at least."""
    reader, writer = os.pipe()
    took_ns = []
    for _ in range(TRIES):
        start_ns = time.perf_counter_ns()
        os.write(writer, b".")
        took_ns.append(time.perf_counter_ns() - start_ns)
    os.close(reader)
    os.close(writer)
    return min(took_ns)


def _flush(stream: TextIO | None) -> None:
    """Let what was printed be seen before a result: a killed worker flushes nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.flush()  # type: ignore[union-attr]
