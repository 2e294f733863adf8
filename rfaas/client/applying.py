"""What workers run of ours on a user's behalf. Must import nothing: each worker imports this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Call a function that travels as an argument (bound methods, partials)."""
    return function(*args, **kwargs)


class Chunk:
    """A function that is called with many arguments in one call (`map` with a chunksize)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, chunk: list[tuple[Any, ...]]) -> list[Any]:
        """Call the function with each tuple of arguments; the first exception ends it."""
        return [self.function(*args) for args in chunk]


class Initializer:
    """A function that each worker calls once, before the first call; what it returns stays there."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> None:  # noqa: ANN401
        """Call it, and return nothing."""
        self.function(*args)

    def __repr__(self) -> str:
        return f"initializer {self.function!r}"


def leave() -> None:
    """End this worker in order, as any function may by `sys.exit`."""
    raise SystemExit(0)
