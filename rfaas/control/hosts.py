"""Known hosts as JSON: what `rfaas inventory export` writes, `import` and an allocator's `--inventory` read.

`{"schema": "rfaas-inventory/1", "complete": bool, "hosts": [{"name": str, "cores": n, "memory": n | "64GiB"}, …]}`
Keys of a host that are not known are ignored, so an export can be edited and read again. Loads neither grpc nor
protobuf. Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rfaas.control.messages import Host, Snapshot
from rfaas.units import parse_size_bytes
from rfaas_transport.errors import ConfigError

SCHEMA: Final = "rfaas-inventory/1"
CORES_LIMIT: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class HostList:
    """Hosts that something named; `complete`: there are no others."""

    hosts: tuple[Host, ...] = ()
    complete: bool = False


def read_hosts(path: Path) -> HostList:
    """The hosts that a file names.

    Raises:
        ConfigError: it can't be read or makes no sense; nothing was taken from it.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        hint = "`rfaas inventory export` shows the form"
        raise ConfigError(f"the inventory {path} can't be read: {error}", hint=hint) from error
    return parse_hosts(text, str(path))


def parse_hosts(text: str, name: str) -> HostList:
    """The hosts of a JSON text; `name` says where it is from, for errors.

    Raises:
        ConfigError: it makes no sense; nothing was taken from it.
    """
    try:
        about = json.loads(text)
        if not isinstance(about, dict) or about.get("schema") != SCHEMA:
            raise ValueError(f'it has no "schema": "{SCHEMA}"')
        if not isinstance(about.get("complete", False), bool):
            raise ValueError('"complete" is neither true nor false')
        hosts = tuple(_host(entry) for entry in about["hosts"])
    except (ValueError, TypeError, KeyError, ConfigError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise ConfigError(
            f"the inventory {name} can't be used: {what}", hint="`rfaas inventory export` shows the form"
        ) from error
    names = [host.name for host in hosts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"the inventory {name} names {', '.join(twice)} twice", hint="leave one of each")
    return HostList(hosts, about.get("complete", False))


def _host(entry: Any) -> Host:  # noqa: ANN401 - what a file held
    name, cores = entry["name"], entry["cores"]
    if not isinstance(name, str) or not name:
        raise ValueError("a host needs a name")
    if isinstance(cores, bool) or not isinstance(cores, int) or not 1 <= cores <= CORES_LIMIT:
        raise ValueError(f"host {name}: cores={cores!r} is no number of cores")
    memory = entry["memory"] if "memory" in entry else entry["memory_bytes"]
    return Host(name, cores, parse_size_bytes(memory, name=f"host {name}: memory"), "file")


def hosts_json(snapshot: Snapshot) -> dict[str, Any]:
    """Every host that an allocator knows, by inventory or because an agent is there, in the same form."""
    found: dict[str, dict[str, Any]] = {}
    for host in snapshot.hosts:
        found[host.name] = _entry(host.name, host.cores, host.memory_bytes, host.source)
    for view in snapshot.slices:
        about = view.slice
        if about.node not in found or found[about.node]["source"] == "agent":
            seen = found.setdefault(about.node, _entry(about.node, 0, 0, "agent"))
            seen["cores"] += about.cores
            seen["memory"] += about.memory_bytes
        found[about.node]["joined"].append(
            {
                "slice": about.slice_id.hex(),
                "state": view.state,
                "cores": about.cores,
                "free_cores": view.free_cores,
                "memory": about.memory_bytes,
                "free_memory": view.free_memory_bytes,
                "job_id": about.job_id,
            }
        )
    return {"schema": SCHEMA, "complete": snapshot.hosts_complete, "hosts": [found[name] for name in sorted(found)]}


def _entry(name: str, cores: int, memory_bytes: int, source: str) -> dict[str, Any]:
    return {"name": name, "cores": cores, "memory": memory_bytes, "source": source, "joined": []}


def merged(lists: Iterable[HostList]) -> HostList:
    """All of them as one, sorted by name; of a host that is named twice the larger numbers count."""
    hosts: dict[str, Host] = {}
    complete = False
    for one in lists:
        complete = complete or one.complete
        for host in one.hosts:
            known = hosts.get(host.name, host)
            cores, memory_bytes = max(known.cores, host.cores), max(known.memory_bytes, host.memory_bytes)
            hosts[host.name] = Host(host.name, cores, memory_bytes, known.source)
    return HostList(tuple(hosts[name] for name in sorted(hosts)), complete)
