"""`rfaas share`: lend a part of the Slurm job that one runs, until it ends. No administrator needed.

Becomes `srun --overlap`, which runs this again on each node of the job, and there the lender
(`python -m rfaas_executors.share`); imports no component. With the SPANK plugin `--rfaas-share` does the same.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from rfaas.cli.common import fail, state_dir_option
from rfaas.units import parse_duration_s, parse_size_bytes
from rfaas_transport.errors import ConfigError, RfaasError


@click.command("share")
@state_dir_option
@click.option("--cores", type=click.IntRange(1), default=1, show_default=True, help="Cores to lend on each node.")
@click.option("--memory", "--mem", metavar="SIZE", required=True, help="Memory to lend on each node, e.g. 2GiB.")
@click.option("--grace", metavar="DURATION", default="5s", show_default=True, help="What running calls get at the end.")
@click.option("--here", is_flag=True, help="On this node alone, in this step.")
@click.option("--log", is_flag=True, help="With --here: write to a log in the state directory.")
def share(state_dir: Path, cores: int, memory: str, grace: str, here: bool, log: bool) -> None:
    """Lend a part of this Slurm job to your allocator.

    \b
    In a batch script, beside the job's own work:
        rfaas share --cores 2 --memory 8GiB &
    It ends with the job, or by SIGTERM: running calls get the grace. It never uses a CPU that a task of the job is
    bound to, and runs behind all others (SCHED_IDLE).
    """
    try:
        memory_bytes, grace_s = parse_size_bytes(memory, name="--memory"), parse_duration_s(grace, name="--grace")
        if not os.environ.get("SLURM_JOB_ID"):
            raise ConfigError("not inside a Slurm job", hint="`rfaas agent` lends cores of a host without Slurm")
    except RfaasError as error:
        fail(error, as_json=False)
    if here:
        amounts = ["--cores", str(cores), "--memory-bytes", str(memory_bytes), "--grace-s", f"{grace_s:g}"]
        lender = [sys.executable, "-m", "rfaas_executors.share", "--state-dir", str(state_dir)]
        _become([*lender, *amounts, *(["--log"] if log else [])])
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    step = ["srun", "--overlap", "--quiet", "--mpi=none", "--cpu-bind=none"]
    step += [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    again = [sys.executable, "-m", "rfaas", "share", "--here", "--state-dir", str(state_dir)]
    _become([*step, *again, "--cores", str(cores), "--memory", memory, "--grace", grace])


def _become(command: list[str]) -> NoReturn:
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        fail(ConfigError(f"can't run {command[0]}: {error}", hint="is Slurm's srun in PATH?"), as_json=False)
