"""The other ranks of the program: by mpi4py, or none. Must not import mpi4py: its communicator is given.

Every method is collective: all ranks call it, in the same order.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Values = npt.NDArray[Any]
TAG_LOW, TAG_HIGH = 7001, 7002


class Ranks(Protocol):
    """What `run` and `arrays` need of a communicator."""

    @property
    def rank(self) -> int:
        """This one, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many."""
        ...

    def gather(self, value: T) -> list[T] | None:
        """Everybody's value by rank, at rank 0; None elsewhere."""
        ...

    def share(self, value: T) -> T:
        """Rank 0's value."""
        ...

    def ask(self, numbers: list[float]) -> None:
        """Begin a reduction (MAX of each number); returns at once. One at a time."""
        ...

    def answer(self) -> list[float]:
        """Wait for it and return what came out, the same on all ranks."""
        ...

    def swap(self, out: Values, to: int | None, into: Values, source: int | None, tag: int) -> None:
        """Send a contiguous array to a rank and fill another from one; None: nobody there."""
        ...


class Alone:
    """A program of one process."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self._numbers: list[float] = []

    def gather(self, value: T) -> list[T] | None:
        """See Ranks."""
        return [value]

    def share(self, value: T) -> T:
        """See Ranks."""
        return value

    def ask(self, numbers: list[float]) -> None:
        """See Ranks."""
        self._numbers = numbers

    def answer(self) -> list[float]:
        """See Ranks."""
        return self._numbers

    def swap(self, out: Values, to: int | None, into: Values, source: int | None, tag: int) -> None:
        """See Ranks; there is nobody."""


class MpiRanks:
    """A communicator of mpi4py; a duplicate of it, so that no message meets one of the program's own.

    Args:
        comm: an intracommunicator; may be freed by the caller afterwards.
    """

    def __init__(self, comm: Any) -> None:  # noqa: ANN401 - mpi4py's, which is not imported here
        from mpi4py import MPI  # there, or the caller had no communicator

        self._mpi = MPI
        self._comm = comm.Dup()
        self.rank: int = self._comm.rank
        self.size: int = self._comm.size
        self._said = np.zeros(0)
        self._heard = np.zeros(0)
        self._request: Any = None

    def gather(self, value: T) -> list[T] | None:
        """See Ranks."""
        found: list[T] | None = self._comm.gather(value)
        return found

    def share(self, value: T) -> T:
        """See Ranks."""
        shared: T = self._comm.bcast(value)
        return shared

    def ask(self, numbers: list[float]) -> None:
        """See Ranks."""
        self._said = np.array(numbers)
        self._heard = np.empty_like(self._said)
        self._request = self._comm.Iallreduce(self._said, self._heard, self._mpi.MAX)

    def answer(self) -> list[float]:
        """See Ranks."""
        self._request.Wait()
        self._request = None
        return [float(number) for number in self._heard]

    def swap(self, out: Values, to: int | None, into: Values, source: int | None, tag: int) -> None:
        """See Ranks."""
        nobody = self._mpi.PROC_NULL
        dest, origin = nobody if to is None else to, nobody if source is None else source
        self._comm.Sendrecv(out, dest=dest, sendtag=tag, recvbuf=into, source=origin, recvtag=tag)


def ranks_of(comm: Any) -> Ranks:  # noqa: ANN401 - mpi4py's
    """The ranks of a communicator; None: this process alone."""
    return Alone() if comm is None else MpiRanks(comm)
