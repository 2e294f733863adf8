"""What an agent needs that comes of no Slurm job: a lasting name, one of a kind, and words for people.

Must not decide anything about leases. Specs: docs/spec/002-lease.md section 1, docs/spec/003-control.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TextIO

from rfaas.control.address import AllocatorAddress
from rfaas_transport.errors import ConfigError

MACHINE_ID: Final = Path("/etc/machine-id")


def slice_key(secret: bytes, label: str, *, source: str = "hand") -> str:
    """What names the slice that this host gives to an allocator, also after a restart of agent or host.

    Args:
        secret: of the allocator: hosts may serve several.
        label: tells apart agents of one user on one host.
        source: tells those that somebody starts by hand from the one of `rfaas up`.
    """
    machine_id = ""
    with contextlib.suppress(OSError):
        machine_id = MACHINE_ID.read_text().strip()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{source}:{alloc_id(secret)}:{socket.gethostname()}:{machine_id}:{namespace}:{os.getuid()}:{label}"


def alloc_id(secret: bytes) -> str:
    """The id of the allocator that has this secret (003, State directory)."""
    return hashlib.sha256(b"rfaas alloc_id" + secret).hexdigest()[:32]


def claim(slice_id: bytes, label: str) -> socket.socket:
    """Be the only agent of this slice here, as long as the returned socket is open; do it before `sweep`.

    Raises:
        ConfigError: another one lives; nothing of it was touched.
    """
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claimed.bind(f"\0rfaas-slice-{os.getuid()}-{slice_id.hex()}")
    except OSError as error:
        claimed.close()
        raise ConfigError(
            f"an agent with label {label!r} serves this allocator from this host already",
            hint="stop it with SIGTERM, or give this one another --label",
        ) from error
    return claimed


def address_at(where: str, credentials: Path, secret: bytes) -> AllocatorAddress:
    """The allocator at "host:port", for a host that does not see its state directory.

    Args:
        where: what the allocator printed for TLS.
        credentials: a private directory with copies of `secret`, `tls.key` and `tls.crt`.
        secret: read from there.
    """
    return AllocatorAddress(
        state_dir=credentials, unix="", tls=where, host="", netns=0, pid=0, started_boot_ns=0, alloc_id=alloc_id(secret)
    )


class Announcer:
    """Says on standard output how it goes, as text or one JSON object a line.

    From its making on, what functions print goes to standard error, so that nothing mixes with these lines.
    """

    def __init__(self, form: str, about: Mapping[str, Any]) -> None:
        self._as_json = form == "json"
        self._about = dict(about)
        self._out: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        sys.stdout.flush()
        os.dup2(2, 1)
        self._trouble = ""

    def happened(self, event: str, fields: Mapping[str, object]) -> None:
        """Take a record of the agent's core; most are nothing for people."""
        if event == "epoch":
            gib = self._about["memory_bytes"] / 2**30
            self._say(
                {"event": "joined", "epoch": fields["epoch"], **self._about},
                f"joined as {self._about['node']} with {self._about['cores']} cores and {gib:.1f} GiB; "
                "SIGTERM gives them back",
            )
        elif event == "reclaim_sig":
            grace_s = fields["grace_s"]
            self._say(
                {"event": "leaving", "reason": fields["reason"], "grace_s": grace_s},
                f"giving everything back ({fields['reason']}) within {grace_s:g} s",
            )

    def unreachable(self, error: Exception) -> None:
        """The allocator does not answer; said once for each cause."""
        why = str(error).partition("\n")[0]
        if why != self._trouble:
            self._trouble = why
            self._say({"event": "waiting", "why": why}, f"waiting for the allocator: {why}")

    def left(self) -> None:
        """Everything is given back."""
        self._say({"event": "left"}, "left; nothing of it runs any more")

    def _say(self, value: dict[str, Any], text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more: no reason to stop lending
            if self._as_json:
                print(json.dumps({"meta": {"schema": "rfaas/1"}, **value}), file=self._out, flush=True)
            else:
                print(f"rfaas agent: {text}", file=self._out, flush=True)
