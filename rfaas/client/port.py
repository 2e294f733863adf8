"""One channel of a client with the functions it has announced there: builds the frames of 001 that a client sends.

Must not decide what is sent when (the core does) and knows no thread: its owner locks.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from rfaas.client.byte_results import Room
from rfaas.client.effects import Dispatch
from rfaas.client.records import ChannelInfo
from rfaas.client.serial import Definition, Segments
from rfaas_transport._core import Channel, Frame
from rfaas_transport.frame import Kind, Status

FUNCTIONS_PER_CHANNEL: Final = 256  # announced at a time; the one unused for longest makes room
FUNCTION_BYTES_PER_CHANNEL: Final = 64 << 20  # of their blobs, likewise; the one announced last may be larger


class Port:
    """Sends calls on one channel.

    Args:
        channel: owned from here on.
        token: of the poller.
        result_limit_bytes: of each call; 0: what a channel takes.
    """

    def __init__(self, info: ChannelInfo, channel: Channel, token: int, result_limit_bytes: int = 0) -> None:
        self._result_limit_bytes = result_limit_bytes
        self.info = info
        self.channel = channel
        self.token = token
        self.watched = True  # by the poller
        self.writing = False  # the poller watches for room to write
        self._indices: OrderedDict[bytes, tuple[int, Definition]] = OrderedDict()  # by identity, used last comes last
        self._size_bytes = 0  # of the blobs that they keep
        self._free: list[int] = []  # indices that were in use

    def send_call(
        self, dispatch: Dispatch, definition: Definition, segments: Segments, room: Room | None = None
    ) -> None:
        """Send a call, and its function before if this worker doesn't know it. Never blocks.

        The buffers are borrowed while `channel.wants_write`.

        Raises:
            NoCredit, PayloadTooLarge: the call was not sent.
            ChannelClosed, ChannelBroken: the call was not sent, and no other will be.
        """
        remaining_s, call, checkpoint = dispatch.remaining_s, dispatch.call, 0
        if call.checkpoint is not None:
            checkpoint = len(segments)
            segments = [*segments, call.checkpoint]
        self.channel.send(
            Kind.CALL,
            call_id=dispatch.call_id,
            function=self.announce(definition),
            attempt=min(255, call.attempt),
            lease_seq=self.info.lease_seq,
            epoch=self.info.epoch,
            deadline_ns=0 if remaining_s is None else max(1, int(remaining_s * 1e9)),
            invocation=0 if call.first_call_id == dispatch.call_id else call.first_call_id,
            checkpoint=checkpoint,
            out_size=self._result_limit_bytes if room is None else room.asked_bytes(self._result_limit_bytes),
            segments=segments,
        )

    def announce(self, definition: Definition) -> int:
        """Index of a function on this channel; DEFINE is sent if it has none.

        Raises:
            ChannelClosed, ChannelBroken: the function is not known there, and no other will be.
        """
        known = self._indices.get(definition.identity)
        if known is not None:
            self._indices.move_to_end(definition.identity)
            return known[0]
        self._make_room(len(definition.blob))
        index = self._free[-1] if self._free else len(self._indices)
        self.channel.send(Kind.DEFINE, function=index, segments=definition.segments())
        if self._free:
            self._free.pop()
        self._indices[definition.identity] = (index, definition)
        self._size_bytes += len(definition.blob)
        return index

    def indices(self) -> dict[bytes, int]:
        """By identity, the functions that this channel knows."""
        return {identity: index for identity, (index, _) in self._indices.items()}

    def _make_room(self, size_bytes: int) -> None:
        """Forget functions; calls are answered before the next is sent, so nobody refers to the oldest."""
        while self._indices and (
            len(self._indices) >= FUNCTIONS_PER_CHANNEL or self._size_bytes + size_bytes > FUNCTION_BYTES_PER_CHANNEL
        ):
            _, (index, definition) = self._indices.popitem(last=False)
            self._free.append(index)
            self._size_bytes -= len(definition.blob)

    def answer_fetch(self, frame: Frame) -> None:
        """Send the blob that a worker asks for, or say that we lack it. Never blocks.

        Raises:
            ChannelClosed, ChannelBroken: nothing more will be sent.
        """
        digest = b"".join(frame.segments)
        for _, definition in self._indices.values():
            blob = definition.find(digest)
            if blob is not None:
                self.channel.send(Kind.BLOB, call_id=frame.call_id, segments=[blob])
                return
        self.channel.send(Kind.BLOB, call_id=frame.call_id, status=Status.NOT_FOUND)
