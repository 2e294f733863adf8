"""rfaas, embedded, one worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import loopback

import rfaas


class Invoke:
    """`ex.invoke(f, x)` over shared memory."""

    def __init__(self, executor: rfaas.Executor | None = None) -> None:
        self.executor = executor or rfaas.Executor(max_workers=1, allocator="embedded", transport="shm")

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        return self.executor.invoke(function, *args)

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        submit = self.executor.submit
        return [future.result() for future in [submit(function, value) for value in values]]

    def close(self) -> None:
        """See Adapter."""
        self.executor.shutdown()


class Submit(Invoke):
    """`ex.submit(f, x).result()` over shared memory."""

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        return self.executor.submit(function, *args).result()


class Tcp(Invoke):
    """`ex.invoke(f, x)` over loopback TCP, with an allocator and an agent of its own."""

    def __init__(self) -> None:
        self._daemons = contextlib.ExitStack()
        state_dir = self._daemons.enter_context(loopback.workers())
        super().__init__(rfaas.Executor(max_workers=1, allocator=state_dir, transport="tcp"))

    def close(self) -> None:
        """See Adapter."""
        super().close()
        self._daemons.close()
