"""Room for connections: a daemon's soft limit on descriptors, which most systems set for interactive programs."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

from rfaas_transport.errors import ConfigError

LEAST: Final = 24  # with fewer a daemon can't take the connection of one agent, and would try for ever


def raise_limit() -> int:
    """Raise this process's soft limit on open descriptors to the hard one, and return what it was before.

    Whoever runs other people's code hands the old value on: programs that use `select`, or close every possible
    descriptor, count on it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the kernel's own ceiling may be lower: then it stays as it was
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def require_some() -> None:
    """See that a daemon that has raised its limit can serve anybody at all.

    Raises:
        ConfigError: it has fewer than LEAST descriptors; nothing has changed.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < LEAST:
        raise ConfigError(
            f"a process here may open {limit} descriptors, and a daemon needs {LEAST} at least",
            hint="raise the hard limit where the program is started: ulimit -Hn, LimitNOFILE= of a service",
        )
