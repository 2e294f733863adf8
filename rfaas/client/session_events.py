"""What the session process says (docs/spec/004-session.md section 3), as events of the client's core.

Must not touch calls or channels. Unknown messages and keys are passed over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from rfaas.client.events import (
    ChannelOpened,
    ChannelsCondemned,
    Denied,
    Event,
    LeaseEnded,
    LeaseGranted,
    Notice,
    Queued,
)
from rfaas.client.mismatch import Differs
from rfaas.client.printouts import Printed, PrintedAll
from rfaas.client.records import ChannelInfo, Lease, Verdict
from rfaas.client.safe_log import SafeLogger
from rfaas.session.connection import SessionConnection
from rfaas_transport._core import Poller
from rfaas_transport.errors import ReasonCode

_log = SafeLogger(__name__)

Message = dict[str, Any]


Heard = Event | Printed | PrintedAll | Differs
"""Events of the core, and what is none: prints of functions, and how a node differs from here."""


def parse(message: Message) -> Heard | None:
    """Turn a message into the event it means; None if it is of a kind we don't know.

    Raises:
        KeyError, TypeError, ValueError: a key is missing or of another type.
    """
    parser = _PARSERS.get(message["m"])
    return None if parser is None else parser(message)


def _channel(m: Message) -> ChannelOpened:
    info = ChannelInfo(
        number=int(m["channel"]),
        lease=bytes(m["lease"]),
        lease_seq=int(m["lease_seq"]),
        epoch=int(m["epoch"]),
        slot=int(m["slot"]),
        generation=int(m["generation"]),
        node=str(m["node"]),
        medium=str(m.get("medium", "")),
    )
    return ChannelOpened(info, bytes(m.get("key", b"")))


def _lease(m: Message) -> LeaseGranted:
    lease = Lease(
        lease=bytes(m["lease"]),
        lease_seq=int(m["lease_seq"]),
        epoch=int(m["epoch"]),
        slice=bytes(m["slice"]),
        address=str(m["address"]),
        node=str(m["node"]),
        workers=int(m["workers"]),
        ttl_s=float(m["ttl_s"]),
    )
    return LeaseGranted(lease)


def _farewell(m: Message) -> ChannelsCondemned:
    verdict = Verdict(
        reason_code=int(m["reason_code"]),
        last_started=int(m["last_started"]),
        last_done=int(m["last_done"]),
        exit_status=_optional_int(m.get("exit_status")),
        signal=_optional_int(m.get("signal")),
        grace_s=None if m.get("grace_s") is None else float(m["grace_s"]),
        hint=str(m.get("hint") or ""),
    )
    return ChannelsCondemned((int(m["channel"]),), verdict)


def _lost(m: Message) -> ChannelsCondemned:
    verdict = Verdict(reason_code=int(m["reason_code"]), hint=str(m.get("hint") or ""))
    return ChannelsCondemned(tuple(int(number) for number in m["channels"]), verdict)


def _notice(m: Message) -> Notice:
    numbers = tuple(int(number) for number in m["channels"])
    cores = tuple(int(core) for core in m.get("cores") or ())
    node = str(m.get("node") or "")
    return Notice(bytes(m["lease"]), numbers, int(m["reason_code"]), float(m["grace_s"]), node, cores)


def _output(m: Message) -> Printed:
    channel, call_id, stream = int(m["channel"]), int(m["call_id"]), int(m["stream"])
    if stream not in (1, 2):
        raise ValueError(f"stream {stream}")
    return Printed(channel, call_id, stream, bytes(m["data"]), int(m["cut_bytes"]), bool(m["over"]))


def _difference(entry: Sequence[Any]) -> tuple[str, str, str | None]:
    name, here, there = entry
    return str(name), str(here), None if there is None else str(there)


def _optional_int(value: object) -> int | None:
    return value if isinstance(value, int) else None


_PARSERS: Final[dict[str, Callable[[Message], Heard]]] = {
    "channel": _channel,
    "lease": _lease,
    "ended": lambda m: LeaseEnded(bytes(m["lease"]), int(m.get("reason_code", 0))),
    "farewell": _farewell,
    "lost": _lost,
    "notice": _notice,
    "differs": lambda m: Differs(str(m["node"]), tuple(_difference(entry) for entry in m["modules"])),
    "output": _output,
    "output-complete": lambda m: PrintedAll(int(m["channel"]), int(m["call_id"])),
    "queued": lambda m: Queued(str(m.get("reason") or ""), str(m.get("hint") or "")),
    "denied": lambda m: Denied(str(m["code"]), str(m.get("hint") or "")),
}


def log_news(event: Heard) -> None:
    """Log what a user may want to know when calls are slow or go elsewhere."""
    if isinstance(event, Notice):
        reason = ReasonCode(event.reason_code).text if event.reason_code in set(ReasonCode) else event.reason_code
        _log.info("notice lease=%s reason=%s grace_s=%g", event.lease.hex(), reason, event.grace_s)
    elif isinstance(event, Queued):
        _log.info("waiting for workers reason=%s", event.reason)
    elif isinstance(event, Denied):
        _log.error("denied code=%s hint=%s", event.code, event.hint)


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)


def wait_for_end(connection: SessionConnection, poller: Poller, timeout_s: float) -> None:
    """Read until the session process closes the connection, for a limited time.

    Raises:
        SessionEnded: it did; this is the good case.
    """
    deadline_s = time.monotonic() + timeout_s
    while (rest_s := deadline_s - time.monotonic()) > 0:
        if connection.wants_write:
            connection.flush()
            poller.want_write(connection.fileno(), connection.wants_write)
        received = connection.receive()
        if received is None:
            poller.wait(rest_s)
        else:
            close_all(received[1])
