"""The same timeline as `timeline` draws, as text for a terminal: one row a core, one character a slice of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from occupancy import Event, Interval, Kind, Span, covered_s, utilisation

LEGEND = "# rigid job   ! reclaim drain   = calls most of the time   - some calls   . harvest idle   (blank) not used"


def to_text(
    spans: Sequence[Span],
    events: Iterable[Event],
    cores_per_node: Mapping[str, int],
    t0_s: float,
    t1_s: float,
    *,
    columns: int = 100,
) -> str:
    """Rows of cores, then the events in order, then the utilisation.

    Raises:
        ValueError: as `utilisation`.
    """
    used = utilisation(spans, cores_per_node, t0_s, t1_s)
    step_s = (t1_s - t0_s) / columns
    by_core: dict[tuple[str, int], list[Span]] = defaultdict(list)
    for span in spans:
        by_core[span.node, span.core].append(span)

    indent = max(len(node) for node in cores_per_node) + 4
    lines = [f"{'':{indent}}one character is {step_s:.3g} s", f"{'':{indent}}{LEGEND}"]
    for node, n_cores in cores_per_node.items():
        for core in range(n_cores):
            cells = (_cell(by_core[node, core], t0_s + i * step_s, step_s) for i in range(columns))
            lines.append(f"{node if core == 0 else '':{indent - 4}}{core:>3} {''.join(cells)}")
    lines += _events(events, t0_s, step_s, node_width=indent - 4)
    lines.append(f"utilisation {used.without_harvest:.1%} without harvest, {used.with_harvest:.1%} with harvest")
    return "\n".join(lines)


def _events(events: Iterable[Event], t0_s: float, step_s: float, node_width: int) -> Iterable[str]:
    """One line for each event, or for all alike on a node that one character of the rows would cover."""
    groups: list[list[Event]] = []
    latest: dict[tuple[str, str | None], list[Event]] = {}
    for event in sorted(events, key=lambda event: event.t_s):
        key = (event.label or event.kind.value, event.node)
        if key in latest and event.t_s - latest[key][0].t_s < step_s:
            latest[key].append(event)
        else:
            groups.append([event])
            latest[key] = groups[-1]
    for group in groups:
        first = group[0]
        times = f" x {len(group)}" if len(group) > 1 else ""
        yield f"{first.t_s - t0_s:9.3f} s  {first.node or '':{node_width}}  {first.label or first.kind.value}{times}"


def _cell(spans: Iterable[Span], t0_s: float, step_s: float) -> str:
    """One character for what a core did from t0_s on; a drain shows however short it was."""
    pieces: dict[Kind, list[Interval]] = defaultdict(list)
    for span in spans:
        if span.t0_s < t0_s + step_s and span.t1_s > t0_s:
            pieces[span.kind].append((max(span.t0_s, t0_s), min(span.t1_s, t0_s + step_s)))
    if Kind.DRAIN in pieces:
        return "!"
    if covered_s(pieces[Kind.RIGID]) >= step_s / 2:
        return "#"
    calls_s = covered_s(pieces[Kind.CALL])
    if calls_s > 0:
        return "=" if calls_s >= step_s / 2 else "-"
    return "." if covered_s(pieces[Kind.IDLE]) >= step_s / 2 else " "
