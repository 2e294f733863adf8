"""Reads and writes that nobody waits for at once: a thread does them, all that have come together as one batch.

The thread starts with the first one, and sleeps without the GIL. Buffers are bytes from here on.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from rfaas.memory.gate import Gate
from rfaas.memory.spill import Operation

T = TypeVar("T")
_NOT_CONTIGUOUS: Final = "the buffer is not C-contiguous: copy it (numpy.ascontiguousarray)"
_FIELD_NAMES: Final = re.compile(r":[^:]*:")  # in the format of a structure: PEP 3118
_Item = tuple[Operation, "Future[Any]", Any]


def byte_view(buffer: Any, *, writable: bool) -> memoryview:  # noqa: ANN401 - whatever has bytes
    """The bytes of a contiguous buffer, whatever they stand for.

    Raises:
        TypeError: it is no buffer, or can't be written.
        BufferError: it is not contiguous, or has Python objects in it.
    """
    try:
        view = memoryview(buffer)
    except ValueError:  # numpy's dates, which memoryview knows no letter for
        if not buffer.flags.c_contiguous:
            raise BufferError(_NOT_CONTIGUOUS) from None
        view = memoryview(buffer.reshape(-1).view("u1"))
    if writable and view.readonly:
        raise TypeError(f"a {type(buffer).__name__} that can't be written can't be read into")
    if "O" in _FIELD_NAMES.sub("", view.format):
        raise BufferError("the buffer has Python objects in it, which mean nothing elsewhere: pickle them")
    if not view.c_contiguous:
        raise BufferError(_NOT_CONTIGUOUS)
    if view.nbytes == 0:
        return memoryview(bytearray(0))
    return view.cast("B")


class Operations:
    """The asynchronous operations of one region."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, operation: Operation, result: T) -> Future[T]:
        """Have an operation done; the future has `result` then.

        Raises:
            RuntimeError, MemoryLost: of a memory that is closed or lost; nothing was begun.
        """
        self._gate.check()
        future: Future[T] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rfaas-memory-io", daemon=True)
                self._thread.start()
            self._items.put((operation, future, result))
        return future

    def close(self) -> None:
        """Take no more; what was begun ends as the gate says. Never blocks."""
        self._items.put(None)

    def _run(self) -> None:
        while (first := self._items.get()) is not None:
            batch, last = [first], False
            with contextlib.suppress(queue.Empty):
                while (more := self._items.get_nowait()) is not None:
                    batch.append(more)
                last = True
            self._do(batch)
            if last:
                return

    def _do(self, batch: list[_Item]) -> None:
        wanted = [item for item in batch if item[1].set_running_or_notify_cancel()]
        try:
            self._gate.transfer([operation for operation, _, _ in wanted])
        except BaseException as error:
            for _, future, _ in wanted:
                future.set_exception(error)
            return
        for _, future, result in wanted:
            future.set_result(result)
