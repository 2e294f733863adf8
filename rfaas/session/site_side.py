"""The session core's half that faces the site: what programs lack, and what they are told when nothing is lent.

Sans-IO like `core`, of which it is a part; how much is asked for and when is `rfaas.site.borrowing`'s. Spec:
docs/spec/010-node-agent.md section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from rfaas.control.messages import Want
from rfaas.session.allocator_side import AllocatorSide
from rfaas.session.events import SiteSaid, ToClient
from rfaas.session.forms import site_message
from rfaas.session.state import Client, Outbox
from rfaas.site.borrowing import Shortfall, Size


class SiteSide:
    """Reads wants and tells clients.

    Args:
        out: takes effects.
        upward: told why the site lends nothing, since what it has to say then is less to the point.
        set_want: changes what a client wants.
    """

    def __init__(self, out: Outbox, upward: AllocatorSide, set_want: Callable[[Client, Want], None]) -> None:
        self._out, self._upward, self._set_want = out, upward, set_want

    def shortfalls(self, clients: Iterable[Client]) -> tuple[Shortfall, ...]:
        """Workers that are wanted and not granted, by their size, in the order of the wants."""
        missing: dict[Size, int] = {}
        for client, want in _wants(clients):
            held = (lease for lease in client.leases.values() if lease.executor == want.request and not lease.closing)
            workers = want.workers - sum(lease.workers for lease in held)
            if workers > 0:
                size = Size(want.cores_per_worker, want.memory_bytes_per_worker)
                missing[size] = missing.get(size, 0) + workers
        return tuple(Shortfall(size, workers) for size, workers in missing.items())

    def on_said(self, said: SiteSaid, clients: Iterable[Client]) -> None:
        """The site lends nothing of a size, or does again."""
        self._upward.site_trouble = (said.code, said.hint) if said.code else None
        for client, want in list(_wants(clients)) if said.code else []:
            of_size = (want.cores_per_worker, want.memory_bytes_per_worker) == (said.cores, said.memory_bytes)
            if not of_size or any(lease.executor == want.request for lease in client.leases.values()):
                continue  # who holds something goes on with that
            if said.for_good:
                self._set_want(client, replace(want, workers=0))
                denied = {"m": "denied", "executor": want.request, "code": said.code, "hint": said.hint}
                self._out.emit(ToClient(client.conn, denied))
            else:
                self._out.emit(ToClient(client.conn, site_message(want.request, said.code, said.hint)))


def _wants(clients: Iterable[Client]) -> Iterator[tuple[Client, Want]]:
    """Of workers: regions of memory need no core, and nobody grants less than one outside of allocations."""
    return ((client, want) for client in clients for want in client.wants.values() if want.kind == "")
