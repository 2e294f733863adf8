"""What the site's allocator has granted on which node, and what it grants next: pure, no clock, no socket.

A hint, not the truth: the node's agent alone knows what is used there, and refuses what is not free. So nothing here
has to survive a restart; after one, nodes may refuse grants for a while. Spec: docs/spec/010-node-agent.md section 7.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rfaas.site.grant import Grant

MOST_GRANTS_OF_USER = 256
USE_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class SiteNode:
    """A node with an agent of root's: its share, and where it listens."""

    name: str
    address: str
    cores: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """What one user may have at once, and how long one grant lasts at most."""

    cores: int = 1 << 16
    memory_bytes: int = 1 << 50
    lasts_s: int = 12 * 3600


@dataclass(frozen=True, slots=True)
class SiteWant:
    """What a user asks for; `node` "": any."""

    uid: int
    cores: int
    memory_bytes: int
    lasts_s: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, as code and for people."""

    code: str
    hint: str


@dataclass(slots=True)
class SiteBook:
    """The grants that may be in use.

    Args:
        nodes: of the site.
        limits: of each user.
    """

    nodes: dict[str, SiteNode]
    limits: SiteLimits = field(default_factory=SiteLimits)
    grants: dict[bytes, Grant] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Iterable[SiteNode], limits: SiteLimits) -> SiteBook:
        """An empty one."""
        return cls({node.name: node for node in nodes}, limits)

    def expire(self, now_s: int) -> None:
        """Forget grants that are over."""
        self.grants = {key: grant for key, grant in self.grants.items() if grant.ends_s > now_s}

    def choose(self, want: SiteWant, now_s: int, random: bytes) -> tuple[Grant, SiteNode] | Refusal:
        """The grant for a want, noted; or why there is none.

        The node is the fullest that has room (tightest fit), so that large wants find whole nodes.

        Args:
            random: 32 bytes that nobody can guess: slice id and nonce.
        """
        self.expire(now_s)
        refusal = self._refusal(want)
        if refusal is not None:
            return refusal
        fitting = [node for node in self.nodes.values() if want.node in ("", node.name) and self._fits(node, want)]
        if not fitting:
            return Refusal("no-room", "nothing of that size is free: ask for less, or again later")
        node = min(fitting, key=lambda node: (self._free(node), node.name))
        grant = Grant(
            random[:16],
            random[16:],
            issued_s=now_s,
            use_by_s=now_s + USE_WITHIN_S,
            ends_s=now_s + want.lasts_s,
            memory_bytes=want.memory_bytes,
            uid=want.uid,
            cores=want.cores,
            node=node.name,
        )
        self.grants[grant.slice_id] = grant
        return grant, node

    def give_back(self, uid: int, slice_id: bytes) -> bool:
        """Forget a grant of this user's; False if he has no such."""
        grant = self.grants.get(slice_id)
        if grant is None or grant.uid != uid:
            return False
        del self.grants[slice_id]
        return True

    def _refusal(self, want: SiteWant) -> Refusal | None:
        if want.cores < 1 or want.memory_bytes < 1 or want.lasts_s < 1:
            return Refusal("bad-want", "cores, memory and duration are above 0")
        if want.node and want.node not in self.nodes:
            return Refusal("unknown-node", f"no node {want.node!r} lends outside of allocations")
        if not any(self._could_ever(node, want) for node in self.nodes.values()):
            return Refusal(
                "too-large",
                f"no node of the site lends {want.cores} cores and {want.memory_bytes} bytes together: ask for less",
            )
        if want.lasts_s > self.limits.lasts_s:
            return Refusal("bad-want", f"a grant lasts {self.limits.lasts_s} s at most")
        own = [grant for grant in self.grants.values() if grant.uid == want.uid]
        cores = sum(grant.cores for grant in own) + want.cores
        memory_bytes = sum(grant.memory_bytes for grant in own) + want.memory_bytes
        if cores > self.limits.cores or memory_bytes > self.limits.memory_bytes or len(own) >= MOST_GRANTS_OF_USER:
            return Refusal(
                "quota", f"a user has {self.limits.cores} cores and {self.limits.memory_bytes} bytes at most"
            )
        return None

    @staticmethod
    def _could_ever(node: SiteNode, want: SiteWant) -> bool:
        named = want.node in ("", node.name)
        return named and node.cores >= want.cores and node.memory_bytes >= want.memory_bytes

    def _free(self, node: SiteNode) -> tuple[int, int]:
        here = [grant for grant in self.grants.values() if grant.node == node.name]
        cores = node.cores - sum(grant.cores for grant in here)
        return cores, node.memory_bytes - sum(grant.memory_bytes for grant in here)

    def _fits(self, node: SiteNode, want: SiteWant) -> bool:
        cores, memory_bytes = self._free(node)
        return cores >= want.cores and memory_bytes >= want.memory_bytes
