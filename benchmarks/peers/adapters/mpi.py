"""mpi4py: messages between two ranks, and its pool of futures. The driver runs under mpirun; rank 1 is the worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from functions import TABLE

UNDER_WAY = 64


class Messages:
    """comm.send and comm.recv of pickled objects: a lower bound for pickled calls over MPI."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._comm = MPI.COMM_WORLD

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        self._comm.send((TABLE.index(function), args), 1)
        return self._comm.recv(source=1)

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        comm, index, results = self._comm, TABLE.index(function), []
        for number, value in enumerate(values):
            if number >= UNDER_WAY:
                results.append(comm.recv(source=1))
            comm.send((index, (value,)), 1)
        while len(results) < len(values):
            results.append(comm.recv(source=1))
        return results

    def close(self) -> None:
        """See Adapter."""
        self._comm.send(None, 1)


def serve() -> bool:
    """Be the worker if this is rank 1; False: this is the client."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.rank == 0:
        return False
    while (message := comm.recv(source=0)) is not None:
        index, args = message
        comm.send(TABLE[index](*args), 0)
    return True


class Futures:
    """mpi4py.futures.MPIPoolExecutor; the environment says that it polls and sends arrays out of band."""

    def __init__(self) -> None:
        from mpi4py.futures import MPIPoolExecutor

        self._pool = MPIPoolExecutor(max_workers=1)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        return self._pool.submit(function, *args).result()

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        submit = self._pool.submit
        return [future.result() for future in [submit(function, value) for value in values]]

    def close(self) -> None:
        """See Adapter."""
        self._pool.shutdown()
