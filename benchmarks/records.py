"""Where results go, and how a run that was cut off goes on: one line of JSON for each thing that was measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def directory(name: str, quick: bool, into: Path | None) -> Path:
    """The directory of a run: `into`, else benchmarks/results/TODAY, or out/NAME-quick, emptied, for a quick one."""
    today = datetime.date.today().isoformat()
    path = into or (ROOT / "out" / f"{name}-quick" if quick else ROOT / "benchmarks" / "results" / today)
    if quick and into is None:
        shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    return path


def load(path: Path, what: str) -> dict[tuple[int, str], dict[str, Any]]:
    """What was measured before, by (round, `what`); errors and a line that was cut off are left out: measured again."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "error" not in row:
            found[row["round"], row[what]] = row
    return found


def add(path: Path, row: dict[str, Any], show: Callable[[str], object] = print) -> None:
    """Append a row, and say what came of it."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    show(row.get("error") or f"{row['took_s']} s")


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def shortened(texts: Iterable[str]) -> list[str]:
    """Lines that say the same but for their first number as one: how often, the least and the most of it."""
    by_kind: dict[str, list[str]] = {}
    for text in texts:
        by_kind.setdefault(NUMBER.sub("#", text, count=1), []).append(text)
    lines = []
    for kind, alike in sorted(by_kind.items()):
        numbers = sorted((found[0] for found in map(NUMBER.search, alike) if found), key=float)
        span = f"{numbers[0]} to {numbers[-1]}" if numbers and numbers[0] != numbers[-1] else "".join(numbers[:1])
        times = f" ({len(alike)} times)" if len(alike) > 1 else ""
        lines.append(kind.replace("#", span, 1) + times)
    return lines


def about(command: str) -> dict[str, Any]:
    """Date, machine and versions of a run."""
    from rfaas.bench.report import machine

    return {
        "date": datetime.date.today().isoformat(),
        "command": command,
        "machine": machine(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "libc": " ".join(platform.libc_ver()),
    }
