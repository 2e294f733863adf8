"""Kinds of values: how each is read from an argument, an option, the environment or TOML, and written back as text.

Every wrong value is a ConfigError that names the setting as its source spells it, and what would be right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from rfaas.units import parse_duration_s, parse_size_bytes, size_text
from rfaas_transport.errors import ConfigError

Parse = Callable[[Any, str, Path], Any]
"""Value, name for messages, directory that a relative path is meant from."""

NONE: Final = "none"
"""Text for "no limit" and "nothing", where the default is something else."""
HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})")
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        name: for the documentation.
        unit: of the parsed value; "" if it has none.
        parse: reads it.
    """

    name: str
    unit: str
    parse: Parse


def whole_number(minimum: int, maximum: int, unit: str = "") -> Kind:
    """A whole number in a range, its ends included."""

    def parse(value: Any, name: str, _base: Path) -> int:  # noqa: ANN401 - whatever a caller or a file says
        number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int) or not minimum <= number <= maximum:
            raise ConfigError(
                f"{name}={value!r} is not possible", hint=f"write a whole number from {minimum} to {maximum}"
            )
        return number

    return Kind(f"whole number, {minimum} to {maximum}", unit, parse)


def size(*, zero: bool = False, maximum_bytes: int | None = None) -> Kind:
    """Bytes, or text with a unit."""
    most = "" if maximum_bytes is None else f", at most {size_text(maximum_bytes)}"

    def parse(value: Any, name: str, _base: Path) -> int:  # noqa: ANN401
        if zero and not isinstance(value, bool) and value in (0, "0"):
            return 0
        size_bytes = parse_size_bytes(value, name=name)
        if maximum_bytes is not None and size_bytes > maximum_bytes:
            raise ConfigError(f"{name}={value!r} is too large", hint=f"write at most {size_text(maximum_bytes)}")
        return size_bytes

    return Kind('size: "1GiB", "512M"' + (", 0" if zero else "") + most, "bytes", parse)


def duration(*, minimum_s: float = 0.0, optional: bool = False) -> Kind:
    """Seconds, or text with units. `optional`: more than none at all, or "none" for no limit."""

    def parse(value: Any, name: str, _base: Path) -> float | None:  # noqa: ANN401
        if optional and isinstance(value, str) and value.strip().lower() == NONE:
            return None
        duration_s = parse_duration_s(value, name=name, minimum_s=minimum_s)
        if optional and duration_s == 0.0:
            raise ConfigError(f"{name}={value!r} leaves no time", hint='write more than 0, or "none" for no limit')
        return duration_s

    return Kind('duration: 30, "30s", "1h30m"' + (', "none"' if optional else ""), "s", parse)


def part(maximum: float = 1.0) -> Kind:
    """A part of something, above 0: 0.03, or "3%"."""

    def parse(value: Any, name: str, _base: Path) -> float:  # noqa: ANN401
        try:
            if isinstance(value, bool):
                raise ValueError
            text = str(value).strip()
            number = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
        except ValueError:
            number = 0.0
        if not 0.0 < number <= maximum:
            raise ConfigError(f"{name}={value!r} is not possible", hint=f'write more than 0, at most {maximum:g}: "3%"')
        return number

    return Kind(f'part: 0.03, "3%", at most {maximum:g}', "", parse)


def boolean() -> Kind:
    """True or false."""

    def parse(value: Any, name: str, _base: Path) -> bool:  # noqa: ANN401
        word = value.strip().lower() if isinstance(value, str) else value
        if isinstance(word, bool):
            return word
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise ConfigError(f"{name}={value!r} is neither true nor false", hint="write true or false")

    return Kind("true or false", "", parse)


def choice(*words: str) -> Kind:
    """One of some words."""

    def parse(value: Any, name: str, _base: Path) -> str:  # noqa: ANN401
        word = value.strip().lower() if isinstance(value, str) else value
        if word not in words:
            raise ConfigError(
                f"{name}={value!r} is not one of {', '.join(words)}", hint=f"write one of: {', '.join(words)}"
            )
        return str(word)

    return Kind("one of " + ", ".join(words), "", parse)


