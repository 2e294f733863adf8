"""Where a cluster's logs are; kept after a failed test and shown in its report."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from cluster.rig.settings import REPOSITORY, USERS, Layout

KEPT = REPOSITORY / "out" / "cluster"  # out/ is never committed
TAIL_LINES = 25
USER_PATTERNS = ("*.log", "*.out", "*.err", ".local/state/rfaas/**/*.log", ".cache/rfaas/**/*.log")
LARGEST_KEPT_BYTES = 50_000_000


def keep_and_show(layout: Layout, test_name: str) -> str:
    """Copy the cluster's logs and the users' to a folder named after the test; return its path and their tails."""
    folder = KEPT / "".join(c if c.isalnum() or c in "-_." else "_" for c in test_name)[-120:]
    shutil.rmtree(folder, ignore_errors=True)
    parts = [f"logs: {folder}"]
    for name, log in _logs(layout):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, folder / name)
        parts.append(f"--- {name}\n{_tail(log)}")
    return "\n".join(parts)


def tails(layout: Layout) -> str:
    """The ends of all logs."""
    return "\n".join(f"--- {name}\n{_tail(log)}" for name, log in _logs(layout))


def _logs(layout: Layout) -> Iterator[tuple[str, Path]]:
    """Name and path of each non-empty log; users' links are not followed out of their homes."""
    found = [(f"{log.parent.parent.name}/{log.name}", log) for log in sorted(layout.root.glob("nodes/*/log/*.log"))]
    for account in USERS:
        home = layout.homes / account.name
        logs = {log for pattern in USER_PATTERNS for log in home.glob(pattern)}
        found += [(f"{account.name}/{log.relative_to(home)}", log) for log in sorted(logs)]
    for name, log in found:
        if not log.is_symlink() and log.is_file() and 0 < log.stat().st_size <= LARGEST_KEPT_BYTES:
            yield name, log


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
