"""By which way the cluster is read, and why.

slurmrestd if its address is set, since whoever sets it means it; else pyslurm if an interpreter here imports it and its
version fits; else Slurm's commands, which every host of a cluster has. docs/slurm.md compares them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rfaas_slurm_plugin.views.cli_view import CliView
from rfaas_slurm_plugin.views.pyslurm_view import PyslurmView
from rfaas_slurm_plugin.views.rest_client import RestAddress
from rfaas_slurm_plugin.views.rest_view import RestView
from rfaas_slurm_plugin.views.view import ClusterUnavailable, ViewSource

NO_PYSLURM: Final = "none"
"""Value of the setting `pyslurm_python` that keeps pyslurm out."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A source, its name (slurmrestd, pyslurm, commands), and why it was taken and not another."""

    source: ViewSource
    name: str
    why: str

    def close(self) -> None:
        """End what runs for it; a later reading starts it again."""
        if isinstance(self.source, PyslurmView):
            self.source.close()


async def choose(
    slurmrestd: str | None, pyslurm_python: str | None, environment: Mapping[str, str] | None = None
) -> Choice:
    """Where the cluster is read.

    Args:
        slurmrestd: its address, or nothing.
        pyslurm_python: an interpreter that has pyslurm; nothing: the running one is tried; "none": pyslurm is not used.
        environment: in place of the process's: RFAAS_SLURM_JWT_FILE names the file with the token for slurmrestd.

    Raises:
        ConfigError: that is no address, or its token can't be read.
        ClusterUnavailable: the interpreter was named, and pyslurm can't be used with it.
    """
    environ = os.environ if environment is None else environment
    if slurmrestd:
        token_file = environ.get("RFAAS_SLURM_JWT_FILE")
        address = RestAddress.parse(slurmrestd, Path(token_file) if token_file else None)
        address.headers()  # a token that can't be read is better said now than at the first request
        return Choice(RestView(address), "slurmrestd", f"its address is set: {slurmrestd}")
    if pyslurm_python == NO_PYSLURM:
        return Choice(
            CliView(), "commands", "no slurmrestd is set, and pyslurm is switched off (pyslurm_python = none)"
        )
    python = pyslurm_python or sys.executable
    view = PyslurmView(python)
    try:
        versions = await view.versions()
        problem = versions.misfit
    except ClusterUnavailable as error:
        problem = str(error)
    if not problem:
        why = f"no slurmrestd is set; {python} has pyslurm {versions.pyslurm}, which fits Slurm {versions.slurm}"
        return Choice(view, "pyslurm", why)
    view.close()
    if pyslurm_python:
        raise ClusterUnavailable(f"pyslurm_python = {pyslurm_python}: {problem}")
    return Choice(CliView(), "commands", f"no slurmrestd is set; pyslurm is not used: {problem}")
