"""Kinds of values that are several numbers with names: "cores=8,memory=16GiB", or a table in `rfaas.toml`.

Parsed they are that text again, in one spelling, since they travel to the allocator as an option or a variable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from rfaas.settings.kinds import Kind
from rfaas.settings.spelling import did_you_mean
from rfaas.units import parse_size_bytes
from rfaas_transport.errors import ConfigError

Check = Callable[[Any, str], None]
"""Value, name for messages; raises ConfigError."""


def _limit(value: Any, name: str) -> None:  # noqa: ANN401 - whatever a caller or a file says
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise ConfigError(f"{name}={value!r} is no limit", hint="write a whole number, 0 to allow nothing")


def _size(value: Any, name: str) -> None:  # noqa: ANN401
    parse_size_bytes(int(value) if str(value).isdecimal() else value, name=name)


def _price(value: Any, name: str) -> None:  # noqa: ANN401
    try:
        price = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        price = math.nan
    if not 0.0 <= price < math.inf:
        raise ConfigError(f"{name}={value!r} is no price", hint="write a number that is not negative")


def _word(value: Any, name: str) -> None:  # noqa: ANN401
    if not isinstance(value, str) or not value or set(value) & set(", ="):
        raise ConfigError(f"{name}={value!r} is no word", hint="write e.g. EUR")


LIMITS: Final[Mapping[str, Check]] = {"cores": _limit, "memory": _size, "workers": _limit, "leases": _limit}
PRICES: Final[Mapping[str, Check]] = {
    **{name: _price for name in ("core_s", "gib_s", "byte", "share_credit_per_core_h", "share_credit_per_gib_h")},
    "currency": _word,
}


def pairs(checks: Mapping[str, Check], example: str) -> Kind:
    """A text of NAME=VALUE with commas between, or a table."""

    def parse(value: Any, name: str, _base: Path) -> str:  # noqa: ANN401
        return _text(value, name, checks, example)

    return Kind(f"table of {', '.join(checks)}, or text: `{example}`", "", parse)


def pairs_of_users(checks: Mapping[str, Check], example: str) -> Kind:
    """Such a text for each of several users, "USER:NAME=VALUE,…"; or a table of such tables."""

    def parse(value: Any, name: str, _base: Path) -> tuple[str, ...]:  # noqa: ANN401
        if isinstance(value, str):
            value = value.split()
        if isinstance(value, Mapping):
            named = list(value.items())
        elif isinstance(value, list | tuple) and all(isinstance(one, str) and ":" in one for one in value):
            named = [(one.rpartition(":")[0], one.rpartition(":")[2]) for one in value]
        else:
            raise ConfigError(f"{name}={value!r} names no users", hint=f'write "{example}", or a table for each user')
        for user, _ in named:
            if not user or set(user) & set(" ,:"):
                raise ConfigError(f"{name}: {user!r} is no user", hint="write a user's name or uid")
        return tuple(f"{user}:{_text(limits, f'{name}.{user}', checks, example)}" for user, limits in named)

    return Kind(f"table of such tables by user, or list: `{example}`", "", parse)


def split_quotas(texts: Iterable[str]) -> tuple[str | None, tuple[str, ...]]:
    """Options `[USER:]LIMITS` as the settings policy.quota (None: nothing said) and policy.quotas."""
    given = list(texts)
    general = [text for text in given if ":" not in text]
    return (general[-1] if general else None), tuple(text for text in given if ":" in text)


def _text(value: Any, name: str, checks: Mapping[str, Check], example: str) -> str:  # noqa: ANN401
    table = _table(value, name, example) if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not table:
        raise ConfigError(f"{name}={value!r} says nothing that can be read", hint=f"write e.g. {example}")
    for key, one in table.items():
        if key not in checks:
            hint = did_you_mean(str(key), checks) or f"it knows {', '.join(checks)}"
            raise ConfigError(f"{name} knows no {key}", hint=hint)
        checks[key](one, f"{name}.{key}")
    return ",".join(f"{key}={str(one).strip()}" for key, one in table.items())


def _table(text: str, name: str, example: str) -> dict[str, str]:
    table = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not value.strip():
            raise ConfigError(f"{name}={text!r}: {part!r} is not NAME=VALUE", hint=f"write e.g. {example}")
        table[key.strip()] = value.strip()
    return table
