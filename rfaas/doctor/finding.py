"""Findings, and the list of all checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

Severity = Literal["ok", "info", "warning", "error"]
SEVERITIES: Final = ("ok", "info", "warning", "error")


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        check: which, in a word or two.
        severity: ok; info: something is absent that may be; warning: works, but not as well or not for long; error:
            does not work.
        text: what was found.
        remedy: what to do; never empty for warning and error.
    """

    check: str
    severity: Severity
    text: str
    remedy: str = ""


def examine(state_dir: Path) -> list[Finding]:
    """Make every check, in order."""
    from rfaas.doctor import cluster, host, rdma, state

    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        *(host.interpreter, host.packages, host.settings, host.limits, host.shared_memory, host.rdma),
        *(rdma.library, rdma.pyverbs, host.encryption),
        *(host.clock, host.cgroup),
        lambda: state.directory(state_dir),
        lambda: state.locks(state_dir),
        lambda: state.space(state_dir),
        lambda: state.daemons(state_dir),
        lambda: state.allocator(state_dir),
        lambda: state.listening(state_dir),
        *(cluster.munge, cluster.slurm),
    )
    return [finding for check in checks for finding in _made(check)]


def _made(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # one check must not hide the others
        name = getattr(check, "__name__", "check")
        yield Finding(
            name, "warning", f"could not be checked: {type(error).__name__}: {error}", "report this as a fault"
        )