def path(*, also: str = "") -> Kind:
    """A path, made absolute; `also`: a word that means something else and stays as it is."""

    def parse(value: Any, name: str, base: Path) -> str:  # noqa: ANN401
        text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
        if not isinstance(text, str) or not text or "\0" in text:
            raise ConfigError(f"{name}={value!r} is no path" + (f' nor "{also}"' if also else ""), hint="write a path")
        try:
            return text if also and text == also else str((base / Path(text).expanduser()).absolute())
        except RuntimeError as error:  # no such user, or one without a home
            raise ConfigError(f"{name}={value!r}: {error}", hint="write the path in full") from error

    return Kind(f'path, or "{also}"' if also else "path", "", parse)


def path_or_address() -> Kind:
    """A path, made absolute, or HOST:PORT, which stays as it is unless there is a directory of that name."""
    any_path = path()

    def parse(value: Any, name: str, base: Path) -> str:  # noqa: ANN401
        text: str = any_path.parse(value, name, base)
        if Path(text).is_dir() or not isinstance(value, str) or not (found := HOST_PORT.fullmatch(value)):
            return text
        if not 0 < int(found["port"]) < 65536:
            raise ConfigError(f"{name}={value!r}: there is no port {found['port']}", hint="write 1 to 65535")
        return value

    return Kind("path, or HOST:PORT", "", parse)


def host_port() -> Kind:
    """HOST:PORT; "none" for nothing, where a file of the system says something."""

    def parse(value: Any, name: str, _base: Path) -> str:  # noqa: ANN401
        if value == NONE:
            return ""
        found = HOST_PORT.fullmatch(value) if isinstance(value, str) else None
        if found is None or not 0 < int(found["port"]) < 65536:
            raise ConfigError(f"{name}={value!r} is no HOST:PORT", hint='write one like "10.1.0.1:7411", or "none"')
        return str(value)

    return Kind(f'HOST:PORT, or "{NONE}"', "", parse)


def text() -> Kind:
    """Any text that is not empty."""

    def parse(value: Any, name: str, _base: Path) -> str:  # noqa: ANN401
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{name}={value!r} says nothing", hint="write some text, or leave it out")
        return value.strip()

    return Kind("text", "", parse)


def prefix(*fields: str) -> Kind:
    """Text with some of these fields in braces, kept with its blanks; "none" for none."""
    shown = ", ".join(f"{{{field}}}" for field in fields)

    def parse(value: Any, name: str, _base: Path) -> str:  # noqa: ANN401
        if not isinstance(value, str):
            raise ConfigError(f"{name}={value!r} is no text", hint=f"write text with {shown}, or none")
        try:
            value.format(**dict.fromkeys(fields, 0))
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise ConfigError(f"{name}={value!r} can't be filled in: {error!r}", hint=f"it may name {shown}") from error
        return "" if value.strip().lower() == NONE else value

    return Kind(f"text with {shown}, or none", "", parse)


def words(example: str) -> Kind:
    """Several texts: a list, or one text with blanks between; commas too where none is a part of one."""

    def parse(value: Any, name: str, _base: Path) -> tuple[str, ...]:  # noqa: ANN401
        parts = value.split() if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) and part for part in parts):
            raise ConfigError(f"{name}={value!r} is no list of texts", hint=f"write {example}")
        return tuple(parts)

    return Kind(f"list: {example}", "", parse)


def names(example: str) -> Kind:
    """Several names: a list, or one text with blanks or commas between."""
    several = words(example)

    def parse(value: Any, name: str, base: Path) -> tuple[str, ...]:  # noqa: ANN401
        parts: tuple[str, ...] = several.parse(value.replace(",", " ") if isinstance(value, str) else value, name, base)
        return parts

    return Kind(f"list: {example}", "", parse)


def show(kind: Kind, value: object) -> str:
    """A parsed value for people: sizes in their largest whole unit."""
    if kind.unit == "bytes" and isinstance(value, int) and value:
        for factor, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value % factor == 0:
                return f"{value // factor}{unit}"
    if isinstance(value, float):
        return f"{value:g}"
    return write(value) if value != () else NONE


def write(value: object) -> str:
    """A parsed value as text that its kind reads back from the environment."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(value) if isinstance(value, tuple) else str(value)
