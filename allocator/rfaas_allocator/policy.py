"""What was set for one allocator: quotas of users, prices, the file of known hosts. Read once, at the start.

Must not decide (core) nor know leases. Every wrong value is a ConfigError that says the cause and the remedy.
Spec: docs/spec/002-lease.md sections 5, 9.
"""

from __future__ import annotations

import math
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from rfaas.units import parse_size_bytes
from rfaas_allocator.placement import Item
from rfaas_transport.errors import ConfigError

GIB: Final = 2**30


@dataclass(slots=True)
class Holding:
    """What one user holds or is about to, in all; the books of quotas."""

    leases: int = 0
    workers: int = 0
    cores: int = 0
    memory_bytes: int = 0

    def add(self, leases: int, workers: int, cores: int, memory_bytes: int) -> None:
        """Count one lease more (`leases` = 1) or less (all numbers negative)."""
        self.leases += leases
        self.workers += workers
        self.cores += cores
        self.memory_bytes += memory_bytes


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that one user may hold at a time; None: no limit."""

    leases: int | None = None
    workers: int | None = None
    cores: int | None = None
    memory_bytes: int | None = None

    @property
    def limits(self) -> bool:
        """False if it allows everything."""
        return (self.leases, self.workers, self.cores, self.memory_bytes) != (None, None, None, None)

    def room(self, held: Holding, item: Item) -> tuple[int, int]:
        """How many workers of this size, in how many leases, the user may have more; a region counts as no worker."""
        limits = [
            _left(self.workers, held.workers) if item.cores_per_worker else NO_LIMIT,
            _left(self.cores, held.cores) // item.cores_per_worker if item.cores_per_worker else NO_LIMIT,
            _left(self.memory_bytes, held.memory_bytes) // item.memory_bytes_per_worker,
        ]
        leases = _left(self.leases, held.leases)
        return (min(limits) if leases else 0), leases

    def exceeded(self, held: Holding) -> bool:
        """True if the user holds more: leases that agents accepted are kept even then, unless nobody knows of them."""
        pairs = (
            (self.leases, held.leases),
            (self.workers, held.workers),
            (self.cores, held.cores),
            (self.memory_bytes, held.memory_bytes),
        )
        return any(limit is not None and used > limit for limit, used in pairs)

    def never(self, item: Item) -> str:
        """Why one worker of this size can't be had although the user holds nothing; empty if it can."""
        return "" if self.room(Holding(), item)[0] >= 1 else f"one worker is beyond the quota of {self}"

    def __str__(self) -> str:
        memory = None if self.memory_bytes is None else f"{self.memory_bytes / GIB:g} GiB"
        named = (("leases", self.leases), ("workers", self.workers), ("cores", self.cores))
        words = [f"{limit} {name if limit != 1 else name[:-1]}" for name, limit in named if limit is not None]
        return ", ".join(words + ([f"{memory} of memory"] if memory else [])) or "no limit"


NO_LIMIT: Final = 2**63


def _left(limit: int | None, used: int) -> int:
    return NO_LIMIT if limit is None else max(0, limit - used)


@dataclass(frozen=True, slots=True)
class Prices:
    """What is charged, in `currency`: for a core held one second, a GiB held one second, a byte of payload.

    `share_credit_per_core_h`, `share_credit_per_gib_h`: what the owner of a job gets for what it shared, by the hour.
    """

    core_s: float = 0.0
    gib_s: float = 0.0
    byte: float = 0.0
    share_credit_per_core_h: float = 0.0
    share_credit_per_gib_h: float = 0.0
    currency: str = ""

    def cost(self, *, core_s: float, gib_s: float, payload_bytes: int) -> float:
        """The sum for so many core-seconds, GiB-seconds and bytes."""
        return self.core_s * core_s + self.gib_s * gib_s + self.byte * payload_bytes

    def share_credit(self, *, core_s: float, gib_s: float) -> float:
        """What is owed for so many core-seconds and GiB-seconds of a job that shared them."""
        return (self.share_credit_per_core_h * core_s + self.share_credit_per_gib_h * gib_s) / 3600


