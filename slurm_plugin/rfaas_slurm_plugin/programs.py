"""Where the programs and sources for a site's Slurm lie in this installation.

Slurm runs them as root: an administrator copies them to where only root writes, and never names these paths in
slurm.conf. Specs: docs/spec/009-hooks.md; how: docs/slurm.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rfaas_transport.errors import ConfigError

HERE: Final = Path(__file__).resolve().parent


def hook_program() -> Path:
    """The program `rfaas-hook`: Prolog, Epilog, PrologSlurmctld and EpilogSlurmctld in one.

    Raises:
        ConfigError: this installation was built without it.
    """
    return _there(HERE / "bin/rfaas-hook", "slurm_plugin/hooks/*.c")


def spank_sources() -> Path:
    """The folder whose Makefile builds rfaas_spank.so: in a copy of it, against the headers of the site's Slurm.

    Raises:
        ConfigError: this installation has none.
    """
    return _there(HERE / "spank", "slurm_plugin/spank")


def _there(path: Path, source: str) -> Path:
    if not path.exists():
        raise ConfigError(f"{path} is not there", hint=f"build it from {source}: its head says how")
    return path
