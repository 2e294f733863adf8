"""What a worker prints, taken by its agent: bounded, in order, and complete before the call's result counts.

Two pipes hold no more than the kernel gives them. A call gets `limit_bytes`; what goes beyond is taken too, so that
nothing ever waits for it, and dropped inside the kernel. Must not decide where output goes: it posts events.
Spec: docs/spec/001-invocation.md section 9. The worker's side: `streams`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Callable

from rfaas_executors import agent_events as on
from rfaas_executors._process import StatePage

CHUNK_BYTES = 32 << 10  # what one message to a client carries (004: a packet has at most 128 KiB)
DROP_BYTES = 1 << 20  # as much as a pipe can be made to hold without privileges
BACKLOG_BYTES = 4 << 20  # that waits for a session; more is left in the pipes, and who prints waits too
PAUSE_S = 0.02  # before a pipe is looked at again then
LAST_BYTES = 64 << 20  # taken at a call's end at most, when somebody goes on printing
_STREAMS = (1, 2)

Running = Callable[[], tuple[int, int]]
"""Channel and number of the call that was started last."""


class WorkerOutput:
    """Both streams of one worker. Made in the event loop; `close` must be called.

    Args:
        worker: its number.
        limit_bytes: of each call, both streams together.
        page: where the worker sees that something was taken.
        running: asked whose output it is.
        post: takes events.
        backlog_bytes: what waits to be sent to the session that has most.
    """

    def __init__(
        self,
        worker: int,
        limit_bytes: int,
        page: StatePage,
        running: Running,
        post: Callable[[on.Event], None],
        backlog_bytes: Callable[[], int],
    ) -> None:
        self._worker = worker
        self._limit_bytes = limit_bytes
        self._page = page
        self._running = running
        self._post = post
        self._backlog_bytes = backlog_bytes
        self._loop = asyncio.get_running_loop()
        self._call = (0, 0)
        self._room = limit_bytes
        self._cut = {1: 0, 2: 0}  # bytes of this call that were dropped
        self._pipes: dict[int, int] = {}  # read ends by stream
        self._nowhere = -1

    def open(self) -> tuple[int, int]:
        """Make the pipes; return the write ends of stdout and stderr, which are the caller's.

        Raises:
            OSError: there is no descriptor left; nothing was made.
        """
        out, their_out = os.pipe2(os.O_CLOEXEC)
        try:
            err, their_err = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(out)
            os.close(their_out)
            raise
        self._pipes = {1: out, 2: err}
        for stream, pipe in self._pipes.items():
            os.set_blocking(pipe, False)
            self._loop.add_reader(pipe, self._on_readable, stream)
        return their_out, their_err

    def _on_readable(self, stream: int) -> None:
        if self._backlog_bytes() > BACKLOG_BYTES:
            self._loop.remove_reader(self._pipes[stream])
            self._loop.call_later(PAUSE_S, self._look_again, stream)
        else:
            self._take(stream)

    def _look_again(self, stream: int) -> None:
        if stream in self._pipes:
            self._loop.add_reader(self._pipes[stream], self._on_readable, stream)

    def _take(self, stream: int) -> int:
        """Take once from a pipe that holds something; return the number of bytes."""
        self._page.take_output()
        call = self._running()
        if call != self._call:
            self._end_call()
            self._call, self._room = call, self._limit_bytes
        kept = b""
        try:
            if self._room:
                kept = os.read(self._pipes[stream], min(CHUNK_BYTES, self._room))
                taken = len(kept)
            else:
                taken = self._drop(self._pipes[stream])
        except BlockingIOError:
            return 0
        if not taken:  # nobody holds the other end: the worker is dead
            self._loop.remove_reader(self._pipes[stream])
            return 0
        self._room -= len(kept)
        first_cut = not kept and not self._cut[stream]
        self._cut[stream] += taken - len(kept)
        if kept or first_cut:
            self._say(stream, kept)
        return taken

    def _drop(self, pipe: int) -> int:
        """Take what a pipe holds without ever looking at it."""
        if self._nowhere < 0:
            self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        if self._cut == {1: 0, 2: 0}:  # a flood costs both processes as many switches as it fills the pipe
            with contextlib.suppress(OSError):  # the user's pipes hold too much already
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, DROP_BYTES)
        return os.splice(pipe, self._nowhere, DROP_BYTES, flags=os.SPLICE_F_NONBLOCK)

    def _say(self, stream: int, data: bytes = b"", *, over: bool = False) -> None:
        channel, call_id = self._call
        self._post(on.Printed(self._worker, channel, call_id, stream, data, self._cut[stream], over))

    def _end_call(self) -> None:
        """Say how much of the call's output was cut, if any was."""
        for stream in _STREAMS:
            if self._cut[stream]:
                self._say(stream, over=True)
                self._cut[stream] = 0

    def complete(self, channel: int, call_id: int) -> None:
        """A call is over: take all that it printed, then say that there is no more of it."""
        self._take_all()
        self._end_call()
        self._post(on.PrintedAll(self._worker, channel, call_id))

    def _take_all(self) -> None:
        for stream, pipe in self._pipes.items():
            taken = 0
            while _held_bytes(pipe) and taken < LAST_BYTES:
                taken += self._take(stream)

    def close(self) -> None:
        """The worker is dead: take what it left, then let go. Repeatable."""
        self._take_all()
        if self._pipes:
            self.complete(*self._call)
        for pipe in self._pipes.values():
            self._loop.remove_reader(pipe)
            os.close(pipe)
        self._pipes = {}
        if self._nowhere >= 0:
            os.close(self._nowhere)
            self._nowhere = -1


def _held_bytes(pipe: int) -> int:
    with contextlib.suppress(OSError):
        held: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
        return held
    return 0
