"""Room for connections: a daemon's soft limit on descriptors, which most systems set for interactive programs."""

from __future__ import annotations

import contextlib
import resource


def raise_limit() -> int:
    """Raise this process's soft limit on open descriptors to the hard one, and return what it was before.

    Whoever runs other people's code hands the old value on: programs that use `select`, or close every possible
    descriptor, count on it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the kernel's own ceiling may be lower: then it stays as it was
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft
