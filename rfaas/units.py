"""Sizes and durations as people write them: "1GiB", "200 MB", "30s", "1h30m".

Must not guess: a number without a unit is bytes or seconds, anything else that is not understood is a ConfigError.
"""

from __future__ import annotations

import math
import operator
import re
from typing import Any, Final

from rfaas_transport.errors import ConfigError

SIZE_UNITS: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
# Slurm and ulimit write 1G for 2**30 bytes; K, M, G, T follow them, not the SI.
SIZE_UNITS_SHORT: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

DURATION_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

# Beyond these a value is a slip, and it would not fit where it goes: nanoseconds and bytes in 64 bits.
MAX_DURATION_S: Final = 1e9  # 31 years
MAX_SIZE_BYTES: Final = 2**62

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_DURATION_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


def parse_size_bytes(value: str | int, *, name: str = "size") -> int:
    """Read a size: an integer is bytes, text is a number and a unit ("1GiB", "1.5 GB", "512M").

    Args:
        value: 1 byte to 4 EiB. KB, MB, GB, TB are powers of 1000; KiB … TiB and K, M, G, T are powers of 1024.
        name: of the setting, for the message.

    Raises:
        ConfigError: not a size; the message names the setting and what would be accepted.
    """
    size_bytes = _size_of_text(value) if isinstance(value, str) else _size_of_number(value)
    if size_bytes is None or not 1 <= size_bytes <= MAX_SIZE_BYTES:
        raise ConfigError(f"{name}={value!r} is not a size", hint='write bytes, or a number and a unit: "1GiB", "512M"')
    return size_bytes


def _size_of_number(value: Any) -> int | None:  # noqa: ANN401 - whatever somebody wrote
    """Numpy's integers are integers too."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _size_of_text(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    unit = match[2].upper()
    factor = 1 if unit == "" else SIZE_UNITS.get(unit) or SIZE_UNITS_SHORT.get(unit)
    if factor is None:
        return None
    size_bytes = float(match[1]) * factor
    return round(size_bytes) if size_bytes <= MAX_SIZE_BYTES else None


def parse_duration_s(value: str | float, *, name: str = "duration", minimum_s: float = 0.0) -> float:
    """Read a duration: a number is seconds, text is numbers with units ("30s", "250ms", "1h30m").

    Args:
        value: at least `minimum_s`, at most 1e9 s.
        name: of the setting, for the message.
        minimum_s: the smallest value accepted, in seconds.

    Raises:
        ConfigError: not a duration, too short or too long; the message names the setting and what would be accepted.
    """
    duration_s = _duration_of_text(value) if isinstance(value, str) else _duration_of_number(value)
    if duration_s is None:
        raise ConfigError(
            f"{name}={value!r} is not a duration", hint='write seconds, or numbers with units: "30s", "250ms", "1h30m"'
        )
    if duration_s < minimum_s:
        raise ConfigError(f"{name}={value!r} is too short", hint=f"write at least {minimum_s} s")
    if duration_s > MAX_DURATION_S:
        raise ConfigError(f"{name}={value!r} is too long", hint=f"write at most {MAX_DURATION_S:.0f} s")
    return duration_s


def _duration_of_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return math.inf


def _duration_of_text(text: str) -> float | None:
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text):
        return float(text)
    total_s, position = 0.0, 0
    while position < len(text):
        match = _DURATION_PART.match(text, position)
        if match is None or match[2] not in DURATION_UNITS:
            return None
        total_s += float(match[1]) * DURATION_UNITS[match[2]]
        position = match.end()
    return total_s if position else None


def size_text(size_bytes: int) -> str:
    """Write a size for people, in three figures: "1.50 GiB", "64.0 MiB", "17 B"."""
    for name, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            number = size_bytes / factor
            return (
                f"{number:.2f} {name}"
                if number < 10
                else f"{number:.1f} {name}"
                if number < 100
                else f"{number:.0f} {name}"
            )
    return f"{size_bytes} B"
