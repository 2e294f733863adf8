"""Where the session process of somebody is found: its key and its socket's name (docs/spec/004-session.md section 3).

Used on both sides, so it must stay standard library only.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def process_start(pid: int) -> int:
    """Start time of a process in clock ticks after boot: with the pid it names one process for good.

    Raises:
        OSError: there is no such process (or it is hidden from us).
    """
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])  # field 22; the name before may hold anything


def personal_key(alloc_id: str) -> str:
    """Key of the session process that serves this job or login session with that allocator."""
    job = os.environ.get("SLURM_JOB_ID")
    return _key("personal", alloc_id, f"job:{job}" if job else f"login:{_audit_session()}")


def embedded_key(pid: int, start: int) -> str:
    """Key of the session process that serves this process alone."""
    return _key("embedded", str(pid), str(start))


def socket_name(uid: int, key: str) -> str:
    """Address of the session process's abstract unix socket, for `bind` and `connect`."""
    return f"\0rfaas-session-{uid}-{key}"


def is_listed(name: str) -> bool:
    """Whether somebody has this address now, be it a listener or connections that it left; without touching it."""
    return "@" + name[1:] in _addresses()


def listed(uid: int) -> list[str]:
    """The addresses of all session processes of a user on this host."""
    prefix = "@" + socket_name(uid, "")[1:]
    return sorted({f"\0{address[1:]}" for address in _addresses() if address.startswith(prefix)})


def _addresses() -> set[str]:
    return {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _audit_session() -> str:
    try:
        return Path("/proc/self/sessionid").read_text().strip()
    except OSError:  # a kernel without audit
        return ""
