"""The call that this process runs now, as the object that whoever runs it made of it.

At the bottom of the house so that a worker need not load `rfaas` to say it, nor `rfaas` what workers load to ask. What
the object can do is `rfaas.Context`. Must import nothing.
"""

from __future__ import annotations

_call: object | None = None


def set_current(call: object | None) -> None:
    """Name the call that runs from now on; None: none does."""
    global _call
    _call = call


def get_current() -> object | None:
    """The call that runs, None outside of one."""
    return _call
