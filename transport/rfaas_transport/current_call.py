"""The call that this process runs now, as the object that whoever runs it makes of it when somebody asks.

At the bottom of the house so that a worker need not load `rfaas` to say it, nor `rfaas` what workers load to ask. What
the object can do is `rfaas.Context`. Must import nothing: it is loaded everywhere.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_make: Callable[[], object] | None = None
_call: object | None = None


def set_current(make: Callable[[], object]) -> None:
    """Say that a call runs from now on; `make` is asked for it once, if anybody wants it: hardly any function does."""
    global _make, _call
    _make, _call = make, None


def end_current() -> object | None:
    """Say that it runs no more; return what was made of it, None if nobody asked."""
    global _make, _call
    call, _make, _call = _call, None, None
    return call


def get_current() -> object | None:
    """The call that runs, None outside of one."""
    global _call
    if _call is None and _make is not None:
        _call = _make()
    return _call
