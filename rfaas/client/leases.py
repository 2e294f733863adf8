"""The leases of a client, and what the program was told of each. Sans-IO, a part of `rfaas.client.core`.

Which of them are given back is decided in `returns`. Spec: docs/spec/002-lease.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from rfaas.client.records import Lease


class Leases:
    """Leases by their id.

    Attributes:
        noticed: those whose notice was passed on.
        gained: those of which a worker was there.
    """

    def __init__(self) -> None:
        self._by_id: dict[bytes, Lease] = {}
        self.noticed: set[bytes] = set()
        self.gained: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._by_id.values())

    def __contains__(self, lease: bytes) -> bool:
        return lease in self._by_id

    def get(self, lease: bytes) -> Lease | None:
        """The lease of this id, if it is held."""
        return self._by_id.get(lease)

    def add(self, lease: Lease) -> None:
        """Note one that was granted."""
        self._by_id[lease.lease] = lease

    def remove(self, lease: bytes) -> None:
        """Note that one has ended, known or not."""
        self._by_id.pop(lease, None)
        self.noticed.discard(lease)
        self.gained.discard(lease)
