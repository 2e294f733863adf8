"""Draw who had which core when, as an SVG picture.

`to_svg` is a pure function of records (see `occupancy`) and needs nothing but the standard library. One row a core,
grouped by node; colours that stay apart for colour-blind readers and in print; tooltips in a browser.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from occupancy import Event, EventKind, Kind, Span, Utilisation, covered_s, utilisation

# Blue, orange and purple of Okabe and Ito's palette; idle is a paler orange, because it may become a call any moment.
COLOURS = {Kind.IDLE: "#fbe7bd", Kind.CALL: "#e69f00", Kind.DRAIN: "#cc79a7", Kind.RIGID: "#0072b2"}
UNUSED = "#f0f2f4"
INK = "#1f2933"
FAINT = "#7b8794"

WIDTH = 1200
LEFT = 128  # of the plot; node and core names stand before it
RIGHT = 1172
ROW = 17
ROW_GAP = 3
LANE = 17  # above each node's rows, for the marks of its events
TOP = 118
SLOT = 2  # width of a column in which calls too short to see are added up
SEPARATE = 7  # a call at least this wide gets its own bar


@dataclass(frozen=True)
class Layout:
    """Where things go: pixels of times and cores."""

    cores_per_node: Mapping[str, int]
    t0_s: float
    t1_s: float

    def x(self, t_s: float) -> float:
        """Pixel of a time, kept inside the plot."""
        share = (t_s - self.t0_s) / (self.t1_s - self.t0_s)
        return LEFT + min(1.0, max(0.0, share)) * (RIGHT - LEFT)

    def node_top(self, node: str) -> float:
        """Upper edge of a node's lane of marks."""
        y = float(TOP)
        for name, n_cores in self.cores_per_node.items():
            if name == node:
                return y
            y += _node_height(n_cores)
        raise ValueError(f"no node {node}")

    def row_top(self, node: str, core: int) -> float:
        """Upper edge of a core's row."""
        return self.node_top(node) + LANE + core * (ROW + ROW_GAP)

    @property
    def bottom(self) -> float:
        """Lower edge of the last node."""
        return TOP + sum(_node_height(n_cores) for n_cores in self.cores_per_node.values())


def to_svg(
    spans: Sequence[Span],
    events: Sequence[Event],
    cores_per_node: Mapping[str, int],
    t0_s: float,
    t1_s: float,
    *,
    title: str,
    subtitle: str = "",
) -> str:
    """Draw the window from t0_s to t1_s; the time axis begins at zero there.

    Raises:
        ValueError: as `utilisation`.
    """
    used = utilisation(spans, cores_per_node, t0_s, t1_s)
    layout = Layout(cores_per_node, t0_s, t1_s)
    body = [
        _text(24, 36, title, size=20, weight=600),
        _text(24, 58, subtitle, size=13, fill=FAINT),
        *_legend(events),
        *_rows(layout),
        *_axis(layout),
        *_spans(layout, spans),
        *_job_lines(layout, events),
        *_marks(layout, events),  # last: a count stays readable beside a line
        *_utilisation(layout.bottom + 62, used),
    ]
    height = layout.bottom + 150
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'role="img" font-family="Inter, Helvetica, Arial, \'DejaVu Sans\', sans-serif">'
        f"<title>{escape(title)}</title>"
    )
    return "\n".join([head, _HATCH, f'<rect width="{WIDTH}" height="{height:g}" fill="white"/>', *body, "</svg>", ""])


def _node_height(n_cores: int) -> float:
    return LANE + n_cores * (ROW + ROW_GAP) + 6


# Drains are short and matter most, so they carry a second sign besides their colour.
_HATCH = (
    '<defs><pattern id="drain" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="5" height="5" fill="{COLOURS[Kind.DRAIN]}"/><rect width="2" height="5" fill="#7a3b5e"/>'
    "</pattern></defs>"
)


def _fill(kind: Kind) -> str:
    return "url(#drain)" if kind is Kind.DRAIN else COLOURS[kind]


def _rect(x: float, y: float, width: float, height: float, fill: str, tip: str = "", radius: float = 0) -> str:
    box = f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{fill}"'
    box += f' rx="{radius:g}"' if radius else ""
    return f"{box}><title>{escape(tip)}</title></rect>" if tip else f"{box}/>"


