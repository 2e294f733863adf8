"""Asking the site's allocator for a grant, as the user that munged says one is.

Spec: docs/spec/010-node-agent.md section 7.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rfaas.control.messages import Account, HolderId, LeaseId, LeaseSeq, SliceId, Usage
from rfaas.site.grant import Grant
from rfaas_transport.errors import AllocatorUnavailable, LeaseDenied, ProtocolError, RfaasError
from rfaas_transport.handshake import handshake_blocking
from rfaas_transport.messages import LENGTH_BYTES, Message, decode, pack
from rfaas_transport.munge import Munge
from rfaas_transport.munge_handshake import MungeDialer

TIMEOUT_S = 10.0
LIMIT_BYTES = 4096
SERVICE = {"service": "grants"}


class GrantRefused(LeaseDenied):
    """The site's allocator grants nothing of the kind now.

    Attributes:
        refusal: its code (010 section 7): "no-room", "quota", "unknown-node", "bad-want".
    """

    refusal = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant as it travels, what it says, and where the node's agent listens."""

    signed: bytes
    grant: Grant
    address: str


class SiteAllocator:
    """One connection to the site's allocator; a context manager.

    Args:
        address: "host:port".
        munge: of this host.
        allocator_uid: whose process it has to be.

    Raises:
        AllocatorUnavailable: nobody answers there.
        AuthenticationFailed: it is somebody else, or munge failed; NotAllowed: this user may not come in.
    """

    def __init__(self, address: str, munge: Munge, *, allocator_uid: int = 0, timeout_s: float = TIMEOUT_S) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._sock = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
        except (OSError, ValueError) as error:
            raise AllocatorUnavailable(
                f"the site's allocator at {address} does not answer: {error}",
                hint="see that it runs there, and which address it was given",
            ) from error
        try:
            handshake_blocking(self._sock, MungeDialer(allocator_uid, "session", SERVICE, munge=munge), timeout_s)
        except RfaasError:
            self._sock.close()
            raise

    def __enter__(self) -> SiteAllocator:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def want(self, cores: int, memory_bytes: int, lasts_s: int, node: str = "") -> Granted:
        """A grant for so much, on any node or on this one.

        Raises:
            GrantRefused: not now; the message says why.
            AllocatorUnavailable: the connection broke; what was granted, if anything, ends unused.
        """
        answer = self._ask(
            {"m": "want", "cores": cores, "memory_bytes": memory_bytes, "lasts_s": lasts_s, "node": node}
        )
        if answer["m"] == "refused":
            error = GrantRefused(
                f"the site's allocator refused: {answer.get('code')}", hint=str(answer.get("hint", ""))[:500]
            )
            error.refusal = str(answer.get("code", ""))
            raise error
        signed, address = answer.get("grant"), answer.get("address")
        if answer["m"] != "granted" or not isinstance(signed, bytes) or not isinstance(address, str):
            raise ProtocolError(f"the site's allocator answered {answer['m'][:32]!r}")
        return Granted(signed, Grant.unpack(signed), address)

    def unused(self, slice_id: bytes) -> None:
        """Say that this grant came to nothing or that its slice is over, so that others get it sooner."""
        self._ask({"m": "unused", "slice": slice_id})

    def accounts(self, *, everybody: bool = False) -> Iterator[Account]:
        """What grants of this user cost, in the order in which they were made.

        Args:
            everybody: all of them, for root and the allocator's own user.

        Raises:
            AllocatorUnavailable: the connection broke; what was told before is right.
        """
        after: object = [0, b""]
        while after is not None:
            answer = self._ask({"m": "accounts", "after": after, "all": everybody})
            rows, after = answer.get("rows"), answer.get("next")
            if answer["m"] != "accounts" or not isinstance(rows, list):
                raise ProtocolError(f"the site's allocator answered {answer['m'][:32]!r}")
            yield from map(_account, rows)

    def tell(self, rules: Mapping[str, str], for_s: int, *, job: int | None = None) -> None:
        """Have nodes left alone for so long, by name and why; for root and the allocator's own user.

        Args:
            rules: in a few hundred names a message at most; empty: just that Slurm was seen.
            job: it is about to start on these nodes, whose slices get their notice now.

        Raises:
            GrantRefused: this user may not say so.
        """
        about = {"m": "leave"} if job is None else {"m": "warn", "job": job}
        answer = self._ask({**about, "nodes": dict(rules), "for_s": for_s})
        if answer["m"] != "noted":
            error = GrantRefused(
                f"the site's allocator does not listen: {answer.get('code')}", hint=str(answer.get("hint"))
            )
            error.refusal = str(answer.get("code", ""))
            raise error

    def _ask(self, message: dict[str, Any]) -> Message:
        try:
            self._sock.sendall(pack(message, LIMIT_BYTES))
            length = int.from_bytes(self._exactly(LENGTH_BYTES), "little")
            if not 1 <= length <= LIMIT_BYTES:
                raise ProtocolError("the site's allocator sent a message of another length")
            return decode(self._exactly(length), LIMIT_BYTES)
        except OSError as error:
            raise AllocatorUnavailable(f"the site's allocator left in the middle: {error}") from error

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._sock.recv(size - len(data))
            if not more:
                raise ConnectionResetError("it hung up")
            data += more
        return data


def _account(row: Any) -> Account:  # noqa: ANN401 - what came over the wire
    try:
        return Account(
            lease_id=LeaseId(bytes(row["lease_id"])),
            lease_seq=LeaseSeq(int(row["lease_seq"])),
            holder=HolderId(bytes(16)),
            holder_name="site grant",
            uid=int(row["uid"]),
            slice_id=SliceId(bytes(row["lease_id"])),
            node=str(row["node"]),
            job_id="",
            workers=0,
            cores=int(row["cores"]),
            memory_bytes=int(row["memory_bytes"]),
            start_unix_s=float(row["start_unix_s"]),
            end_unix_s=None if row["end_unix_s"] is None else float(row["end_unix_s"]),
            reason=str(row["reason"]),
            usage=Usage(allocated_ns=int(row["allocated_ns"])),
            cost=float(row["cost"]),
            currency=str(row["currency"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"an account of the site can't be read: {error}") from error
