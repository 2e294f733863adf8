"""One module a peer: how it is started at its best documented setting, called, and ended.

`PEERS` is the table of what is measured. Importing this must not import any peer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Adapter(Protocol):
    """What the driver needs of a peer with one worker. Made, used and closed in one thread."""

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - whatever the function takes
        """Make one call and wait for its result."""

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """Make a call for each value, as many under way as is best here, and return the results in order."""

    def close(self) -> None:
        """End the worker and all that belongs to it."""


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        name: of the row.
        adapter: "module:class" here.
        venv: name of a file in requirements/; empty: the project's own .venv (standard library, rfaas).
        settings: what was set, for the table.
        launch: "mpi": under mpirun with two ranks; "mpi-futures": by `-m mpi4py.futures`; else by itself.
    """

    name: str
    adapter: str
    venv: str
    settings: str
    launch: str = ""

    def load(self) -> Callable[[], Adapter]:
        """Import the adapter."""
        module, _, name = self.adapter.partition(":")
        made: Callable[[], Adapter] = getattr(importlib.import_module(f"adapters.{module}"), name)
        return made


_MPI = "Open MPI, shared memory, mpirun -n 2, no yielding"
_DASK = "LocalCluster 1 process x 1 thread, tcp, uvloop, pure=False, no stealing, profiling, compression, dashboard"

PEERS = {
    peer.name: peer
    for peer in (
        Peer("rfaas", "ours:Invoke", "", "Executor(1, allocator='embedded'), shm; call: invoke, burst: submit"),
        Peer("rfaas_submit", "ours:Submit", "", "the same; call: submit().result()"),
        Peer("rfaas_tcp", "ours:Tcp", "", "allocator and agent on 127.0.0.1, tcp; call: invoke; cold: daemons too"),
        Peer("process_pool", "standard:ProcessPool", "", "ProcessPoolExecutor(1), fork"),
        Peer("pipe", "standard:Pipe", "", "multiprocessing.Pipe, (index, args) by send/recv; burst: 64 under way"),
        Peer("mpi4py", "mpi:Messages", "mpi", f"{_MPI}; (index, args) by send/recv; burst: 64 under way", "mpi"),
        Peer(
            *("mpi4py_futures", "mpi:Futures", "mpi", f"{_MPI}; MPIPoolExecutor, BACKOFF=0, USE_PKL5=1"), "mpi-futures"
        ),
        Peer(
            "zeromq",
            "zeromq:ReqRep",
            "zmq",
            "REQ/REP over ipc, pickle 5 out of band, arrays uncopied; burst: DEALER, 512",
        ),
        Peer(
            "grpc",
            "grpc_unary:Unary",
            "grpc",
            "generic handler, pickle, unix socket, unlimited; burst: 256 under way",
        ),
        Peer("ray", "ray_actor:Actor", "ray", "actor, init(num_cpus=1, include_dashboard=False), object store 1 GiB"),
        Peer("dask", "dask_local:Cluster", "dask", _DASK),
        Peer(
            *("parsl", "parsl_htex:Htex", "parsl"),
            "HTEX 1 worker, executor.submit, encrypted=False, poll_period=1, prefetch_capacity=100, strategy none",
        ),
    )
}
