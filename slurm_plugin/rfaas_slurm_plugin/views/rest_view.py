"""The cluster as slurmrestd tells it.

The daemon is asked once which versions of its interface it has loaded, and the newest that is known here is used. Where
slurmrestd says nothing (PreemptType, KillWait) or not enough (22.05 writes PreemptMode=CANCEL as an empty list), at the
start alone, `scontrol` is asked instead.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any, Final

from rfaas_slurm_plugin.views.cli_view import CliView
from rfaas_slurm_plugin.views.records import view_of
from rfaas_slurm_plugin.views.rest_client import RestAddress, RestClient
from rfaas_slurm_plugin.views.view import ClusterConfig, ClusterUnavailable, ClusterView, Partition

KNOWN_VERSIONS: Final = range(37, 46)
"""v0.0.37 (Slurm 21.08) to v0.0.45 (26.05). Run here: 37, 38 and 45; the others are read by their documentation."""

DOCUMENT_PATH: Final = "/openapi/v3"
DOCUMENT_LIMIT_BYTES: Final = 64 << 20
_NODES_PATH: Final = re.compile(r"^/slurm/v0\.0\.(\d+)/nodes/?$")


class RestView:
    """Reads the cluster by slurmrestd."""

    def __init__(self, address: RestAddress, settings: CliView | None = None) -> None:
        self._address = address
        self._settings = settings or CliView()
        self._version: int | None = None

    async def version(self) -> str:
        """The version of the interface that is used, e.g. "v0.0.38"; asked of the daemon once.

        Raises:
            ClusterUnavailable: it does not answer, or has none that is known here.
        """
        return await asyncio.to_thread(self._prefix)

    async def ping(self) -> None:
        """One `ping`. While slurmctld is down slurmrestd needs seconds to say so."""
        answer = (await asyncio.to_thread(self._get, "ping"))[0]
        pings = answer.get("pings")
        states = [_ping_state(one) for one in pings] if isinstance(pings, list) else []
        if "UP" not in states:
            raise ClusterUnavailable(f"slurmctld is not up: {', '.join(states) or 'no word of it'}")

    async def read(self) -> ClusterView:
        """Nodes, jobs and reservations: one GET of each, over one connection."""
        taken_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        nodes, jobs, reservations = await asyncio.to_thread(self._get, "nodes", "jobs", "reservations")
        return view_of(taken_boot_s, nodes, jobs, reservations)

    async def partitions(self) -> tuple[Partition, ...]:
        """All partitions, by `scontrol`."""
        return await self._settings.partitions()

    async def config(self) -> ClusterConfig:
        """Settings of the cluster, by `scontrol`."""
        return await self._settings.config()

    # --- in a thread -----------------------------------------------------------------------------

    def _get(self, *names: str) -> list[dict[str, Any]]:
        prefix = self._prefix()
        with RestClient(self._address) as client:
            return [client.get(f"/slurm/{prefix}/{name}") for name in names]

    def _prefix(self) -> str:
        if self._version is None:
            with RestClient(self._address) as client:
                document = client.get(DOCUMENT_PATH, limit_bytes=DOCUMENT_LIMIT_BYTES)
            paths = document.get("paths")
            self._version = choose_version(paths if isinstance(paths, dict) else ())
        return f"v0.0.{self._version}"


def choose_version(paths: Iterable[str]) -> int:
    """The newest version known here among the paths of slurmrestd's own description.

    Raises:
        ClusterUnavailable: there is none; the text names those that the daemon has.
    """
    there = sorted({int(found[1]) for path in paths if (found := _NODES_PATH.match(str(path)))})
    known = [number for number in there if number in KNOWN_VERSIONS]
    if not known:
        has = ", ".join(f"v0.0.{number}" for number in there) or "none that lists nodes"
        raise ClusterUnavailable(
            f"slurmrestd has no version of its interface that is known here (it has: {has}; known: v0.0."
            f"{KNOWN_VERSIONS[0]} to v0.0.{KNOWN_VERSIONS[-1]}): start it with one of them, or leave out --slurmrestd"
        )
    return known[-1]


def _ping_state(one: object) -> str:
    """State of one controller: {"ping": "UP"}; since data_parser v0.0.41 {"pinged": "UP", "responding": true}."""
    if not isinstance(one, dict):
        return ""
    return str(one.get("ping") or one.get("pinged") or ("UP" if one.get("responding") is True else "DOWN")).upper()
