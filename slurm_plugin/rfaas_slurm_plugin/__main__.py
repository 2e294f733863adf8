"""`python -m rfaas_slurm_plugin check | harvest | cancel | site-watch`: what `rfaas up --slurm`, `down`, sites start.

Answers are one JSON value on standard output, so that the caller needs nothing of this package.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import pwd
import sys
import time
from pathlib import Path

import click

from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import OffersClient
from rfaas.settings import Settings
from rfaas.site.borrower import SiteSettings
from rfaas_slurm_plugin import check
from rfaas_slurm_plugin.harvest import job
from rfaas_slurm_plugin.harvest.drains import DrainFile
from rfaas_slurm_plugin.harvest.harvester import Harvester, job_environment
from rfaas_slurm_plugin.harvest.hook_listener import HookListener
from rfaas_slurm_plugin.harvest.site_watch import SiteWatch
from rfaas_slurm_plugin.policy.settings import policy_of
from rfaas_slurm_plugin.views import sources
from rfaas_slurm_plugin.views.cli_view import CliView
from rfaas_slurm_plugin.views.view import ClusterUnavailable
from rfaas_transport.errors import ConfigError, RfaasError

EXIT_UNAVAILABLE = 69
EXIT_CONFIG = 78


@click.group()
def main() -> None:
    """Slurm's side of rfaas, for `rfaas up --slurm` and `rfaas down`."""


@main.command("check")
@click.option("--partition", default=None)
@click.option("--listen", default=None)
@click.option("--node", "nodes", multiple=True)
@click.option("--leave-node", "leave_nodes", multiple=True)
@click.option("--sbatch-option", "sbatch_options", multiple=True)
@click.option("--slurmrestd", default=None)
@click.option("--pyslurm-python", default=None)
def check_command(
    partition: str | None,
    listen: str | None,
    nodes: tuple[str, ...],
    leave_nodes: tuple[str, ...],
    sbatch_options: tuple[str, ...],
    slurmrestd: str | None,
    pyslurm_python: str | None,
) -> None:
    """Print the plan for this cluster as JSON, or an error with its remedy (exit 69 or 78)."""

    async def work() -> check.SlurmPlan:
        names, left = check.expand_nodes(nodes), check.expand_nodes(leave_nodes, "harvest.leave_nodes")
        source = (await sources.choose(slurmrestd, pyslurm_python)).source
        view, partitions, config = await asyncio.gather(source.read(), source.partitions(), source.config())
        chosen = check.choose_partition(partitions, config, partition)
        addresses = {node.name: node.address for node in view.nodes if chosen.name in node.partitions}
        check.refuse_unknown_nodes(names, tuple(addresses), chosen.name)
        if sbatch_options:
            await job.refuse_wrong_options(chosen.name, sbatch_options, job_environment())
        plan = check.make_plan(chosen, config, next(iter(addresses.values())), listen)
        return dataclasses.replace(plan, nodes=names, leave_nodes=left)

    try:
        plan = asyncio.run(work())
    except ClusterUnavailable as error:
        _fail(EXIT_UNAVAILABLE, str(error), "is this a host of a Slurm cluster, with Slurm's commands in PATH?")
    except RfaasError as error:
        _fail(EXIT_CONFIG, error.message, error.hint)
    click.echo(json.dumps(dataclasses.asdict(plan)))


def _fail(status: int, message: str, hint: str) -> None:
    click.echo(json.dumps({"error": message, "hint": hint}))
    sys.exit(status)


