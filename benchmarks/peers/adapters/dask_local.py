"""Dask: a LocalCluster of one process with one thread; everything that costs time without need is off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
from distributed import Client, LocalCluster

SETTINGS = {
    "distributed.admin.event-loop": "uvloop",
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.profile.enabled": False,
    "distributed.comm.compression": None,
}


class Cluster:
    """client.submit, never taken from a cache (`pure=False`)."""

    def __init__(self) -> None:
        dask.config.set(SETTINGS)
        self._cluster = LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, protocol="tcp://"
        )
        self._client = Client(self._cluster)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        return self._client.submit(function, *args, pure=False).result()

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        submit = self._client.submit
        results: list[Any] = self._client.gather([submit(function, value, pure=False) for value in values])
        return results

    def close(self) -> None:
        """See Adapter."""
        self._client.close()
        self._cluster.close()