def _text(
    x: float, y: float, text: str, *, size: float = 12, fill: str = INK, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}" paint-order="stroke" stroke="white" stroke-width="3">{escape(text)}</text>'
    )


def _rows(layout: Layout) -> Iterable[str]:
    for node, n_cores in layout.cores_per_node.items():
        middle = layout.row_top(node, 0) + (n_cores * (ROW + ROW_GAP) - ROW_GAP) / 2
        yield _text(24, middle + 4.5, node, size=13, weight=600)
        for core in range(n_cores):
            y = layout.row_top(node, core)
            yield _text(LEFT - 10, y + ROW - 4.5, str(core), size=10.5, fill=FAINT, anchor="end")
            yield _rect(LEFT, y, RIGHT - LEFT, ROW, UNUSED)


def _axis(layout: Layout) -> Iterable[str]:
    length_s = layout.t1_s - layout.t0_s
    step_s = tick_step_s(length_s)
    decimals = max(0, -math.floor(math.log10(step_s)))
    for i in range(math.floor(length_s / step_s * (1 + 1e-9)) + 1):
        x = layout.x(layout.t0_s + i * step_s)
        yield f'<path d="M{x:.1f} {TOP}V{layout.bottom + 4:.1f}" stroke="#cbd2d9" stroke-width="0.75"/>'
        yield _text(x, layout.bottom + 19, f"{i * step_s:.{decimals}f}", size=11, fill=FAINT, anchor="middle")
    yield _text(24, layout.bottom + 19, "seconds", size=11, fill=FAINT)


def tick_step_s(length_s: float, most: int = 12) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides a length into at most so many steps."""
    power = 10.0 ** math.floor(math.log10(length_s / most))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if length_s / (factor * power) <= most)


def _spans(layout: Layout, spans: Iterable[Span]) -> Iterable[str]:
    """Everything a core did, the more telling on top; short calls are added up per column."""
    short: dict[tuple[str, int], list[Span]] = defaultdict(list)
    for kind in Kind:
        for span in sorted((s for s in spans if s.kind is kind), key=lambda s: s.t0_s):
            if span.t1_s < layout.t0_s or span.t0_s > layout.t1_s:
                continue
            x0, x1 = layout.x(span.t0_s), layout.x(span.t1_s)
            if kind is Kind.CALL and x1 - x0 < SEPARATE:
                short[span.node, span.core].append(span)
                continue
            gap = 1.0 if kind is Kind.CALL else 0.0
            width = max(1.0, x1 - x0 - gap)  # nothing that happened is too short to be seen
            yield _rect(x0, layout.row_top(span.node, span.core), width, ROW, _fill(kind), _tip(span))
        if kind is Kind.CALL:
            yield from (_short_calls(layout, node, core, calls) for (node, core), calls in short.items())


def _short_calls(layout: Layout, node: str, core: int, calls: Sequence[Span]) -> str:
    """One shape for many short calls: as high, column by column, as the share of time in which one was running."""
    columns: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for call in calls:
        x0, x1 = layout.x(call.t0_s), layout.x(call.t1_s)
        for column in range(int(x0 // SLOT), int(x1 // SLOT) + 1):
            columns[column].append((max(x0, column * SLOT), min(x1, (column + 1) * SLOT)))
    base = layout.row_top(node, core) + ROW
    shape = []
    for column, pieces in sorted(columns.items()):
        height = ROW * covered_s(pieces) / SLOT
        shape.append(f"M{column * SLOT} {base:g}v{-height:.1f}h{SLOT}v{height:.1f}z")
    tip = (
        f"<title>{len(calls)} short calls on {escape(node)} core {core}; height: share of time in which one ran</title>"
    )
    return f'<path d="{"".join(shape)}" fill="{COLOURS[Kind.CALL]}" shape-rendering="crispEdges">{tip}</path>'


def _tip(span: Span) -> str:
    label = f" ({span.label})" if span.label else ""
    return f"{span.kind.value}{label} on {span.node} core {span.core}, {span.t1_s - span.t0_s:.3f} s"


def _job_lines(layout: Layout, events: Iterable[Event]) -> Iterable[str]:
    """A job's start and end are lines through all nodes, named at the top."""
    last_x = {EventKind.JOB_START: -math.inf, EventKind.JOB_END: -math.inf}
    for event in sorted(events, key=lambda event: event.t_s):
        if event.kind not in last_x:
            continue
        x = layout.x(event.t_s)
        dash = "" if event.kind is EventKind.JOB_START else ' stroke-dasharray="4 3"'
        yield f'<path d="M{x:.1f} {TOP - 14}V{layout.bottom:.1f}" stroke="{INK}" stroke-width="1.25"{dash}/>'
        if x - last_x[event.kind] > 90:  # jobs that start together share one name
            anchor, shift = ("end", -4) if x > RIGHT - 90 else ("start", 4)
            yield _text(x + shift, TOP - 5, event.label or event.kind.value, size=11, weight=600, anchor=anchor)
            last_x[event.kind] = x


