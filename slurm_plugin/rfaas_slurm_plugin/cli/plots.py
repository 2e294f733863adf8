"""Pictures of reports and simulations, by matplotlib (`pip install rfaas[bench]`), which is imported only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rfaas_transport.errors import ConfigError

Curve = tuple[Sequence[float], Sequence[float]]
POINTS: Final = 2000
"""More are not seen in a picture: every n-th value is drawn."""


def figure(rows: int) -> tuple[Any, Any]:
    """A figure with that many axes below each other, drawn without a display.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib", hint="pip install rfaas[bench]") from error
    drawn = Figure(figsize=(8, 3 * rows), layout="constrained")
    return drawn, drawn.subplots(rows, 1, squeeze=False)[:, 0]


def save(drawn: Any, path: Path) -> None:  # noqa: ANN401 - a Figure
    """Write the picture; its kind is that of the name.

    Raises:
        ConfigError: it can't be written there, or not in that kind.
    """
    try:
        drawn.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} can't be written: {error}", hint="a name that ends with .svg, .pdf or .png"
        ) from error


def plot_gaps(path: Path, curve: Curve, lengths_s: Mapping[str, Sequence[float]]) -> None:
    """Idle nodes over time, and which share of gaps is longer than what."""
    drawn, (over_time, distribution) = figure(2)
    over_days(over_time, curve, "idle nodes")
    for name, of in lengths_s.items():
        ordered = _thinned(sorted(of))
        longer = [1 - i / len(ordered) for i in range(len(ordered))]
        distribution.step(ordered, longer, where="post", label=name or None)
    distribution.set(xscale="log", xlabel="length of gap (s)", ylabel="share of gaps that are longer", ylim=(0, 1))
    if any(lengths_s):
        distribution.legend(title="jobs take", loc="upper right")
    save(drawn, path)


def over_days(axes: Any, curve: Curve, label: str) -> None:  # noqa: ANN401 - Axes
    """A stepped curve over days since its beginning."""
    times_s, values = _thinned(curve[0]), _thinned(curve[1])
    axes.step([(at_s - times_s[0]) / 86_400 for at_s in times_s], values, where="post", linewidth=0.8, label=label)
    axes.set(xlabel="days", ylabel=label, ylim=(0, None))


def plot_simulation(path: Path, idle: Curve, serving: Curve, served_s: Sequence[float]) -> None:
    """Idle nodes and nodes that serve over time, and how long slices served."""
    drawn, (over_time, lengths) = figure(2)
    over_days(over_time, idle, "idle nodes")
    over_days(over_time, serving, "nodes with slices")
    over_time.legend(loc="upper right")
    over_time.set(ylabel="nodes")
    ordered = _thinned(sorted(served_s))
    share = [(i + 1) / len(ordered) for i in range(len(ordered))]
    lengths.step([max(at_s, 1.0) for at_s in ordered], share, where="post")
    lengths.set(xscale="log", xlabel="a slice served (s)", ylabel="share of slices", ylim=(0, 1))
    save(drawn, path)


def _thinned(values: Sequence[float]) -> Sequence[float]:
    return values[:: max(1, len(values) // POINTS)]
