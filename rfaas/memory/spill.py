"""A file in the place of a region that went back to its owner: read and written in the same way.

It has no name from the moment it is made, so nothing is left of it whatever ends the program.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from typing_extensions import Buffer

Operation = tuple[bool, int, Buffer]
"""(is_write, offset, buffer)."""


class SpillFile:
    """As large as the region; what nobody wrote is a hole, and reads as zeros.

    Args:
        directory: where; None: the temporary directory.
        size_bytes: of the region.
    Raises:
        OSError: it can't be made there.
    """

    medium = "file"

    def __init__(self, directory: str | None, size_bytes: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="rfaas-spill-", dir=directory)  # noqa: SIM115 - lives with this
        self._file.truncate(size_bytes)

    def transfer(self, operations: Sequence[Operation]) -> int:
        """Read and write, in order.

        Raises:
            OSError: no room, or the disk failed; of a write some may be written.
        """
        descriptor = self._file.fileno()
        for is_write, offset, data in operations:
            view = memoryview(data).cast("B")
            while len(view):
                n = os.pwritev(descriptor, [view], offset) if is_write else os.preadv(descriptor, [view], offset)
                if n == 0:
                    raise OSError("the spill file is shorter than the region: somebody truncated it")
                view, offset = view[n:], offset + n
        return 0

    def abort(self) -> None:
        """Nothing here waits for others."""

    def close(self) -> None:
        """Give its room back; repeatable."""
        self._file.close()
