"""The table of a run of peers: Markdown, CSV and a picture, made of the lines of peers.jsonl. Pure but for `write`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adapters import Peer

from rfaas.bench.statistics import Spread, ratios, spread

Rows = Sequence[Mapping[str, Any]]
LARGE = (1 << 20, 64 << 20)
COLOURS = {"raw": "#888888", "rfaas": "#c0392b"}  # the limits, and ours


class Line(NamedTuple):
    """One peer. Times in microseconds; None where it was not measured. Ratios are made round by round.

    Attributes:
        place: where it was fastest: see driver.pin.
        us: medians of single calls, of the rounds.
        p99_us: 99 % of single calls, of the rounds.
        over_raw, over_pool: a call's median over the bare shared memory's, and ProcessPoolExecutor's; below 1: faster.
        burst_over_pool: calls a second over ProcessPoolExecutor's; above 1 is faster.
        echo_gb_per_s: by size: twice the size over the median time.
    """

    peer: str
    rounds: int
    place: str
    us: Spread
    p99_us: Spread | None
    over_raw: Spread | None
    over_pool: Spread | None
    burst_per_s: Spread | None
    burst_over_pool: Spread | None
    echo_gb_per_s: dict[int, Spread]
    cold_s: Spread | None
    noise: str


def lines(rows: Rows) -> list[Line]:
    """One line a peer, fastest first."""
    by_peer: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_peer.setdefault(row["peer"], {})[row["round"]] = row
    made = [_line(name, found, by_peer) for name, found in by_peer.items()]
    return sorted(made, key=lambda line: line.us.median)


def _line(name: str, found: Mapping[int, Mapping[str, Any]], every: Mapping[str, Mapping[int, Any]]) -> Line:
    rounds = list(found.values())
    place = _best_place(rounds)
    calls = [row["places"][place]["p50_ns"] / 1e3 for row in rounds]
    p99s = [row["places"][place]["p99_ns"] / 1e3 for row in rounds if row["places"][place].get("p99_ns")]
    bursts = [row["burst"]["per_s"] for row in rounds if row.get("burst")]
    colds = [row["cold_ns"] / 1e9 for row in rounds if row.get("cold_ns")]
    return Line(
        peer=name,
        rounds=len(rounds),
        place=place,
        us=spread(calls),
        p99_us=spread(p99s) if p99s else None,
        over_raw=_over(found, every.get("raw_shm", {}), _call),
        over_pool=_over(found, every.get("process_pool", {}), _call),
        burst_per_s=spread(bursts) if bursts else None,
        burst_over_pool=_over(found, every.get("process_pool", {}), _burst),
        echo_gb_per_s={size: one for size in LARGE if (one := _echo(rounds, size)) is not None},
        cold_s=spread(colds) if colds else None,
        noise=", ".join(sorted({one["what"] for row in rounds for one in row.get("noise", ())})) or "-",
    )


def _best_place(rounds: Rows) -> str:
    places: list[str] = list(rounds[0]["places"])
    return min(places, key=lambda place: spread([row["places"][place]["p50_ns"] for row in rounds]).median)


def _call(rows: Rows) -> list[float | None]:
    place = _best_place(rows)
    return [row["places"][place]["p50_ns"] for row in rows]


def _burst(rows: Rows) -> list[float | None]:
    return [row["burst"]["per_s"] if row.get("burst") else None for row in rows]


def _over(
    mine: Mapping[int, Any], theirs: Mapping[int, Any], figure: Callable[[Rows], list[float | None]]
) -> Spread | None:
    """Ratios of the rounds that both have."""
    both = sorted(set(mine) & set(theirs))
    if not both:
        return None
    above, below = figure([mine[n] for n in both]), figure([theirs[n] for n in both])
    pairs = [(a, b) for a, b in zip(above, below, strict=True) if a is not None and b]
    return spread(ratios([a for a, _ in pairs], [b for _, b in pairs])) if pairs else None


def _echo(rounds: Rows, size_bytes: int) -> Spread | None:
    found = [row["echo"][str(size_bytes)]["p50_ns"] for row in rounds if str(size_bytes) in row["echo"]]
    return spread([2 * size_bytes / one for one in found]) if found else None


# --- forms ----------------------------------------------------------------------------------------------------------

HEADERS = (
    *("peer", "call µs", "p99 µs", "x raw shm", "x ProcessPool", "burst /s", "burst x ProcessPool"),
    *("echo 1 MiB GB/s", "echo 64 MiB GB/s", "cold s", "place", "rounds", "noise"),
)


def cells(line: Line) -> list[str]:
    """One line of the Markdown table: median and, in brackets, lowest to highest."""
    echoes = (line.echo_gb_per_s.get(size) for size in LARGE)
    figures = (line.us, line.p99_us, line.over_raw, line.over_pool, line.burst_per_s, line.burst_over_pool, *echoes)
    return [line.peer, *map(_text, figures), _text(line.cold_s), line.place, str(line.rounds), line.noise]


def _text(figure: Spread | None) -> str:
    if figure is None:
        return "-"
    return f"{_short(figure.median)} ({_short(figure.low)}-{_short(figure.high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(made: Sequence[Line], about: Mapping[str, Any], peers: Mapping[str, Peer]) -> str:
    """The whole page."""
    host = about["machine"]
    memory_gib = about["memory_bytes"] / 2**30
    out = [
        f"# rfaas and its peers, {about['date']}",
        "",
        f"{host['cpu']}, {host['cpus']} CPUs, {memory_gib:.0f} GiB, Linux {host['kernel']}, Python {host['python']}, "
        f"rfaas {host['rfaas']}; one worker each.",
        f"Command: `{about['command']}`. Medians of the rounds, lowest to highest in brackets; ratios in a round.",
        "A call sends a number and gets it back; a burst is 10,000 of them, fewer where a peer needs too long;",
        "an echo is a numpy array there and back. Every result was checked.",
        "",
        "| " + " | ".join(HEADERS) + " |",
        "| --- |" + " ---: |" * (len(HEADERS) - 4) + " --- | ---: | --- |",
        *("| " + " | ".join(cells(line)) + " |" for line in made),
        "",
        "`raw_...` are C programs that move 64 bytes (or the array) and do nothing else: the limits. `pipe`,",
        "`mpi4py`, `zeromq` and `grpc` carry a ten-line dispatch without scheduling, leases or errors: lower bounds.",
        "Place: none: not pinned; split: client and worker on a CPU each; same: both on one. Each at its fastest.",
        "",
        "| peer | settings | versions |",
        "| --- | --- | --- |",
    ]
    known = [peers[line.peer] for line in made if line.peer in peers]
    out += [f"| {peer.name} | {peer.settings} | {_versions(peer, about)} |" for peer in known]
    missing = [name for name in peers if name not in {line.peer for line in made}]
    if missing:
        out += ["", f"Not measured: {', '.join(missing)}; peers.jsonl says why."]
    return "\n".join([*out, ""])


def _versions(peer: Peer, about: Mapping[str, Any]) -> str:
    known = about["versions"].get(peer.venv, {})
    wanted = ("mpi4py", "openmpi", "pyzmq", "grpcio", "ray", "distributed", "parsl", "numpy", "uvloop")
    return (
        ", ".join(f"{name} {known[name]}" for name in wanted if name in known) or f"Python {about['machine']['python']}"
    )


def as_csv(made: Sequence[Line]) -> str:
    """Every figure with its spread, a column each."""
    names = ("us", "p99_us", "over_raw", "over_pool", "burst_per_s", "burst_over_pool", "cold_s")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    echoes = [f"echo_{size}_gb_per_s" for size in LARGE]
    parts = ("median", "low", "high")
    columns = [f"{name}_{part}" for name in (*names, *echoes) for part in parts]
    writer.writerow(["peer", "rounds", "place", "noise", *columns])
    for line in made:
        figures = [*(getattr(line, name) for name in names), *(line.echo_gb_per_s.get(size) for size in LARGE)]
        flat = [getattr(one, part) if one is not None else "" for one in figures for part in parts]
        writer.writerow([line.peer, line.rounds, line.place, line.noise, *flat])
    return out.getvalue()


def picture(made: Sequence[Line], path: Path, title: str) -> bool:
    """Bars of the medians on a logarithmic axis; False: matplotlib is not there."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(made) + 1.5), constrained_layout=True)
    shown = list(reversed(made))
    colours = [
        "#888888" if line.peer.startswith("raw_") else "#c0392b" if line.peer.startswith("rfaas") else "#2c6fa6"
        for line in shown
    ]
    errors = [[line.us.median - line.us.low for line in shown], [line.us.high - line.us.median for line in shown]]
    axes.barh([line.peer for line in shown], [line.us.median for line in shown], xerr=errors, color=colours)
    axes.set(xscale="log", xlabel="one call, µs (median of the rounds; whiskers: lowest and highest)", title=title)
    for place, line in enumerate(shown):
        axes.text(line.us.high * 1.1, place, _short(line.us.median), va="center", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)
    pyplot.close(figure)
    return True


def write(into: Path, rows: Rows, about: Mapping[str, Any], peers: Mapping[str, Peer]) -> None:
    """Write peers.md, peers.csv and peers.svg."""
    made = lines(rows)
    title = f"{about['date']}, {about['machine']['cpu']}, {about['machine']['cpus']} CPUs"
    drawn = picture(made, into / "peers.svg", title)
    text = markdown(made, about, peers)
    (into / "peers.md").write_text(text + ("\n![one call of each](peers.svg)\n" if drawn else ""))
    (into / "peers.csv").write_text(as_csv(made))
