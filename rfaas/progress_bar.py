"""`rfaas.progress`: futures as they end, with a progress bar where a person watches.

The bar is drawn by rich (`pip install rfaas[progress]`) on standard error, only if that is a terminal. Elsewhere, and
without rich, nothing is drawn and nothing else changes. Must not load rich before it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, as_completed
from typing import TypeVar

T = TypeVar("T")


def progress(
    futures: Iterable[Future[T]], *, timeout_s: float | None = None, description: str = "calls"
) -> Iterator[Future[T]]:
    """Yield futures as they end, each once, like `concurrent.futures.as_completed`.

        for future in rfaas.progress([ex.submit(f, x) for x in inputs]):
            print(future.result())

    Args:
        futures: of any executor; read at once and whole.
        timeout_s: for all of them, from now; None: no limit.
        description: the words beside the bar.

    Raises:
        TimeoutError: not all ended in time; the rest goes on, and the bar is gone.
    """
    waited = list(futures)
    ended = as_completed(waited, timeout_s)
    return _drawn(ended, len(waited), description) if sys.stderr.isatty() else ended


def _drawn(ended: Iterator[Future[T]], total: int, description: str) -> Iterator[Future[T]]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield from ended
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        for future in ended:
            bar.advance(task)
            yield future
