"""What workers run of ours on a user's behalf. Must import nothing: each worker imports this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Call a function that travels as an argument (bound methods, partials)."""
    return function(*args, **kwargs)


def cached_again(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    """A function with an `lru_cache` of this worker's own."""
    from functools import lru_cache

    cached: Callable[..., Any] = lru_cache(**parameters)(function)
    return cached


class Chunk:
    """A function that is called with many arguments in one call (`map` with a chunksize)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, chunk: list[tuple[Any, ...]]) -> list[Any]:
        """Call the function with each tuple of arguments; the first exception ends it."""
        return [self.function(*args) for args in chunk]


_left: dict[str, Any] = {}
"""Globals of the main program as its initializer left them on this worker."""


class Initializer:
    """A function that each worker calls once, before the first call; what it returns stays there.

    A function of the main program travels by value, with a copy of those globals that it uses. What an initializer sets
    there is meant for the functions that come after it, so they adopt its copy.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> None:  # noqa: ANN401
        """Call it, and return nothing."""
        try:
            self.function(*args)
        finally:
            for names in _globals_of_main(self.function):
                _left.update((name, value) for name, value in names.items() if not name.startswith("__"))

    def __repr__(self) -> str:
        return f"initializer {self.function!r}"


class Adopting:
    """Stands for a function on its way to a worker, where it becomes the function itself, with what was left there."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return adopt, (self.function,)

    def __repr__(self) -> str:
        return repr(self.function)


def adopt(function: Callable[..., object]) -> Callable[..., object]:
    """Give a function of the main program, just unpickled, the globals that the initializer left."""
    for names in _globals_of_main(function):
        names.update(_left)
    return function


def _globals_of_main(function: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """The globals of a function, or those of what is inside a chunk, partial, bound method or class."""
    if isinstance(function, type):
        return [names for part in vars(function).values() for names in _globals_of_main(part)]
    for wrapped in ("function", "func", "__func__", "__wrapped__"):
        function = getattr(function, wrapped, function)
    names = getattr(function, "__globals__", None)
    return [names] if names is not None and function.__module__ == "__main__" else []


def leave() -> None:
    """End this worker in order, as any function may by `sys.exit`."""
    raise SystemExit(0)