@main.command("harvest")
@click.option("--state-dir", type=click.Path(path_type=Path), required=True)
@click.option("--settings", required=True, help="JSON: the plan of `check` and the policy.")
def harvest_command(state_dir: Path, settings: str) -> None:
    """Run the harvester until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    given = json.loads(settings)
    plan = check.SlurmPlan(**given["plan"])
    policy = dataclasses.replace(
        policy_of(plan.partition, given["policy"]),
        user=_own_name(),
        nodes=frozenset(plan.nodes),
        leave_nodes=frozenset(plan.leave_nodes),
        time_limit_min=given["time_limit_min"] or plan.time_limit_min,
        cycle_s=given["cycle_s"],
    )

    async def work() -> None:
        address = AllocatorAddress.load(state_dir)
        template = job.JobTemplate(
            state_dir=state_dir,
            daemon_python=given["daemon_python"],
            alloc_id=address.alloc_id,
            grace_s=plan.grace_s,
            drain_s=plan.drain_s,
            extra=tuple(given["sbatch_options"]),
        )
        chosen = await sources.choose(given.get("slurmrestd"), given.get("pyslurm_python"))
        logging.getLogger(__name__).info("reading slurm by=%s because=%s", chosen.name, chosen.why)
        async with OffersClient(address) as offers:
            harvester = Harvester(
                source=chosen.source,
                offers=offers,
                policy=policy,
                template=template,
                environment=job_environment(),
                overdue_s=plan.overdue_s,
                cycle_s=given["cycle_s"],
            )
            listener = None
            if given.get("hooks_socket"):
                heard_uids = {0, plan.slurm_uid}
                listener = HookListener(given["hooks_socket"], heard_uids, harvester.hear)
                listener.open()
            try:
                await harvester.run()
            finally:
                if listener is not None:
                    listener.close()

    asyncio.run(work())


def _own_name() -> str:
    """As Slurm names this user's jobs; the uid where there is no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@main.command("site-watch")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Of an allocator whose `rfaas slurm drain` holds too."
)
@click.option("--every-s", type=float, default=10.0, help="Between two looks at Slurm [10].")
@click.option("--hooks-socket", help="Hear PrologSlurmctld there: /path or @name [nobody is heard].")
@click.option("--slurm-uid", type=int, default=0, help="SlurmUser's, who is heard beside root.")
def site_watch_command(state_dir: Path | None, every_s: float, hooks_socket: str | None, slurm_uid: int) -> None:
    """Tell the site's allocator (site.allocator) which nodes Slurm and the rules of [harvest] leave alone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    names = ("leave_partitions", "leave_features", "require_features", "leave_users", "leave_planned")

    async def work() -> None:
        settings = Settings.load()
        site = SiteSettings.of(settings)
        if not site.allocator:
            raise ConfigError("no site's allocator is set", hint="set site.allocator (RFAAS_SITE_ALLOCATOR=HOST:PORT)")
        policy = dataclasses.replace(
            policy_of("", {name: settings.value(f"harvest.{name}") for name in names}),
            nodes=frozenset(check.expand_nodes(settings.value("harvest.nodes"))),
            leave_nodes=frozenset(check.expand_nodes(settings.value("harvest.leave_nodes"), "harvest.leave_nodes")),
        )
        chosen = await sources.choose(settings.value("slurmrestd"), settings.value("pyslurm_python"))
        drains = DrainFile(state_dir) if state_dir else None
        watch = SiteWatch(chosen.source, site, policy, every_s, drains)
        listener = HookListener(hooks_socket, {0, slurm_uid}, watch.hear) if hooks_socket else None
        if listener is not None:
            listener.open()
        try:
            await watch.run()
        finally:
            if listener is not None:
                listener.close()

    try:
        asyncio.run(work())
    except (RfaasError, ClusterUnavailable) as error:
        click.echo(f"rfaas site-watch: {error}", err=True)
        sys.exit(EXIT_CONFIG)


@main.command("cancel")
@click.option("--alloc-id", required=True)
@click.option("--timeout-s", type=float, required=True)
def cancel_command(alloc_id: str, timeout_s: float) -> None:
    """Cancel all slices of an allocator and wait until they have ended; prints {"cancelled": n, "left": [job ids]}."""

    async def work() -> tuple[int, list[int]]:
        source, environment = CliView(), job_environment()
        deadline_s = time.monotonic() + timeout_s
        cancelled: set[int] = set()
        while True:
            view = await source.read()
            left = [j.job_id for j in view.jobs if not j.ended and job.stamp_of(j.comment, alloc_id) is not None]
            if not left or time.monotonic() > deadline_s:
                return len(cancelled), left
            await job.cancel(set(left) - cancelled, environment)
            cancelled.update(left)
            await asyncio.sleep(0.2)

    try:
        cancelled, left = asyncio.run(work())
    except ClusterUnavailable as error:
        _fail(EXIT_UNAVAILABLE, str(error), "slices end by themselves when their agents lose the allocator")
    click.echo(json.dumps({"cancelled": cancelled, "left": left}))


if __name__ == "__main__":
    main()
