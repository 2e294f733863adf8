"""What the site's allocator has granted on which node, and what it grants next: pure, no clock, no socket.

A hint, not the truth: the node's agent alone knows what is used there, and refuses what is not free. It is asked from
time to time, and then its word holds: `hear`. Spec: docs/spec/010-node-agent.md section 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rfaas.site.grant import Grant
from rfaas.site.query import NodeSays

MOST_GRANTS_OF_USER = 256
USE_WITHIN_S = 60
NODE_TAKES_S = 10
"""Between a request that came in time and a slice that is listed."""


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


@dataclass(frozen=True, slots=True)
class Opened:
    """A grant was made, or found in use at its node."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Closed:
    """A grant is over.

    `reason`: "expired"; "unused", its user gave it back; "not-used" in its time; "left", its node lends it no more.
    """

    grant: Grant
    reason: str
    at_s: int


@dataclass(slots=True)
class SiteBook:
    """The grants that may be in use.

    Args:
        nodes: of the site.
        limits: of each user.
        trust_s: how long who watches Slurm is believed; then nothing is granted until it speaks again. 0: nobody does.
    """

    nodes: dict[str, SiteNode]
    limits: SiteLimits = field(default_factory=SiteLimits)
    grants: dict[bytes, Grant] = field(default_factory=dict)
    trust_s: int = 0
    changes: list[Opened | Closed] = field(default_factory=list)  # since somebody took them
    left_alone: dict[str, tuple[str, int]] = field(default_factory=dict)  # by node: why, until when
    jobs: dict[str, int] = field(default_factory=dict)  # that hold a node, by its own word
    _watched_s: int = 0
    _heard_s: dict[str, int] = field(default_factory=dict)  # by node
    _returned: dict[str, int] = field(default_factory=dict)  # by node: until when a grant given back may yet be used
    _seen: set[bytes] = field(default_factory=set)  # grants that their nodes have named

    @classmethod
    def of(cls, nodes: Iterable[SiteNode], limits: SiteLimits) -> SiteBook:
        """An empty one."""
        return cls({node.name: node for node in nodes}, limits)

    def expire(self, now_s: int) -> None:
        """Forget grants that are over, and rules that nobody has repeated."""
        for grant in [grant for grant in self.grants.values() if grant.ends_s <= now_s]:
            self._close(grant, "expired", grant.ends_s)
        self.left_alone = {name: rule for name, rule in self.left_alone.items() if rule[1] > now_s}

    def _close(self, grant: Grant, reason: str, at_s: int) -> None:
        del self.grants[grant.slice_id]
        self._seen.discard(grant.slice_id)
        self.changes.append(Closed(grant, reason, at_s))

    def taken_changes(self) -> list[Opened | Closed]:
        """What has changed since the last time, in order."""
        changes, self.changes = self.changes, []
        return changes

    def take_over(self, grants: Iterable[Grant], now_s: int) -> None:
        """Grants of an earlier life."""
        self.grants.update((grant.slice_id, grant) for grant in grants)
        self.expire(now_s)

    def hear(self, node: str, says: NodeSays, asked_s: int, now_s: int) -> None:
        """A node's word on what it lends; what was granted after `asked_s` may be missing.

        A grant that it named and names no more is over, one that it never named once its time of use has passed; what
        it lends and nobody here knows, since a journal was lost, is taken into the books.
        """
        self.jobs[node] = says.jobs
        self._heard_s[node] = now_s
        named = {lent.slice_id: lent for lent in says.slices}
        for grant in [grant for grant in self.grants.values() if grant.node == node]:
            if grant.slice_id in named:
                self._seen.add(grant.slice_id)
            elif grant.slice_id in self._seen:
                self._close(grant, "left", now_s)
            elif grant.use_by_s + NODE_TAKES_S < asked_s:
                self._close(grant, "not-used", now_s)
        for slice_id, lent in named.items():
            if slice_id not in self.grants and lent.ends_in_s > 0 and lent.state in ("starting", "running"):
                grant = Grant(
                    *(slice_id, bytes(16), now_s, now_s, now_s + lent.ends_in_s),
                    *(lent.memory_bytes, lent.uid, lent.cores, node),
                )
                self.grants[slice_id] = grant
                self._seen.add(slice_id)
                self.changes.append(Opened(grant))

    def to_ask(self, now_s: int, most: int) -> list[SiteNode]:
        """The nodes whose word is worth having now, those first that were not heard of for the longest time."""
        self._returned = {name: until_s for name, until_s in self._returned.items() if until_s + NODE_TAKES_S >= now_s}
        busy = {grant.node for grant in self.grants.values()} | self._returned.keys()
        busy |= {name for name, jobs in self.jobs.items() if jobs} | self.nodes.keys() - self._heard_s.keys()
        found = sorted((self._heard_s.get(name, 0), name) for name in busy if name in self.nodes)
        return [self.nodes[name] for _, name in found[:most]]

    def lends(self, node: str) -> bool:
        """Whether a grant there may be in use although the node is left alone."""
        return node in self.left_alone and any(grant.node == node for grant in self.grants.values())

    def watched(self, now_s: int) -> None:
        """Slurm was seen just now by who watches it."""
        self._watched_s = now_s

    def leave_alone(self, rules: Mapping[str, str], for_s: int, now_s: int) -> None:
        """Grant nothing on these nodes for so long, unless it is said again."""
        self.left_alone.update((name, (why, now_s + for_s)) for name, why in rules.items() if name in self.nodes)

    def choose(self, want: SiteWant, now_s: int, random: bytes) -> tuple[Grant, SiteNode] | Refusal:
        """The grant for a want, noted; or why there is none.

        The node is the fullest that has room (tightest fit), so that large wants find whole nodes.

        Args:
            random: 32 bytes that nobody can guess: slice id and nonce.
        """
        self.expire(now_s)
        refusal = self._refusal(want, now_s)
        if refusal is not None:
            return refusal
        meant = [node for node in self.nodes.values() if want.node in ("", node.name)]
        fitting = [node for node in meant if node.name not in self.left_alone and self._fits(node, want)]
        if not fitting:
            return Refusal("no-room", self._why_none(meant, want))
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
        self.changes.append(Opened(grant))
        return grant, node

    def _why_none(self, meant: list[SiteNode], want: SiteWant) -> str:
        """What a user can make something of: rules of the site that keep nodes which would do, if they are why."""
        kept = [
            self.left_alone[node.name][0] for node in meant if node.name in self.left_alone and self._fits(node, want)
        ]
        if not kept:
            return "nothing of that size is free: ask for less, or again later"
        whys = ", ".join(f"{kept.count(why)} because {why}" for why in sorted(set(kept))[:3])
        return f"nodes that have it are left alone: {whys}; ask again later, or the site's administrator"

    def take_back(self, grant: Grant) -> None:
        """A grant that could not be made durable was never made."""
        self.grants.pop(grant.slice_id, None)

    def give_back(self, uid: int, slice_id: bytes, now_s: int) -> bool:
        """Forget a grant of this user's; False if he has no such.

        If it is in use all the same, its node says so at the next look, and it counts again.
        """
        grant = self.grants.get(slice_id)
        if grant is None or grant.uid != uid:
            return False
        self._returned[grant.node] = max(self._returned.get(grant.node, 0), grant.use_by_s)
        self._close(grant, "left" if slice_id in self._seen else "unused", now_s)
        return True

    def _refusal(self, want: SiteWant, now_s: int) -> Refusal | None:
        if want.cores < 1 or want.memory_bytes < 1 or want.lasts_s < 1:
            return Refusal("bad-want", "cores, memory and duration are above 0")
        if want.node and want.node not in self.nodes:
            return Refusal("unknown-node", f"no node {want.node!r} lends outside of allocations")
        if self.trust_s and self._watched_s + self.trust_s < now_s:
            return Refusal(
                "no-room", "nobody tells the site's allocator what Slurm does: ask the administrator, or later"
            )
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
        held = self.jobs.get(node.name, 0) > 0  # by a job: its node agent would refuse
        return not held and cores >= want.cores and memory_bytes >= want.memory_bytes
