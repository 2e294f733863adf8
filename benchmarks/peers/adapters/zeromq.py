"""ZeroMQ: request and reply over a unix socket, arrays out of band and without a copy."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zmq
from functions import TABLE

UNDER_WAY = 512
LARGE_BYTES = 1 << 16


class ReqRep:
    """A process that serves REP; bursts come from a DEALER."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="rfaas-peers-")
        address = f"ipc://{self._directory.name}/socket"
        self._process = subprocess.Popen([sys.executable, "-m", "adapters.zeromq", address])
        self._context = zmq.Context()
        self._request = self._context.socket(zmq.REQ)
        self._dealer = self._context.socket(zmq.DEALER)
        for sock in (self._request, self._dealer):
            sock.connect(address)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        _send(self._request, (TABLE.index(function), args))
        return _receive(self._request)

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        index, results, sock = TABLE.index(function), [], self._dealer
        for number, value in enumerate(values):
            if number >= UNDER_WAY:
                sock.recv()  # the empty frame that REQ would have taken
                results.append(_receive(sock))
            sock.send(b"", zmq.SNDMORE)
            _send(sock, (index, (value,)))
        while len(results) < len(values):
            sock.recv()
            results.append(_receive(sock))
        return results

    def close(self) -> None:
        """See Adapter."""
        _send(self._request, None)
        self._process.wait()
        self._context.destroy(linger=0)
        self._directory.cleanup()


def _send(sock: zmq.Socket[bytes], value: object) -> None:
    buffers: list[pickle.PickleBuffer] = []
    frames = [pickle.dumps(value, protocol=5, buffer_callback=buffers.append), *(one.raw() for one in buffers)]
    large = any(len(frame) >= LARGE_BYTES for frame in frames)
    sock.send_multipart(frames, copy=not large)


def _receive(sock: zmq.Socket[bytes]) -> Any:  # noqa: ANN401 - whatever was sent
    first = sock.recv()
    if not sock.getsockopt(zmq.RCVMORE):
        return pickle.loads(first)
    return pickle.loads(first, buffers=[frame.buffer for frame in sock.recv_multipart(copy=False)])


def _serve(address: str) -> None:
    sock = zmq.Context().socket(zmq.REP)
    sock.bind(address)
    parent = os.getppid()
    while os.getppid() == parent:
        if not sock.poll(1000):
            continue
        message = _receive(sock)
        if message is None:
            return
        index, args = message
        _send(sock, TABLE[index](*args))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    _serve(sys.argv[1])
