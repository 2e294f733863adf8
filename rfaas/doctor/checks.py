"""The list of all checks, and how they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rfaas.doctor import cluster, host, rdma, state
from rfaas.doctor.finding import Finding


def examine(state_dir: Path) -> list[Finding]:
    """Make every check, in order."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        *(host.interpreter, host.packages, host.settings, host.limits, host.shared_memory, host.rdma),
        *(rdma.library, rdma.pyverbs, host.encryption),
        *(host.clock, host.cgroup, host.neighbours),
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
