"""Calls of one compiled function that come one upon the other on one channel, served without Python between them.

Does what `running.Running` does for any call, in the same order (docs/spec/001-invocation.md section 5), and leaves to
it whatever is not a plain call with a plain end. Must not hold policy. Loaded by workers that run compiled functions.
"""

from __future__ import annotations

from typing import Final

from rfaas_executors._compiled import CAPACITY_BYTES_MAX, NativeFunction, NativeServer, Output
from rfaas_executors._process import StatePage, marked_process_check
from rfaas_executors.byte_calls import told
from rfaas_executors.calls import SAID_BYTES, Outcome
from rfaas_executors.streams import Streams
from rfaas_transport._core import Channel, Frame, Serving
from rfaas_transport.frame import Kind, Status

IN_BYTES_MAX: Final = 65536  # larger inputs cost more than what is saved here


class NativeCalls:
    """The calls of one compiled function on one channel that is polled in memory: shm, verbs.

    Args:
        channel, page, page_slot, lease_seq, epoch: of the connection.
        index: of the function there.
        function: what is called.
        streams: where prints go.
        holder: the client's id, hex.
        watched: a descriptor that answers go through, to be compared before each; -1: they go through none.
    """

    def __init__(
        self,
        channel: Channel,
        page: StatePage,
        page_slot: int,
        lease_seq: int,
        epoch: int,
        index: int,
        function: NativeFunction,
        streams: Streams,
        holder: str,
        watched: int = -1,
    ) -> None:
        self.n_calls = 0  # of the last `run`
        self._page = page  # the server has addresses in it
        self._streams = streams
        self._channel = channel
        self._output: Output | None = None
        self._serving = Serving(channel, Kind.CALL, Kind.RESULT, index, lease_seq, epoch, IN_BYTES_MAX)
        self._server = NativeServer(
            function,
            bytes.fromhex(holder).rjust(16, b"\0"),
            page.places(page_slot),
            marked_process_check(),
            *streams.pipes,
            watched,
        )

    def run(self, soon_s: float, for_ns: int) -> Frame | tuple[Frame, Outcome | None, bool | None] | None:
        """Serve calls until none came for `soon_s` or `for_ns` are over.

        Returns:
            None; or a frame that is no plain call, untouched; or, of a call that was run and whose end is not plain,
            its frame without the payload, its outcome (None: it must not run, it was interrupted) and whether it
            printed (None: unknown).
        """
        self.n_calls = 0
        if self._output is None or not self._output.free:  # an answer in it is still queued
            try:
                self._output = Output(CAPACITY_BYTES_MAX)
            except MemoryError:
                return self._channel.spin(soon_s)
        self._server.begin(self._output, self._streams.unseen_ns)
        came = self._serving.run(self._server.capsule, memoryview(self._output), soon_s, for_ns)
        self.n_calls = self._serving.n_served
        if came is None or isinstance(came, Frame):
            return came
        ended = self._server.end()
        if ended is None:
            return came[0], None, None
        status, segments, needed_bytes = told(*ended)
        least_bytes = 0 if status == Status.OK else SAID_BYTES
        return came[0], Outcome(status, segments, needed_bytes, least_bytes), False if self._server.looked else None
