"""The standard library: a process pool, and a pipe to one process."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from functions import TABLE

UNDER_WAY = 64


class ProcessPool:
    """ProcessPoolExecutor with one worker."""

    def __init__(self) -> None:
        fork = multiprocessing.get_context("fork")
        self._pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=fork)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        return self._pool.submit(function, *args).result()

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        submit = self._pool.submit
        return [future.result() for future in [submit(function, value) for value in values]]

    def close(self) -> None:
        """See Adapter."""
        self._pool.shutdown()


class Pipe:
    """One process at the other end of a socket pair: a lower bound for pickled calls between two Pythons."""

    def __init__(self) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipe, theirs = fork.Pipe()
        self._process = fork.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        self._pipe.send((TABLE.index(function), args))
        return self._pipe.recv()

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        index, results = TABLE.index(function), []
        for number, value in enumerate(values):
            if number >= UNDER_WAY:
                results.append(self._pipe.recv())
            self._pipe.send((index, (value,)))
        while len(results) < len(values):
            results.append(self._pipe.recv())
        return results

    def close(self) -> None:
        """See Adapter."""
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: Connection) -> None:
    while (message := pipe.recv()) is not None:
        index, args = message
        pipe.send(TABLE[index](*args))