def _marks(layout: Layout, events: Iterable[Event]) -> Iterable[str]:
    """Notices and re-dispatches stand above their node's rows; marks that would overlap become one with a count."""
    groups: dict[tuple[str, EventKind], list[list[Event]]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.t_s):
        if event.kind in (EventKind.JOB_START, EventKind.JOB_END):
            continue
        together = groups[event.node or next(iter(layout.cores_per_node)), event.kind]
        if together and layout.x(event.t_s) - layout.x(together[-1][0].t_s) < 12:
            together[-1].append(event)
        else:
            together.append([event])
    for (node, kind), merged in groups.items():
        y = layout.node_top(node) + LANE - 7
        for group in merged:
            x = layout.x(group[0].t_s)
            tip = "; ".join(sorted({event.label or kind.value for event in group}))
            yield _mark(kind, x, y, tip)
            if len(group) > 1:
                yield _text(x + 7, y + 3.5, f"{len(group)}", size=10, weight=600)


def _mark(kind: EventKind, x: float, y: float, tip: str = "") -> str:
    title = f"<title>{escape(tip)}</title>" if tip else ""
    if kind is EventKind.NOTICE:
        return f'<path d="M{x - 5:.1f} {y - 4:.1f}h10l-5 9z" fill="#b3005e">{title}</path>'
    if kind is EventKind.REDISPATCH:
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="white" stroke="{INK}" stroke-width="1.75">{title}</circle>'
        )
    dash = "" if kind is EventKind.JOB_START else ' stroke-dasharray="4 3"'
    return f'<path d="M{x:.1f} {y - 7:.1f}v14" stroke="{INK}" stroke-width="1.5"{dash}>{title}</path>'


def _legend(events: Sequence[Event]) -> Iterable[str]:
    x, y = 24.0, 76
    present = {event.kind for event in events}
    entries: list[tuple[str, Kind | EventKind | None]] = [(kind.value, kind) for kind in reversed(Kind)]
    entries += [("not used", None), *((kind.value, kind) for kind in EventKind if kind in present)]
    for name, kind in entries:
        if isinstance(kind, EventKind):
            yield _mark(kind, x + 8, y + 7)
        else:
            yield _rect(x, y, 16, 14, _fill(kind) if kind else UNUSED, radius=2)
        yield _text(x + 22, y + 11.5, name, size=12)
        x += 42 + 6.6 * len(name)


def _utilisation(y: float, used: Utilisation) -> Iterable[str]:
    """Two bars: the share of all core-seconds in use without the calls, and with them."""
    yield _text(24, y, "Utilisation", size=13, weight=600)
    shares = [("without harvest", used.without_harvest), ("with harvest", used.with_harvest)]
    for line, (name, share) in enumerate(shares):
        top = y + 14 + line * 25
        yield _text(24, top + 13, name, size=12)
        yield _rect(LEFT, top, RIGHT - LEFT - 70, 18, UNUSED, radius=2)
        full = RIGHT - LEFT - 70
        if line == 1:
            yield _rect(LEFT, top, full * share, 18, COLOURS[Kind.CALL], "calls", radius=2)
        yield _rect(LEFT, top, full * used.without_harvest, 18, COLOURS[Kind.RIGID], "rigid jobs", radius=2)
        yield _text(RIGHT, top + 14, f"{share:.1%}", size=14, anchor="end", weight=600)
