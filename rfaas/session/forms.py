"""Leases as messages say them, and back (docs/spec/004-session.md section 3). Pure functions."""

from __future__ import annotations

from rfaas.control.messages import Granted, HolderId, LeaseId, Waiting
from rfaas.session.state import Channel, Lease
from rfaas_transport.messages import Message


def resumed_lease(client: HolderId, entry: Message) -> Lease:
    """The lease that a client wants to go on with, with its channels.

    Raises:
        KeyError, TypeError, ValueError: the entry lacks what the specification says.
    """
    channels = [
        Channel(int(number), int(slot), int(generation), handed=True) for number, slot, generation in entry["channels"]
    ]
    return Lease(
        lease_id=LeaseId(bytes(entry["lease"])),
        client=client,
        executor=int(entry["executor"]),
        lease_seq=int(entry["lease_seq"]),
        epoch=int(entry["epoch"]),
        slice_id=bytes(entry["slice"]),
        address=str(entry["address"]),
        node=str(entry["node"]),
        workers=int(entry["workers"]),
        ttl_s=float(entry["ttl_s"]),
        kind=str(entry.get("kind", "")),
        channels={channel.number: channel for channel in channels},
    )


def granted_lease(granted: Granted) -> Lease:
    """The lease that the allocator granted."""
    terms = granted.terms
    return Lease(
        lease_id=terms.lease_id,
        client=terms.holder,
        executor=terms.request,
        lease_seq=terms.lease_seq,
        epoch=terms.epoch,
        slice_id=terms.slice_id,
        address=granted.address,
        node=granted.node,
        workers=terms.workers,
        ttl_s=terms.ttl_s,
        core_ids=granted.core_ids,
        kind=terms.kind,
    )


def lease_message(lease: Lease) -> Message:
    """What a client is told of its lease."""
    return {
        "m": "lease",
        "executor": lease.executor,
        "lease": lease.lease_id,
        "lease_seq": lease.lease_seq,
        "epoch": lease.epoch,
        "slice": lease.slice_id,
        "address": lease.address,
        "node": lease.node,
        "cores": list(lease.core_ids),
        "workers": lease.workers,
        "ttl_s": lease.ttl_s,
        "expires_in_s": lease.ttl_s,
    }


def site_message(executor: int, code: str, hint: str) -> Message:
    """What a client is told while the site lends it nothing."""
    return {"m": "queued", "executor": executor, "reason": f"the site lends nothing now ({code})", "hint": hint}


def queued_message(waiting: Waiting) -> Message:
    """What a client is told while nothing more can be given; an estimate only if there is one."""
    hint = f"{waiting.missing} more asked for"
    if waiting.estimate_in_s is None:
        hint += ", nobody knows when"
    else:
        hint += f", perhaps in {waiting.estimate_in_s:.0f} s by {waiting.basis}"
    return {
        "m": "queued",
        "executor": waiting.request,
        "reason": waiting.reason,
        "hint": hint,
        "code": waiting.code,
        "estimate_s": waiting.estimate_in_s,
    }
