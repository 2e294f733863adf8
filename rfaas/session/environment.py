"""What a client says of its own interpreter, so that functions run in the same one.

It is the key of a template process: equal environments share one (docs/spec/004-session.md section 4). Must
load nothing heavy, and must not pass what a launcher set for this process alone.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from typing import Any, Final

from rfaas.settings import Settings

KEPT: Final = (
    *(
        "PATH",
        "VIRTUAL_ENV",
        "HOME",
        "TZ",
        "PYTHONUTF8",
        "PYTHONIOENCODING",
        "LANG",
        "LANGUAGE",
        "LC_ALL",
        "LC_COLLATE",
    ),
    *("LC_CTYPE", "LC_MESSAGES", "LC_MONETARY", "LC_NUMERIC", "LC_TIME"),
)
LIMITS: Final = {"core": resource.RLIMIT_CORE, "nofile": resource.RLIMIT_NOFILE, "stack": resource.RLIMIT_STACK}
"""Soft limits (`ulimit -S`) that functions take from the program; others are those of the agent."""
LAUNCHER_PREFIXES: Final = (
    "SLURM_",
    "SLURMD_",
    "PMI",
    "OMPI_",
    "PRTE_",
    "HYDRA",
    "HYDI_",
    "MPI",
    "I_MPI_",
    "MV2_",
    "FLUX_",
)
"""What MPI launchers and Slurm say to one rank; who inherits it believes to be that rank."""
PRELOADED: Final = ("numpy", "scipy", "pandas", "sklearn")
"""Slow to import and safe to import before a fork, with one thread."""


def without_launcher(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that a launcher set for one rank or step."""
    return {name: value for name, value in variables.items() if not name.startswith(LAUNCHER_PREFIXES)}


def current() -> dict[str, Any]:
    """Describe the running interpreter. Cheap enough to call whenever a client joins."""
    cwd = _cwd()
    named = Settings.load().value("env_pass")
    variables = {name: os.environ[name] for name in (*KEPT, *named) if name in os.environ}
    return {
        "python": sys.executable,
        "version": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "path": [os.path.join(cwd, entry) if entry else cwd for entry in sys.path],
        "cwd": cwd,
        "preload": [name for name in PRELOADED if name in sys.modules],
        "vars": without_launcher(variables),
        "limits": {name: resource.getrlimit(number)[0] for name, number in LIMITS.items()},
    }


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody removed it; functions then run where they can
        return "/"
