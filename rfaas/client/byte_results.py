"""What a call of a function over bytes needs beside its input: room for the output, and how a RESULT gets there.

Must not touch sockets, threads or the core. Spec: docs/spec/001-invocation.md section 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfaas.client.serial import load_result
from rfaas.functions import too_small
from rfaas_transport._core import DEFAULT_MAX_PAYLOAD_BYTES
from rfaas_transport.frame import Status


class Room:
    """Room for the output of one call.

    Args:
        capacity_bytes: of the output; 0: what a channel takes.
        out: the caller's buffer, written to when the whole output is here; None: the output is what was received.
    """

    __slots__ = ("capacity_bytes", "out")

    def __init__(self, capacity_bytes: int, out: memoryview | None) -> None:
        self.capacity_bytes = capacity_bytes
        self.out = out

    def asked_bytes(self, limit_bytes: int) -> int:
        """The capacity that a CALL names.

        Args:
            limit_bytes: what this executor takes; 0: what a channel takes.
        """
        return min(self.capacity_bytes or limit_bytes, limit_bytes or self.capacity_bytes)

    def load_result(self, status: int, segments: Sequence[memoryview], needed_bytes: int, limit_bytes: int) -> Any:  # noqa: ANN401
        """Take what a RESULT frame brought; as `serial.load_result`, but for the output itself.

        Returns:
            The output, a view of the frame's own memory; with `out` how many bytes were written there.

        Raises:
            FunctionError: a compiled function returned another value than 0.
            PayloadTooLarge: the output is larger than its capacity.
            BaseException: as `serial.load_result`.
        """
        if status == Status.TOO_LARGE and not segments and needed_bytes:
            capacity_bytes = self.asked_bytes(limit_bytes) or DEFAULT_MAX_PAYLOAD_BYTES
            if limit_bytes and needed_bytes > limit_bytes:
                return load_result(status, segments, needed_bytes, limit_bytes)
            raise too_small(needed_bytes, capacity_bytes)
        if status != Status.OK:
            return load_result(status, segments, needed_bytes, limit_bytes)
        if segments and self.out is None:
            return segments[0]
        return self.take(segments[0] if segments else b"")

    def take(self, output: bytes | memoryview) -> memoryview | int:
        """Put an output that has arrived where it belongs, by a copy; return what the caller gets.

        Raises:
            PayloadTooLarge: the caller's buffer is too small, and was not written to.
        """
        if self.out is None:
            return memoryview(bytearray(output))
        n_bytes = len(output)
        if n_bytes > self.out.nbytes:
            raise too_small(n_bytes, self.out.nbytes)
        self.out[:n_bytes] = output
        return n_bytes
