"""Hostlists as Slurm writes them: `n[1-3,07]-ib,login` to names, and names to a hostlist.

Pure text. Source: Slurm's "Hostlist expressions"; compared with `scontrol show hostnames` in tests/cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MAX_NAMES = 65_536
"""More names than any site has: a mistyped range must not fill the memory."""

_NUMBERED = re.compile(r"([^\[\],\s]*?)([0-9]{1,18})")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")  # Slurm knows no other digits than these


def expand(hostlist: str) -> tuple[str, ...]:
    """Names in the order written.

    Raises:
        ValueError: the brackets or a range are malformed, or there are more than MAX_NAMES names; the text names it.
    """
    names = [name for part in _split_at_commas(hostlist) for name in _expand_one(part)]
    if len(names) > MAX_NAMES:
        raise ValueError(f"hostlist {hostlist[:60]!r} has more than {MAX_NAMES} names")
    return tuple(names)


def _split_at_commas(hostlist: str) -> Iterator[str]:
    depth = start = 0
    for i, char in enumerate(hostlist):
        if char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
        if not 0 <= depth <= 1:
            raise ValueError(f"hostlist {hostlist!r}: brackets don't match at character {i + 1}")
        if char == "," and depth == 0:
            if i > start:
                yield hostlist[start:i]
            start = i + 1
    if depth:
        raise ValueError(f"hostlist {hostlist!r}: a bracket is not closed")
    if start < len(hostlist):
        yield hostlist[start:]


def _expand_one(part: str) -> Iterator[str]:
    before, bracket, rest = part.partition("[")
    if not bracket:
        yield part.strip()
        return
    inside, _, after = rest.partition("]")
    tails = list(_expand_one(after)) if after else [""]
    for number in _numbers(inside):
        for tail in tails:
            yield before.strip() + number + tail


def _numbers(inside: str) -> Iterator[str]:
    for piece in inside.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if not match:
            raise ValueError(f"{piece!r} is not a number or a range of numbers")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise ValueError(f"range {piece!r} runs backwards")
        if int(last) - int(first) >= MAX_NAMES:
            raise ValueError(f"range {piece!r} has more than {MAX_NAMES} names")
        for number in range(int(first), int(last) + 1):
            yield str(number).zfill(len(first))


def compress(names: Iterable[str]) -> str:
    """A hostlist with these names and no others, sorted: numbers at the ends of names become ranges.

    `expand(compress(names))` has the same names. What looks like a hostlist itself stays as it is.
    """
    alone: list[str] = []
    groups: dict[tuple[str, int], set[int]] = {}  # prefix and width of the number: n07 and n7 are two names
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            alone.append(name)
        else:
            groups.setdefault((match[1], len(match[2])), set()).add(int(match[2]))
    parts = [*dict.fromkeys(alone), *_merged(groups)]
    return ",".join(sorted(parts))


def _merged(groups: dict[tuple[str, int], set[int]]) -> Iterator[str]:
    for (prefix, width), numbers in groups.items():
        ranges: list[list[int]] = []
        for number in sorted(numbers):
            if ranges and number == ranges[-1][1] + 1:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
        texts = [f"{a:0{width}d}" if a == b else f"{a:0{width}d}-{b:0{width}d}" for a, b in ranges]
        single = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
        yield prefix + (texts[0] if single else f"[{','.join(texts)}]")
