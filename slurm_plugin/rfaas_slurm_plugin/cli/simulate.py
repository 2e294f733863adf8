"""`rfaas slurm simulate`: what harvesting would have given over the time that a record covers. Changes nothing."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Final

import click

from rfaas.cli.common import Seconds, fail, json_option, print_json, print_table
from rfaas.units import parse_size_bytes
from rfaas_slurm_plugin.cli.report import text_of
from rfaas_slurm_plugin.policy.settings import HarvestPolicy
from rfaas_slurm_plugin.report import gaps, traces
from rfaas_slurm_plugin.report.gaps import Gap, Taking
from rfaas_slurm_plugin.report.simulation import Costs, Outcome, Simulation
from rfaas_slurm_plugin.views.hostlist import expand
from rfaas_transport.errors import ConfigError, RfaasError

PERCENTILES: Final = (10, 25, 50, 75, 90, 99)
USUAL: Final = Costs()


@click.command("simulate")
@click.option("--idle-series", metavar="FILE", help="A CSV with columns time,idle_nodes[,total_nodes]; - is input.")
@click.option("--from", "sacct", metavar="FILE", help="What sacct printed (--parsable2); - is standard input.")
@click.option("--nodes", metavar="N|HOSTLIST", help="How many nodes the cluster has; with --from: which.")
@click.option("--cores-per-node", type=click.IntRange(1), required=True, help="Of each node.")
@click.option("--memory-per-node", metavar="SIZE", default="64GiB", show_default=True, help="Of each node.")
@click.option("--taking", type=click.Choice([t.value for t in Taking]), default="random", show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of --taking random.")
@click.option("--hours", type=Seconds(0, min_open=True), help="Only so many from the record's beginning.")
@click.option("--cycle-s", type=Seconds(0.1), default=10.0, show_default=True)
@click.option("--backoff-s", type=Seconds(0), default=3.0, show_default=True)
@click.option("--min-idle-s", type=Seconds(0), default=0.0, show_default=True)
@click.option("--submissions-per-s", type=Seconds(0.1), default=5.0, show_default=True)
@click.option("--time-limit-min", type=click.IntRange(0), default=0, show_default=True, help="Of a slice; 0: none.")
@click.option("--start-s", type=Seconds(0), default=USUAL.start_s, show_default=True, help="A slice's start.")
@click.option("--give-back-s", type=Seconds(0), default=USUAL.give_back_s, show_default=True)
@click.option("--long-s", type=Seconds(0), default=60.0, show_default=True, help="Gaps counted apart.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw idle and serving nodes, and how long slices served."
)
@json_option
def simulate(as_json: bool, plot: Path | None, **options: Any) -> None:  # noqa: ANN401
    """Simulate harvesting over a record, by the harvester's own policy code.

    \b
    rfaas slurm simulate --idle-series idle.csv --nodes 7241 --cores-per-node 36
    rfaas slurm simulate --from sacct.txt --cores-per-node 64 --min-idle-s 60

    Which node becomes idle or busy a series does not say: --taking says which idle node jobs take first. What the
    simulation knows and what not: docs/report.md.
    """
    try:
        found, n_nodes = _gaps(options)
        memory_mib = parse_size_bytes(options["memory_per_node"], name="--memory-per-node") >> 20
        policy = HarvestPolicy(
            partition="harvest",
            cycle_s=options["cycle_s"],
            backoff_s=options["backoff_s"],
            min_idle_s=options["min_idle_s"],
            max_submissions_per_s=options["submissions_per_s"],
            time_limit_min=options["time_limit_min"],
        )
        costs = Costs(options["start_s"], options["give_back_s"])
        began_s = time.perf_counter()
        outcome = Simulation(found, options["cores_per_node"], memory_mib, policy, costs, options["long_s"]).run()
        said = _said(outcome, options, n_nodes, len(found), time.perf_counter() - began_s)
        if plot:
            from rfaas_slurm_plugin.cli.plots import plot_simulation

            plot_simulation(plot, outcome.idle_nodes, outcome.serving_nodes, outcome.leases_s)
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        print_json(said | {"policy": _plain(policy), "costs": dataclasses.asdict(costs)})
        return
    print_table(["WHAT", "VALUE"], [[name, value] for name, value in _rows(said)])


def _gaps(options: dict[str, Any]) -> tuple[list[Gap], int]:
    """The gaps of the record, and how many nodes the cluster has; 0: not known."""
    series, sacct, nodes = options["idle_series"], options["sacct"], options["nodes"]
    if bool(series) == bool(sacct):
        raise ConfigError("name one record", hint="--idle-series FILE, or --from FILE")
    limit_s = float("inf") if options["hours"] is None else 3600 * options["hours"]
    if sacct:
        with text_of(sacct) as lines:
            jobs = traces.read_sacct(lines, sacct)
        try:
            names = expand(nodes) if nodes else traces.nodes_of(jobs)
        except ValueError as error:
            raise ConfigError(f"--nodes: {error}", hint='write hostlists as Slurm does: "n[1-4,7],login"') from error
        moments_s = [job.start_s for job in jobs] + [job.end_s for job in jobs if job.end_s != float("inf")]
        if not moments_s:
            raise ConfigError(f"{sacct} has no job that ran", hint=traces.SACCT)
        start_s = min(moments_s)
        found = gaps.gaps_of_jobs(jobs, names, start_s, min(max(moments_s), start_s + limit_s))
        n_nodes = len(names)
    else:
        if nodes and not nodes.isdecimal():
            raise ConfigError(f"--nodes {nodes}: a series has no names", hint="write how many nodes the cluster has")
        with text_of(series) as lines:
            samples = traces.read_idle_series(lines, series)
        samples = [sample for sample in samples if sample.at_s <= samples[0].at_s + limit_s]
        n_nodes = int(nodes or 0) or max(sample.total_nodes for sample in samples)
        most = max(sample.idle_nodes for sample in samples)
        if n_nodes and most > n_nodes:
            raise ConfigError(f"{most} nodes are idle in {series}, and the cluster has {n_nodes}", hint="--nodes N")
        found = gaps.gaps_of_series(samples, Taking(options["taking"]), options["seed"])
    if not found:
        raise ConfigError("no node is idle in that record", hint="there is nothing to simulate")
    return found, n_nodes


def _said(outcome: Outcome, options: dict[str, Any], nodes: int, n_gaps: int, took_s: float) -> dict[str, Any]:
    served = sorted(outcome.leases_s)
    at = {f"p{p}": round(served[max(0, -(-p * len(served) // 100) - 1)], 1) for p in PERCENTILES} if served else {}
    return {
        "nodes": nodes,
        "gaps": n_gaps,
        "idle_core_s": round(outcome.idle_core_s),
        "recovered_core_s": round(outcome.recovered_core_s),
        "recovered_share": round(outcome.recovered_core_s / outcome.idle_core_s, 4) if outcome.idle_core_s else 0.0,
        "long_s": options["long_s"],
        "idle_long_core_s": round(outcome.idle_long_core_s),
        "recovered_long_share": round(outcome.share_of_long, 4),
        "submissions": outcome.submissions,
        "preemptions": outcome.preemptions,
        "useless_starts": outcome.useless,
        "ended_by_limit": outcome.ended_by_limit,
        "lease_s": at,
        "cycles": outcome.cycles,
        "took_s": round(took_s, 2),
    }


def _rows(said: dict[str, Any]) -> list[tuple[str, str]]:
    hours = said["idle_core_s"] / 3600, said["recovered_core_s"] / 3600
    return [
        ("nodes", str(said["nodes"] or "not known")),
        ("gaps", f"{said['gaps']:,}"),
        ("idle core-hours", f"{hours[0]:,.1f}"),
        ("recovered core-hours", f"{hours[1]:,.1f} ({100 * said['recovered_share']:.1f} %)"),
        (f"recovered, of gaps >= {said['long_s']:g} s", f"{100 * said['recovered_long_share']:.1f} %"),
        ("slices submitted", f"{said['submissions']:,}"),
        ("preempted", f"{said['preemptions']:,}, {said['useless_starts']:,} of them before they served"),
        ("ended by their limit", f"{said['ended_by_limit']:,}"),
        ("a slice served", "  ".join(f"{name} {s:,.0f} s" for name, s in said["lease_s"].items()) or "-"),
        ("cycles simulated", f"{said['cycles']:,} in {said['took_s']:.1f} s"),
    ]


def _plain(policy: HarvestPolicy) -> dict[str, Any]:
    fields = dataclasses.asdict(policy)
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in fields.items()}
