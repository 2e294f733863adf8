"""Where reads and writes of a program go: to the lender's channel, to the file, or nowhere yet. Any thread.

Batches are cut into turns, so that who has to change the way (a move, a spill, the end) waits for one turn only. A
channel that breaks loses nothing: what it had not answered is done again on the next one, for the same bytes in the
same place do no harm twice.
"""

from __future__ import annotations

import copy as copying
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from rfaas.memory.spill import Operation
from rfaas_transport._core import RegionClient
from rfaas_transport.errors import ChannelBroken, ChannelClosed, ProtocolError

TURN_BYTES: Final = 64 << 20
CHUNK_BYTES: Final = 1 << 20  # what was written is remembered so finely


class Store(Protocol):
    """What holds the region's bytes."""

    def transfer(self, operations: Sequence[Operation]) -> int:
        """Do all; a status other than 0 says that one was refused."""

    def abort(self) -> None:
        """Have a transfer that is under way end soon."""


class Wire:
    """A lender's channel as a store: one thread at a time, and closed by any.

    Args:
        client: of the channel; owned from here on.
    """

    def __init__(self, client: RegionClient) -> None:
        self._client = client
        self._lock = threading.Lock()

    @property
    def medium(self) -> str:
        """Of the channel."""
        return self._client.medium

    @property
    def never_was(self) -> bool:
        """Whether it is over a medium that is tried, and nothing has come over it yet."""
        return self._client.medium == "verbs" and not self._client.is_up

    @property
    def why(self) -> str:
        """What ended its channel, for people; empty if nobody said."""
        return self._client.why

    @property
    def n_spans(self) -> int:
        """How many parts of the region are reached without the lender's CPU; `RegionClient.n_spans`."""
        return self._client.n_spans

    @property
    def closed(self) -> bool:
        """True once its channel has ended, as far as this side knows."""
        return self._client.closed

    def transfer(self, operations: Sequence[Operation]) -> int:
        """As `RegionClient.transfer`."""
        with self._lock:
            return self._client.transfer(operations)

    def abort(self) -> None:
        """Have transfers end with ChannelClosed within some 20 ms, and later ones at once."""
        self._client.abort()

    def close(self) -> None:
        """End the channel; repeatable."""
        self._client.abort()
        with self._lock:
            self._client.close()

    def drop_in_child(self) -> None:
        """Close a forked child's copy; the parent's goes on."""
        self._client.close()


class Gate:
    """One way at a time. Ways are changed by one thread, operations come from any.

    Args:
        size_bytes: of the region.
        failed: told the number of a channel that was found to have ended.
    """

    def __init__(self, size_bytes: int, failed: Callable[[int], None]) -> None:
        self._way = threading.Condition()
        self._store: Store | None = None
        self._number = 0  # of the store's channel
        self._error: BaseException | None = None
        self._held = False
        self._failed = failed
        self._written = bytearray(-(-size_bytes // CHUNK_BYTES))
        self._size_bytes = size_bytes

    # --- the way ------------------------------------------------------------------------------------------------

    def open(self, store: Store, number: int) -> None:
        """Send everything here from now on; what is under way elsewhere is given up, and done here again."""
        old = self._store
        if old is not None and old is not store:
            old.abort()
        self._held = True
        with self._way:
            self._store, self._number, self._held = store, number, False
            self._way.notify_all()

    def hold(self) -> None:
        """Have everything wait that has not begun; never blocks."""
        self._held = True

    def wait_idle(self) -> None:
        """After `hold`: return once nothing is under way."""
        with self._way:
            pass

    def fail(self, error: BaseException) -> None:
        """Have everything fail from now on, what waits or is under way too; the first error counts."""
        self._error = self._error or error
        store = self._store
        if store is not None:
            store.abort()
        with self._way:
            self._store = None
            self._way.notify_all()

    @property
    def error(self) -> BaseException | None:
        """What everything fails with."""
        return self._error

    def wait_open(self, timeout_s: float | None) -> bool:
        """Wait until there is a way; False: not within the time.

        Raises:
            BaseException: that of `fail`.
        """
        with self._way:
            there = self._way.wait_for(lambda: self._store is not None or self._error is not None, timeout_s)
            self.check()
            return there

    def check(self) -> None:
        """Raise what everything fails with, if it does.

        Raises:
            BaseException: that of `fail`.
        """
        if self._error is not None:
            raise copy_of(self._error)

    def forget_in_child(self, error: BaseException) -> None:
        """A forked child: nothing of this is its."""
        self._way = threading.Condition()
        self._store, self._error = None, error

    # --- operations ---------------------------------------------------------------------------------------------

    def transfer(self, operations: Sequence[Operation]) -> None:
        """Do all, in order as far as they overlap; blocks until they are done.

        Raises:
            BaseException: that of `fail`; some may be done.
            OSError: the file could not be read or written.
        """
        for turn in _turns(operations):
            while not self._try(turn):
                pass

    def _try(self, turn: list[Operation]) -> bool:
        """Do one turn; False: its channel ended, and another may come."""
        with self._way:
            self._way.wait_for(lambda: self._error is not None or (self._store is not None and not self._held))
            self.check()
            store, number = self._store, self._number
            assert store is not None
            for is_write, offset, data in turn:
                if is_write:
                    self._note(offset, memoryview(data).nbytes)
            try:
                status = store.transfer(turn)
            except (ChannelClosed, ChannelBroken):
                if self._store is store:
                    self._store = None
                self._failed(number)
                return False
        if status:
            raise ProtocolError(f"the memory's server refused a read or write with status {status}")
        return True

    def _note(self, offset: int, size_bytes: int) -> None:
        first, last = offset // CHUNK_BYTES, (offset + size_bytes - 1) // CHUNK_BYTES
        self._written[first : last + 1] = b"\1" * (last + 1 - first)

    def written(self) -> Iterator[tuple[int, int]]:
        """Ranges (offset, size) that were ever written to, in whole chunks."""
        at = self._written.find(1)
        while at >= 0:
            end = self._written.find(0, at)
            end = len(self._written) if end < 0 else end
            offset = at * CHUNK_BYTES
            yield offset, min(end * CHUNK_BYTES, self._size_bytes) - offset
            at = self._written.find(1, end)


def copy_of(error: BaseException) -> BaseException:
    """The same error to be raised once more: each thread's traceback is its own."""
    again = copying.copy(error)
    again.__cause__ = error.__cause__
    return again


def _turns(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """The operations in portions of about TURN_BYTES; empty ones are left out."""
    turn: list[Operation] = []
    n_bytes = 0
    for is_write, offset, data in operations:
        view = memoryview(data).cast("B")
        while len(view):
            part = view[: TURN_BYTES - n_bytes]
            turn.append((is_write, offset, part))
            n_bytes += len(part)
            view, offset = view[len(part) :], offset + len(part)
            if n_bytes >= TURN_BYTES:
                yield turn
                turn, n_bytes = [], 0
    if turn:
        yield turn


def copy(source: Store, target: Store, ranges: Iterator[tuple[int, int]], piece_bytes: int = 16 << 20) -> None:
    """Copy ranges from one store to another.

    Raises:
        ChannelClosed, ChannelBroken: one of the channels ended.
        OSError: a file could not be written.
    """
    buffer = memoryview(bytearray(piece_bytes))
    for offset, size_bytes in ranges:
        end = offset + size_bytes
        while offset < end:
            part = buffer[: min(piece_bytes, end - offset)]
            for store, is_write in ((source, False), (target, True)):
                if status := store.transfer([(is_write, offset, part)]):
                    raise ProtocolError(f"the memory's server refused a copy with status {status}")
            offset += len(part)
