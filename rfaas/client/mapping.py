"""`Executor.map`: calls are submitted as their arguments are read, results are handed out in the arguments' order.

Must not know engines or workers: it takes an iterator that submits a call at each step.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

from rfaas.client.futures import Future

T = TypeVar("T")


def check_sizes(chunksize: int, buffersize: int | None) -> None:
    """Refuse what makes no sense, before anything is submitted.

    Raises:
        ValueError: a size is below 1.
        TypeError: buffersize is neither a whole number nor None.
    """
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be >= 1 or None.")


def chunks(arguments: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Cut arguments into lists of `size`, the last one shorter."""
    while part := list(itertools.islice(arguments, size)):
        yield part


def in_order(
    submitted: Iterator[Future[T]], buffersize: int | None, deadline_s: float | None
) -> Generator[T, None, None]:
    """Submit now, all or `buffersize` of them; yield results in order; cancel the rest when the caller stops early.

    Args:
        submitted: submits one call a step. What it raises is an exception of the caller's own arguments: it comes out
            of here at once if it meets the first `buffersize`, else where the next argument was to be read.
        deadline_s: monotonic; a result that is not there by then when it is asked for is a TimeoutError.
    """
    futures = deque(itertools.islice(submitted, buffersize))
    return _results(futures, submitted, 0 if buffersize is None else 1, deadline_s)


def _results(
    futures: deque[Future[T]], more: Iterator[Future[T]], refill: int, deadline_s: float | None
) -> Generator[T, None, None]:
    try:
        while futures:
            rest_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            futures[0].result(rest_s)  # before it leaves the deque: a timed-out one is cancelled like the rest
            futures.extend(itertools.islice(more, refill))  # works on while the caller looks at this result
            # Nothing here keeps the future or its result while the caller has it.
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


def flatten(parts: Generator[Iterable[T], None, None]) -> Generator[T, None, None]:
    """Yield the elements of each part, letting go of each; closing it closes `parts`."""
    try:
        for part in parts:
            elements = deque(part)
            del part
            while elements:
                yield elements.popleft()
    finally:
        parts.close()
