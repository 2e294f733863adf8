"""Pictures of a latency run. Needs matplotlib (`pip install rfaas[bench]`), which is loaded when one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfaas.bench.latency import Report, Row
from rfaas.bench.statistics import cumulative
from rfaas_transport.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check(paths: list[Path | None]) -> None:
    """Refuse before anything is measured what can't be drawn afterwards.

    Raises:
        ConfigError: matplotlib is missing, or it can't write such a file.
    """
    for path in filter(None, paths):
        figure, _ = _figure()
        if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
            raise ConfigError(f"{path}: no kind of picture", hint="name it .svg, .png or .pdf")


def over_size(report: Report, path: Path) -> None:
    """Draw medians over the payload's size, with the bare medium beneath, both axes logarithmic; a band to the 99 %."""
    figure, axes = _figure()
    series: dict[str, list[Row]] = {}
    for row in report.rows:
        if row.size_bytes:
            series.setdefault(f"{row.state} {row.function} {row.call}", []).append(row)
    bare: dict[str, list[Row]] = {}
    for name, rows in series.items():
        sizes = [row.size_bytes for row in rows]
        (line,) = axes.plot(sizes, [row.calls.p50_ns / 1e3 for row in rows], marker="o", label=name)
        tails = [(row.calls.p99_ns or row.calls.max_ns) / 1e3 for row in rows]
        axes.fill_between(
            sizes, [row.calls.p50_ns / 1e3 for row in rows], tails, color=line.get_color(), alpha=0.15, linewidth=0
        )
        bare.setdefault(rows[0].state, rows)
    for state, rows in bare.items():
        style = "--" if state == "hot" else ":"
        raws = [row.raw.p50_ns / 1e3 for row in rows]
        axes.plot([row.raw_bytes for row in rows], raws, style, color="black", label=f"{state} bare {report.medium}")
    axes.set(xscale="log", yscale="log", xlabel="bytes, there and back", ylabel="round trip, µs (band: p50 to p99)")
    _finish(figure, axes, report, path)


def distribution(report: Report, path: Path) -> None:
    """Draw the cumulative distribution of each series of the smallest size, the time logarithmic."""
    figure, axes = _figure()
    smallest = min(row.size_bytes for row in report.rows)
    for row in (row for row in report.rows if row.size_bytes == smallest):
        for name, blocks, style in (
            (f"{row.state} {row.function} {row.call}", row.call_samples_ns, "-"),
            (f"{row.state} bare {report.medium} beside it", row.raw_samples_ns, "--"),
        ):
            points = cumulative(sorted(one for block in blocks for one in block))
            axes.plot([took / 1e3 for took, _ in points], [share for _, share in points], style, label=name)
    axes.set(xscale="log", xlabel=f"round trip of {smallest} bytes, µs", ylabel="share of round trips")
    _finish(figure, axes, report, path)


def _figure() -> tuple[Any, Axes]:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError("pictures need matplotlib", hint="pip install rfaas[bench], or leave out --plot") from error
    figure, axes = pyplot.subplots(figsize=(8, 5), constrained_layout=True)
    pyplot.close(figure)
    return figure, axes


def _finish(figure: Any, axes: Axes, report: Report, path: Path) -> None:  # noqa: ANN401 - matplotlib is optional
    noise = "; ".join(sorted({one.what for one in report.noise})) or "none seen"
    axes.set_title(f"{report.medium} on {report.node}; {report.pins.text}; noise: {noise}", fontsize=9)
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8)
    figure.savefig(path)