@dataclass(frozen=True, slots=True)
class Policy:
    """All of it; the default sets no limit and no price.

    Attributes:
        quota: of each user who has none of his own.
        quotas: by uid.
        prices: applied when accounts are read, not when they arise.
        inventory: file of hosts that is read at each start (`rfaas inventory export` writes one); None: none.
        machine: cores and bytes of the one machine there is (embedded), whose slice claims more; None: slices say.
    """

    quota: Quota = Quota()
    quotas: Mapping[int, Quota] = field(default_factory=dict)
    prices: Prices = Prices()
    inventory: Path | None = None
    machine: tuple[int, int] | None = None

    def larger_than_machine(self, worker: Item) -> str:
        """Why one such worker can never run on the machine; empty if it can, or if nobody says what the machine has."""
        cores, memory_bytes = self.machine or (worker.cores_per_worker, worker.memory_bytes_per_worker)
        beyond = []
        if worker.cores_per_worker > cores:
            beyond.append(f"{worker.cores_per_worker} cores of {cores}")
        if worker.memory_bytes_per_worker > memory_bytes:
            beyond.append(f"{worker.memory_bytes_per_worker >> 20} MiB of {memory_bytes >> 20}")
        what = "one worker" if worker.cores_per_worker else "the region"
        return f"{what} asks for more than this machine has: {', '.join(beyond)}" if beyond else ""

    def quota_of(self, uid: int) -> Quota:
        """The quota that counts for a user."""
        return self.quotas.get(uid, self.quota)

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any]) -> Policy:
        """Read the section `[policy]` of a configuration.

        Keys: `quota` (a table of cores, memory, workers, leases), `quotas` (such a table for each user, by name or
        uid), `prices` (a table of the names of `Prices`), `inventory` (a path).

        Raises:
            ConfigError: an unknown key, an unknown user, or a value that is no limit or price.
        """
        _known("policy", section, ("quota", "quotas", "prices", "inventory"))
        path = section.get("inventory")
        return cls(
            quota=_quota("quota", section.get("quota", {})),
            quotas={_uid(user): _quota(f"quotas.{user}", limits) for user, limits in section.get("quotas", {}).items()},
            prices=_prices(section.get("prices", {})),
            inventory=None if path is None else Path(path).expanduser().absolute(),
        )


def section_from_options(quotas: list[str], prices: str, inventory: str | None) -> dict[str, Any]:
    """The same section from a command line: quotas "[USER:]cores=8,memory=16GiB", prices "core_s=0.01,currency=EUR".

    Raises:
        ConfigError: one can't be read.
    """
    section: dict[str, Any] = {"prices": _pairs("--price", prices)}
    for text in quotas:
        user, colon, limits = text.rpartition(":")
        table = _pairs("--quota", limits)
        if colon:
            section.setdefault("quotas", {})[user] = table
        else:
            section["quota"] = table
    if inventory:
        section["inventory"] = inventory
    return section


def _pairs(option: str, text: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(f"{option} {text}: {part!r} is not NAME=VALUE", hint="write e.g. cores=8,memory=16GiB")
        pairs[name.strip()] = value.strip()
    return pairs


def _known(where: str, section: Any, names: tuple[str, ...]) -> None:  # noqa: ANN401 - what a file held
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} is no table", hint=f"write a table of {', '.join(names)}")
    unknown = sorted(set(section) - set(names))
    if unknown:
        raise ConfigError(f"{where} knows no {', '.join(unknown)}", hint=f"it knows {', '.join(names)}")


def _quota(where: str, limits: Any) -> Quota:  # noqa: ANN401
    _known(where, limits, ("cores", "memory", "workers", "leases"))
    memory = limits.get("memory")
    return Quota(
        leases=_limit(where, "leases", limits.get("leases")),
        workers=_limit(where, "workers", limits.get("workers")),
        cores=_limit(where, "cores", limits.get("cores")),
        memory_bytes=None if memory is None else parse_size_bytes(memory, name=f"{where}.memory"),
    )


def _limit(where: str, name: str, value: Any) -> int | None:  # noqa: ANN401
    if value is None:
        return None
    try:
        if isinstance(value, bool | float):
            raise ValueError
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise ConfigError(f"{where}.{name}={value!r} is no limit", hint="write a whole number, 0 to allow nothing")
    return number


def _uid(user: str | int) -> int:
    if str(user).isdigit():
        return int(user)
    try:
        return pwd.getpwnam(str(user)).pw_uid
    except KeyError:
        raise ConfigError(
            f"quota for {user}: there is no such user", hint="name a user of this host, or a uid"
        ) from None


def _prices(section: Any) -> Prices:  # noqa: ANN401
    _known("prices", section, tuple(one.name for one in fields(Prices)))
    amounts = {}
    for name in (one.name for one in fields(Prices) if one.name != "currency"):
        try:
            amounts[name] = float(section.get(name, 0.0))
        except (TypeError, ValueError):
            amounts[name] = math.nan
        if not 0.0 <= amounts[name] < math.inf:
            raise ConfigError(
                f"prices.{name}={section[name]!r} is no price", hint="write a number that is not negative"
            )
    return Prices(**amounts, currency=str(section.get("currency", "")))
