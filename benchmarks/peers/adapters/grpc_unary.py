"""gRPC: one generic unary method over a unix socket, pickled calls, no protobuf in between."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from functions import TABLE

UNDER_WAY = 256
METHOD = "/rfaas.peers/Call"
UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
READY_S = 30


class Unary:
    """A process that serves the method; bursts use futures."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="rfaas-peers-")
        address = f"unix:{self._directory.name}/socket"
        command = [sys.executable, "-m", "adapters.grpc_unary", address]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self._channel = grpc.insecure_channel(address, options=UNLIMITED)
        grpc.channel_ready_future(self._channel).result(READY_S)
        self._method = self._channel.unary_unary(METHOD)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        return pickle.loads(self._method(pickle.dumps((TABLE.index(function), args), 5)))

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        index, results, pending = TABLE.index(function), [], deque[Any]()
        for value in values:
            if len(pending) == UNDER_WAY:
                results.append(pickle.loads(pending.popleft().result()))
            pending.append(self._method.future(pickle.dumps((index, (value,)), 5)))
        return [*results, *(pickle.loads(one.result()) for one in pending)]

    def close(self) -> None:
        """See Adapter."""
        self._channel.close()
        self._process.communicate()
        self._directory.cleanup()


def _call(request: bytes, _context: object) -> bytes:
    index, args = pickle.loads(request)
    return pickle.dumps(TABLE[index](*args), 5)


def _serve(address: str) -> None:
    handler = grpc.method_handlers_generic_handler("rfaas.peers", {"Call": grpc.unary_unary_rpc_method_handler(_call)})
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler], options=UNLIMITED)
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    sys.stdin.read()  # until the client ends
    server.stop(None)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    _serve(sys.argv[1])
