"""`rfaas status` and `rfaas leases`: what the allocator holds and what is asked of it.

Asks the allocator (service Admin) and changes nothing. grpc is imported when a command runs, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rfaas.cli import asking, reasons
from rfaas.cli.common import fail, json_option, print_json, print_table, state_dir_option
from rfaas.control.messages import MEMORY, HeldLease, SliceView, Snapshot, Waiting, Want
from rfaas_transport.errors import RfaasError

MIB = 1 << 20
NO_LIMIT_BYTES = 1 << 50  # what an embedded slice claims: more than any machine has


@click.command("status")
@state_dir_option
@asking.pid_option
@json_option
def status(state_dir: Path, pid: int | None, as_json: bool) -> None:
    """Show slices, how much of each is leased, what programs want and have, and what waits for capacity.

    \b
    STATE up           leases are given here
          draining     it goes back to its owner; nothing new
          unreachable  its agent is silent; leases stand until Slurm or the agent says more
    """
    snapshot = _snapshot(state_dir, as_json, pid)
    if as_json:
        print_json(snapshot_json(snapshot))
        return
    if not snapshot.slices:
        click.echo(f"no slices: nothing is idle, harvest jobs are pending, or agents ended; see {state_dir}/log")
    else:
        headers = ("NODE", "STATE", "CORES", "FREE", "MEM_MIB", "FREE_MIB", "LEASES", "JOB")
        print_table(headers, [_slice_row(view) for view in sorted(snapshot.slices, key=lambda v: v.slice.node)])
    if snapshot.counters.get("storage_full"):
        click.echo(f"no new leases: the allocator's disk is full; make room at {state_dir}")
    for reason in [*reasons.of_wants(snapshot), *reasons.of_spawned(snapshot)]:
        click.echo(reason.text)
    for waiting in snapshot.waiting:
        what = reasons.missing(snapshot, waiting)
        click.echo(f"waiting for {what}: {waiting.reason} ({_when(waiting)})")


@click.command("leases")
@state_dir_option
@asking.pid_option
@json_option
def leases(state_dir: Path, pid: int | None, as_json: bool) -> None:
    """Show leases: who holds which cores of which node.

    \b
    WORKERS         "memory": a region of memory alone (RemoteMemory), which holds no core
    STATE GRANTED   the cores are held, the holder has not come yet
          ACTIVE    workers serve
          DRAINING  going back; running calls may end
          FENCED    nothing starts any more; death is being proved
    """
    snapshot = _snapshot(state_dir, as_json, pid)
    pairs = [(view, lease) for view in snapshot.slices for lease in view.leases]
    names = asking.names(state_dir, pid) if pairs else {}
    if as_json:
        called = [{"holder_name": names.get(lease.terms.holder, "")} for _, lease in pairs]
        print_json({"leases": [_lease_json(*pair) | name for pair, name in zip(pairs, called, strict=True)]})
        return
    if not pairs:
        click.echo("no leases: no program asks for workers or memory now")
        return
    headers = ("LEASE", "NODE", "STATE", "WORKERS", "CORES", "MEM_MIB", "HOLDER")
    print_table(headers, [_lease_row(view, lease, names) for view, lease in pairs])


def _snapshot(state_dir: Path, as_json: bool, pid: int | None) -> Snapshot:
    try:
        return asking.snapshot(state_dir, pid)
    except RfaasError as error:
        fail(error, as_json=as_json)


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """The allocator's view as JSON."""
    return {
        "alloc_epoch": snapshot.alloc_epoch,
        "slices": [_slice_json(view) for view in snapshot.slices],
        "wants": [_want_json(want) for want in snapshot.wants],
        "waiting": [_waiting_json(waiting) for waiting in snapshot.waiting],
        "counters": snapshot.counters,
    }


def _when(waiting: Waiting) -> str:
    if waiting.estimate_in_s is None:
        return "nobody knows for how long"
    return f"perhaps {waiting.estimate_in_s:.0f} s more, by {waiting.basis}"


def _want_json(want: Want) -> dict[str, Any]:
    return {
        "holder": want.holder.hex(),
        "request": want.request,
        "kind": want.kind or "workers",
        "workers": want.workers,
        "cores_per_worker": want.cores_per_worker,
        "memory_bytes_per_worker": want.memory_bytes_per_worker,
        "lease_workers": want.lease_workers,
    }


def _waiting_json(waiting: Waiting) -> dict[str, Any]:
    return {
        "holder": waiting.holder.hex(),
        "missing_workers": waiting.missing,
        "reason": waiting.reason,
        "code": waiting.code,
        "estimate_in_s": waiting.estimate_in_s,
        "basis": waiting.basis,
    }


def _slice_row(view: SliceView) -> tuple[object, ...]:
    what = view.slice
    memory: tuple[object, object] = (what.memory_bytes // MIB, view.free_memory_bytes // MIB)
    if what.memory_bytes >= NO_LIMIT_BYTES:
        memory = ("-", "-")
    return (what.node, view.state, what.cores, view.free_cores, *memory, len(view.leases), what.job_id or "-")


def _slice_json(view: SliceView) -> dict[str, Any]:
    what = view.slice
    return {
        "slice": what.slice_id.hex(),
        "node": what.node,
        "state": view.state,
        "epoch": view.epoch,
        "cores": what.cores,
        "free_cores": view.free_cores,
        "memory_bytes": what.memory_bytes,
        "free_memory_bytes": view.free_memory_bytes,
        "job_id": what.job_id,
        "grace_s": what.grace_s,
        "end_in_s": what.end_in_s,
        "leases": [_lease_json(view, lease) for lease in view.leases],
    }


def _lease_row(view: SliceView, lease: HeldLease, names: dict[bytes, str]) -> tuple[object, ...]:
    terms = lease.terms
    cores = ",".join(str(core) for core in lease.core_ids)
    holder = f"{terms.holder.hex()[:8]} {names.get(terms.holder, '')}".rstrip()
    return (
        terms.lease_id.hex()[:8],
        view.slice.node,
        lease.state,
        "memory" if terms.kind == MEMORY else terms.workers,
        cores or "-",
        terms.memory_bytes // MIB,
        holder,
    )


def _lease_json(view: SliceView, lease: HeldLease) -> dict[str, Any]:
    terms = lease.terms
    return {
        "lease": terms.lease_id.hex(),
        "lease_seq": terms.lease_seq,
        "node": view.slice.node,
        "state": lease.state,
        "kind": terms.kind or "workers",
        "workers": terms.workers,
        "cores": list(lease.core_ids),
        "memory_bytes": terms.memory_bytes,
        "holder": terms.holder.hex(),
        "ttl_s": terms.ttl_s,
        "spawned": lease.spawned,
    }
