"""Which modules a program has imported, and whether a worker's interpreter has the same: by names, nothing is imported.

Used at both ends: the client lists, the template compares. Standard library only; loaded in the user's environment.
Spec: docs/spec/004-session.md section 4.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Final

MOST: Final = 1000  # modules that a client names; a join has to fit a packet
_DISTRIBUTION: Final = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info")
_OURS: Final = ("rfaas", "rfaas_transport", "rfaas_executors", "rfaas_allocator", "rfaas_slurm_plugin")

Difference = tuple[str, str, str | None]
"""Module, version at the client, version at the worker; "" where it has none that can be found, None: it is missing."""


def imported(modules: Mapping[str, ModuleType] | None = None, without: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Name and version of each module that this process has imported from `sys.path`, without the standard library.

    Args:
        modules: sys.modules if None.
        without: names that need not be on a worker.
    """
    passed_over = {*sys.stdlib_module_names, *_OURS, *without}
    places = set(sys.path)
    found = {}
    for name, module in list((sys.modules if modules is None else modules).items()):
        if "." not in name and not name.startswith("_") and name not in passed_over and _place(module) in places:
            found[name] = module
    versions = installed_versions(found)
    listed = sorted((name, versions.get(name) or _own_version(module)) for name, module in found.items())
    return listed[:MOST]


def _place(module: ModuleType) -> str:
    """The entry of sys.path where a module was found; empty for one that was made otherwise."""
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str) or not os.path.isabs(origin):
        return ""
    directory = os.path.dirname(origin)
    return os.path.dirname(directory) if getattr(spec, "submodule_search_locations", None) else directory


def _own_version(module: ModuleType) -> str:
    version = getattr(module, "__version__", "")
    return version if isinstance(version, str) else ""


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that these modules come from, as the names of their metadata say."""
    wanted = set(names)
    found: dict[str, str] = {}
    others: list[tuple[str, str]] = []  # metadata of distributions that are named otherwise than their modules
    for place in sys.path:
        with contextlib.suppress(OSError), os.scandir(place or ".") as entries:
            for entry in entries:
                about = _DISTRIBUTION.fullmatch(entry.name)
                if about is None:
                    continue
                name = re.sub(r"[-_.]+", "_", about["name"])
                match = next((n for n in (name, name.lower()) if n in wanted), None)
                if match is not None:
                    found.setdefault(match, about["version"])
                else:
                    others.append((entry.path, about["version"]))
    if wanted - found.keys():
        _add_by_top_level(found, wanted, others)
    return found


def _add_by_top_level(found: dict[str, str], wanted: set[str], others: list[tuple[str, str]]) -> None:
    for path, version in others:
        with contextlib.suppress(OSError), open(os.path.join(path, "top_level.txt"), encoding="utf-8") as lines:
            for line in lines:
                if line.strip() in wanted:
                    found.setdefault(line.strip(), version)


def differences(modules: Iterable[tuple[str, str]]) -> list[Difference]:
    """What of a client's modules this interpreter lacks or has in another version."""
    listed = list(modules)
    versions = installed_versions(name for name, _ in listed)
    differ: list[Difference] = []
    for name, version in listed:
        if not _is_there(name):
            differ.append((name, version, None))
        elif version and versions.get(name, version) != version:
            differ.append((name, version, versions[name]))
    return differ


def _is_there(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a finder of the user's may raise too
        return False


def describe(differ: Iterable[Difference], node: str) -> str:
    """The differences for people, in one line."""
    said = []
    for name, here, there in differ:
        if there is None:
            said.append(f"{name}{f' {here}' if here else ''} is missing there")
        else:
            said.append(f"{name} is {here} here and {there} there")
    return f"node {node} has other modules than this program: {'; '.join(said)}"


REMEDY: Final = (
    "install the same versions where the workers run, bring modules along (Executor(files=[...])), "
    'or set check_modules="ignore" if functions need none of them'
)
