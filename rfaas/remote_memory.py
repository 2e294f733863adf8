"""`rfaas.RemoteMemory`: memory of another node, read and written by offsets, as a program sees it.

Must not start anything at import and decides nothing: `rfaas.memory` does (docs/spec/008-memory.md).
"""

from __future__ import annotations

import concurrent.futures
import operator
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from rfaas.client.reclaims import ReclaimNotice, Subscription
from rfaas.memory import events as on
from rfaas.memory.keeper import Keeper
from rfaas.memory.operations import Operations, byte_view
from rfaas.memory.options import configure

if TYPE_CHECKING:
    import asyncio

    import numpy.typing as npt
    from typing_extensions import Buffer

    from rfaas.memory.arrays import RemoteArray

    BufferLike = Buffer | npt.NDArray[Any]  # numpy's stubs say so from Python 3.12 on


class RemoteMemory:
    """So many bytes of memory on another node, or on this one, zero at first; nobody else reaches them.

    Made from what a cluster's nodes leave idle: where `rfaas up` serves, the allocator finds a lender; without one a
    process on this machine lends. The constructor returns once there is a lender. Bytes are read and written by any
    thread, in place of offsets into a file:

        with rfaas.RemoteMemory("4GiB", when_reclaimed="spill") as memory:
            memory.write(0, state)          # any contiguous buffer: bytes, numpy arrays
            memory.readinto(0, state)
            field = memory.array((512, 512, 512), "f8")
            field[10] = plane

    A write has arrived when it returns. Overlapping operations of one thread happen in their order; those of several
    threads, and asynchronous ones beside others, in no particular one.

    Memory goes back to its owner when he wants it: at a reclaim, with the notice that functions get too. What becomes
    of the content then is `when_reclaimed`. A lender that dies takes it along in any case: MemoryLost.

    Args:
        size: bytes, or "4GiB".
        when_reclaimed: "lose": reads and writes go on through the grace, then they raise MemoryLost. "move": the
            content is copied to another lender, within the grace; reads and writes wait meanwhile. "spill": to a file
            of this program, which they then go to. If that fails: MemoryLost.
        spill_dir: where that file is made; the temporary directory. It has no name, and goes with the program.
        allocator, transport, transport_security, placement, acquire_timeout_s, daemon_python: as of `rfaas.Executor`.

    Attributes:
        size_bytes: as it was asked for.

    Raises:
        ConfigError: an argument is wrong; nothing was started.
        AcquireTimeout: no lender within `acquire_timeout_s`; LeaseDenied: there never will be one;
            AllocatorUnavailable: nobody can be asked. Nothing is held in any of these cases.
    """

    def __init__(
        self,
        size: str | int,
        *,
        when_reclaimed: Literal["lose", "move", "spill"] | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        allocator: str | os.PathLike[str] | None = None,
        transport: str | None = None,
        transport_security: Literal["trusted", "encrypt"] | None = None,
        placement: str | None = None,
        acquire_timeout_s: float | str | None = None,
        daemon_python: str | os.PathLike[str] | None = None,
    ) -> None:
        options = configure(
            size,
            when_reclaimed=when_reclaimed,
            spill_dir=spill_dir,
            allocator=allocator,
            transport=transport,
            transport_security=transport_security,
            placement=placement,
            acquire_timeout_s=acquire_timeout_s,
            daemon_python=daemon_python,
        )
        self.size_bytes = options.size_bytes
        self._keeper = Keeper(options)
        self._operations = Operations(self._keeper.gate)
        self._keeper.start()
        finalizer = weakref.finalize(self, _abandon, self._keeper, self._operations)
        finalizer.atexit = False  # exit has another way: rfaas.client.lifetime
        try:
            self._keeper.gate.wait_open(None)
            self.read(0, 1)  # its server is up, and has the region
            self._keeper.post(on.Reached())
        except BaseException:  # nobody lends, or a KeyboardInterrupt
            self.close()
            raise

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def stage(self) -> str:
        """Where the content is: "serving" (at a lender), "leaving" (he wants it back), "spilled", "lost", "closed"."""
        return self._keeper.stage.value

    @property
    def node(self) -> str:
        """The lender's node; empty: there is none any more."""
        return self._keeper.node

    @property
    def medium(self) -> str:
        """What bytes travel over: "shm", "verbs", "unix", "tcp", "tls"; "file" once spilled."""
        return self._keeper.medium

    def __len__(self) -> int:
        return self.size_bytes

    def __repr__(self) -> str:
        where = f" on {self.node} over {self.medium}" if self.node else ""
        return f"<RemoteMemory {self.size_bytes} bytes {self.stage}{where}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an rfaas.RemoteMemory can't be pickled: it belongs to the program that borrowed it")

    # --- reading and writing ------------------------------------------------------------------------------------

    def read(self, offset: int, size_bytes: int) -> bytearray:
        """The bytes from `offset` on.

        Raises:
            ValueError: the range is not inside of the memory; TypeError: a number is no integer. Nothing was read.
            MemoryLost: they are gone.
            RuntimeError: after `close`, or in a forked child.
            OSError: the spill file can't be read.
        """
        offset, size_bytes = self._range(offset, size_bytes)
        data = bytearray(size_bytes)
        self._keeper.gate.transfer([(False, offset, data)])
        return data

    def readinto(self, offset: int, buffer: BufferLike) -> int:
        """Fill a writable contiguous buffer, as a numpy array is, with the bytes from `offset` on; return how many.

        Raises:
            TypeError, BufferError: it is no such buffer; nothing was read.
            Others: as `read`.
        """
        return self.readv([(offset, buffer)])

    def write(self, offset: int, data: BufferLike) -> int:
        """Write a contiguous buffer at `offset`; return how many bytes.

        Raises: as `readinto`. After an error some may be written.
        """
        return self.writev([(offset, data)])

    def readv(self, parts: Iterable[tuple[int, BufferLike]]) -> int:
        """As `readinto` for many (offset, buffer), in one go; return the sum."""
        operations = [(False, *self._part(offset, buffer, writable=True)) for offset, buffer in parts]
        self._keeper.gate.transfer(operations)
        return sum(len(view) for _, _, view in operations)

    def writev(self, parts: Iterable[tuple[int, BufferLike]]) -> int:
        """As `write` for many (offset, data), in one go and in this order; return the sum."""
        operations = [(True, *self._part(offset, data, writable=False)) for offset, data in parts]
        self._keeper.gate.transfer(operations)
        return sum(len(view) for _, _, view in operations)

    def _part(self, offset: int, buffer: BufferLike, *, writable: bool) -> tuple[int, memoryview]:
        view = byte_view(buffer, writable=writable)
        return self._range(offset, len(view))[0], view

    def _range(self, offset: int, size_bytes: int) -> tuple[int, int]:
        """The two as Python's integers, which numpy's are not: those wrap around at their 32 bits, or their 8."""
        start, n_bytes = operator.index(offset), operator.index(size_bytes)
        if isinstance(offset, bool) or start < 0 or n_bytes < 0 or start + n_bytes > self.size_bytes:
            raise ValueError(
                f"bytes {offset} to {start + n_bytes} are not inside of this memory, which has {self.size_bytes}"
            )
        return start, n_bytes

    # --- asynchronously -----------------------------------------------------------------------------------------

    def read_async(self, offset: int, size_bytes: int) -> concurrent.futures.Future[bytearray]:
        """Begin a `read`; the future has the bytes. Errors that `read` raises at once are raised here."""
        offset, size_bytes = self._range(offset, size_bytes)
        data = bytearray(size_bytes)
        return self._operations.submit((False, offset, memoryview(data)), data)

    def readinto_async(self, offset: int, buffer: BufferLike) -> concurrent.futures.Future[int]:
        """Begin a `readinto`; leave the buffer alone until the future is done."""
        offset, view = self._part(offset, buffer, writable=True)
        return self._operations.submit((False, offset, view), len(view))

    def write_async(self, offset: int, data: BufferLike) -> concurrent.futures.Future[int]:
        """Begin a `write`; leave the data alone until the future is done."""
        offset, view = self._part(offset, data, writable=False)
        return self._operations.submit((True, offset, view), len(view))

    def aread(self, offset: int, size_bytes: int) -> asyncio.Future[bytearray]:
        """`read` for a coroutine: `data = await memory.aread(0, 100)`. Begun at once, not when it is awaited."""
        return _wrap(self.read_async(offset, size_bytes))

    def areadinto(self, offset: int, buffer: BufferLike) -> asyncio.Future[int]:
        """`readinto` for a coroutine."""
        return _wrap(self.readinto_async(offset, buffer))

    def awrite(self, offset: int, data: BufferLike) -> asyncio.Future[int]:
        """`write` for a coroutine."""
        return _wrap(self.write_async(offset, data))

    # --- arrays -------------------------------------------------------------------------------------------------

    def array(self, shape: int | Sequence[int], dtype: Any = "f8", *, offset: int = 0) -> RemoteArray:  # noqa: ANN401
        """A numpy-like view of a part of the memory, in C order: slices of it are read and assigned.

        Args:
            offset: in bytes, where it begins.

        Raises:
            ValueError: it does not fit; TypeError: the dtype has Python objects or no bytes in it, or a number
                is no integer.
        """
        from rfaas.memory.arrays import RemoteArray

        return RemoteArray(self, shape, dtype, offset)

    # --- its life -----------------------------------------------------------------------------------------------

    def on_reclaim(self, callback: Callable[[ReclaimNotice], object]) -> Subscription:
        """Have `callback(notice)` called when the memory goes back to its owner; as `Executor.on_reclaim`.

        With "lose" the program has `grace_s` to read what it needs.
        """
        return self._keeper.reclaims.subscribe(callback)

    def close(self) -> None:
        """Give the memory back; its content is gone. Repeatable. Reads and writes under way end with RuntimeError."""
        self._operations.close()
        self._keeper.close()

    def __enter__(self) -> RemoteMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False


def _abandon(keeper: Keeper, operations: Operations) -> None:
    operations.close()
    keeper.abandon()


def _wrap(future: concurrent.futures.Future[Any]) -> asyncio.Future[Any]:
    import asyncio

    return asyncio.wrap_future(future)
