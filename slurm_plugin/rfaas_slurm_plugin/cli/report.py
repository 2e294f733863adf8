"""`rfaas slurm report`: what could be harvested, now or over the time that a record covers. Changes nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click

from rfaas.cli.common import fail, json_option, print_json, print_table
from rfaas.settings import Settings
from rfaas.units import parse_size_bytes
from rfaas_slurm_plugin.policy.settings import JOB_NAME
from rfaas_slurm_plugin.report import gaps, left_over, traces
from rfaas_slurm_plugin.report.gaps import Lengths, Taking
from rfaas_slurm_plugin.report.left_over import LeftOver
from rfaas_slurm_plugin.views.hostlist import expand
from rfaas_slurm_plugin.views.view import ClusterUnavailable, ClusterView
from rfaas_transport.errors import AllocatorUnavailable, ConfigError, RfaasError

GIB_H: Final = float(1 << 30) * 3600


@contextmanager
def text_of(path: str) -> Iterator[IO[str]]:
    """A file, or standard input for "-"."""
    try:
        if path == "-":
            yield sys.stdin
            return
        with Path(path).open() as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}", hint="a text file, or - for standard input") from error


@click.command("report")
@click.option("--from", "sacct", metavar="FILE", help="What sacct printed (--parsable2); - is standard input.")
@click.option("--trace", metavar="FILE", help="A CSV with columns time,idle_nodes[,total_nodes].")
@click.option("--cores-per-node", type=click.IntRange(1), help="Of the nodes of a record.")
@click.option("--memory-per-node", metavar="SIZE", help="Of the nodes of a record, e.g. 256GiB.")
@click.option("--nodes", metavar="HOSTLIST", help="Nodes that the record is about [those that sacct names].")
@click.option("--slurmrestd", help="Read Slurm there: unix:/path, http(s)://host [commands].")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw idle nodes over time and the gaps (matplotlib).")
@json_option
def report(sacct: str | None, trace: str | None, as_json: bool, plot: Path | None, **options: Any) -> None:  # noqa: ANN401
    """Report what could be harvested: idle nodes, idle cores of shared nodes, three kinds of memory apart.

    \b
    rfaas slurm report                                     the cluster as it is now
    rfaas slurm report --trace idle.csv --cores-per-node 64 --plot idle.svg
    sacct --allusers --duplicates --parsable2 --starttime=now-7days \\
      --format=JobIDRaw,State,Start,End,AllocNodes,AllocCPUS,AllocTRES,NodeList,NTasks,MaxRSS |
      rfaas slurm report --from - --cores-per-node 64 --memory-per-node 256GiB

    Columns, rules and what they can't tell: docs/report.md.
    """
    try:
        if sacct and trace:
            raise ConfigError("--from and --trace are two records", hint="name one of them")
        if plot and not (sacct or trace):
            raise ConfigError("--plot needs a record over time", hint="add --trace FILE or --from FILE")
        said = _of_sacct(sacct, options) if sacct else _of_series(trace, options) if trace else _of_now(options)
        if plot:
            from rfaas_slurm_plugin.cli.plots import plot_gaps

            plot_gaps(plot, said.pop("_curve"), said.pop("_gaps"))
    except RfaasError as error:
        fail(error, as_json=as_json)
    said = {name: value for name, value in said.items() if not name.startswith("_")}
    if as_json:
        print_json(said)
    else:
        _show(said)


def _of_now(options: dict[str, Any]) -> dict[str, Any]:
    from rfaas_slurm_plugin.views import sources

    settings = Settings.load(options={"slurmrestd": options["slurmrestd"]})

    async def read() -> ClusterView:
        chosen = await sources.choose(settings.value("slurmrestd"), settings.value("pyslurm_python"))
        try:
            return await chosen.source.read()
        finally:
            chosen.close()

    try:
        view = asyncio.run(read())
    except ClusterUnavailable as error:
        raise AllocatorUnavailable(
            f"Slurm can't be asked: {error}", hint="on a host without Slurm: --trace FILE or --from FILE"
        ) from error
    lent: dict[str, tuple[int, int]] = {}
    for job in view.jobs:
        if job.name == JOB_NAME and not job.ended and len(job.nodes) == 1:
            cores, memory_mib = lent.get(job.nodes[0], (0, 0))
            lent[job.nodes[0]] = cores + job.cores, memory_mib + job.memory_per_node_mib
    usable = [node for node in view.nodes if node.usable]
    idle = [n for n in usable if n.allocated_cores <= lent.get(n.name, (0, 0))[0]]
    return {
        "source": "slurm now",
        "nodes": len(view.nodes),
        "usable_nodes": len(usable),
        "idle_nodes": len(idle),
        "harvested_cores": sum(cores for cores, _ in lent.values()),
        **_of_left_over(left_over.of_view(view.nodes, lent), 1.0, float(1 << 30), "cores", "gib"),
    }


def _of_left_over(found: LeftOver, per_core: float, per_byte: float, cores: str, memory: str) -> dict[str, Any]:
    """The same in the units that people read."""

    def part(amount: float | None) -> float | None:
        return None if amount is None or not found.memory_bytes else round(amount / per_byte, 3)

    return {
        cores: {
            "all": round(found.cores / per_core, 3),
            "of_idle_nodes": round(found.idle_node_cores / per_core, 3),
            "idle_of_shared_nodes": round(found.shared_node_cores / per_core, 3),
        },
        memory: {
            "all": part(found.memory_bytes),
            "of_idle_nodes": part(found.idle_node_memory_bytes),
            "unrequested_of_shared_nodes": part(found.unrequested_memory_bytes),
            "requested_and_unused": part(found.unused_memory_bytes),
        },
    }


def _per_node(options: dict[str, Any]) -> tuple[int, int]:
    if not options["cores_per_node"]:
        raise ConfigError("a record does not say how large nodes are", hint="add --cores-per-node N")
    memory = options["memory_per_node"]
    return options["cores_per_node"], parse_size_bytes(memory, name="--memory-per-node") if memory else 0


def _of_series(path: str, options: dict[str, Any]) -> dict[str, Any]:
    cores, memory_bytes = _per_node(options)
    with text_of(path) as lines:
        samples = traces.read_idle_series(lines, path)
    start_s, end_s = samples[0].at_s, samples[-1].at_s
    found = {taking: gaps.gaps_of_series(samples, taking) for taking in (Taking.NEWEST, Taking.OLDEST)}
    idle_s = sum(gap.length_s for gap in found[Taking.NEWEST])
    node_s = float(max(sample.total_nodes for sample in samples)) * (end_s - start_s)
    left = LeftOver(node_s * cores, idle_s * cores, 0.0, node_s * memory_bytes, idle_s * memory_bytes, 0.0, None)
    said = _of_left_over(left, 3600.0, GIB_H, "core_hours", "gib_hours")
    said["core_hours"]["idle_of_shared_nodes"] = said["gib_hours"]["unrequested_of_shared_nodes"] = None
    if not node_s:
        said["core_hours"]["all"] = said["gib_hours"]["all"] = None
    if memory_bytes:
        said["gib_hours"]["of_idle_nodes"] = round(left.idle_node_memory_bytes / GIB_H, 3)
    return {
        "source": path,
        "days": round((end_s - start_s) / 86_400, 3),
        "samples": len(samples),
        "mean_idle_nodes": round(idle_s / (end_s - start_s), 2) if end_s > start_s else 0.0,
        **said,
        "gaps": {f"jobs take the {taking.value} first": _lengths(gaps.lengths_of(g)) for taking, g in found.items()},
        "_curve": ([s.at_s for s in samples], [s.idle_nodes for s in samples]),
        "_gaps": {f"{taking.value} first": [g.length_s for g in of if not g.cut] for taking, of in found.items()},
    }


def _of_sacct(path: str, options: dict[str, Any]) -> dict[str, Any]:
    cores, memory_bytes = _per_node(options)
    with text_of(path) as lines:
        jobs = traces.read_sacct(lines, path)
    if not jobs:
        raise ConfigError(f"{path} has no job that ran", hint=traces.SACCT)
    try:
        nodes = expand(options["nodes"]) if options["nodes"] else traces.nodes_of(jobs)
    except ValueError as error:
        raise ConfigError(f"--nodes: {error}", hint='write hostlists as Slurm does: "n[1-4,7],login"') from error
    # what runs on says nothing of the end of the record: the last thing that happened does
    moments_s = [job.start_s for job in jobs] + [job.end_s for job in jobs if job.end_s != float("inf")]
    start_s, end_s = min(moments_s), max(moments_s)
    found = gaps.gaps_of_jobs(jobs, nodes, start_s, end_s)
    left = left_over.of_jobs(jobs, nodes, cores, memory_bytes, start_s, end_s)
    changes = sorted([(gap.start_s, 1) for gap in found] + [(gap.end_s, -1) for gap in found])
    curve_y, level = [], 0
    for _, step in changes:
        level += step
        curve_y.append(level)
    return {
        "source": path,
        "days": round((end_s - start_s) / 86_400, 3),
        "jobs": len(jobs),
        "nodes": len(nodes),
        **_of_left_over(left, 3600.0, GIB_H, "core_hours", "gib_hours"),
        "gaps": {"idle nodes": _lengths(gaps.lengths_of(found))},
        "_curve": ([at_s for at_s, _ in changes], curve_y),
        "_gaps": {"": [gap.length_s for gap in found if not gap.cut]},
    }


def _lengths(found: Lengths) -> dict[str, Any]:
    return {
        "gaps": found.n,
        "cut_off": found.n_cut,
        "node_hours": round(found.node_s / 3600, 3),
        "percentiles_s": {f"p{p}": round(length_s, 1) for p, length_s in found.percentiles_s.items()},
        "at_least_s": {
            str(length_s): {"of_gaps": round(of_gaps, 4), "of_node_hours": round(of_hours, 4)}
            for length_s, (of_gaps, of_hours) in found.shares.items()
        },
    }


WORDS: Final = {
    "of_idle_nodes": "of idle nodes",
    "idle_of_shared_nodes": "idle, of shared nodes",
    "unrequested_of_shared_nodes": "unrequested, of shared nodes",
    "requested_and_unused": "requested by jobs and unused",
}


def _show(said: dict[str, Any]) -> None:
    """What a person reads."""
    plain = {name: value for name, value in said.items() if not isinstance(value, dict)}
    click.echo("  ".join(f"{name.replace('_', ' ')}: {value}" for name, value in plain.items()) + "\n")
    rows = []
    for kind, unit in (("cores", ""), ("core_hours", " h"), ("gib", " GiB"), ("gib_hours", " GiB h")):
        amounts = said.get(kind, {})
        whole = amounts.get("all")
        for name, words in WORDS.items():
            if name in amounts:
                amount = amounts[name]
                share = f"{100 * amount / whole:.1f} %" if amount is not None and whole else "-"
                what = "cores" if kind.startswith("core") else "memory"
                rows.append([what, words, "not known" if amount is None else f"{amount:,.1f}{unit}", share])
    print_table(["WHAT", "WHICH", "AMOUNT", "OF ALL"], rows)
    for name, found in said.get("gaps", {}).items():
        click.echo(f"\ngaps ({name}): {found['gaps']}, of which {found['cut_off']} are cut off by the record")
        if found["percentiles_s"]:
            print_table(
                [p.upper() for p in found["percentiles_s"]], [[f"{s:,.0f} s" for s in found["percentiles_s"].values()]]
            )
        shares = [
            [f">= {s} s", f"{100 * of['of_gaps']:.1f} %", f"{100 * of['of_node_hours']:.1f} %"]
            for s, of in found["at_least_s"].items()
        ]
        print_table(["LENGTH", "OF GAPS", "OF NODE-HOURS"], shares)
