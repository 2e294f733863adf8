"""The peer over pyverbs (tests/rdma/peer), for tests: a process of the system's Python, started once a session."""

import array
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support import nothing_left

TESTS = Path(__file__).parents[1]
PYTHON = "/usr/bin/python3"  # the distribution's pyverbs is built for it
ANSWER_S = 60.0


class PeerProcess:
    """Where ends over pyverbs live; `ask` names what to do (`on_...` of tests/rdma/peer/serve.py)."""

    def __init__(self, device: str, by: Sequence[str] = ()):
        """`by`: a command that runs it, in a namespace for instance."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ANSWER_S)
        command = [*by, PYTHON, str(TESTS / "rdma/peer/serve.py"), str(theirs.fileno()), device]
        environment = {"PYTHONPATH": str(TESTS), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        with theirs:
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)

    def ask(self, do: str, *sockets: socket.socket, **what: Any) -> Any:
        """The answer; sockets are handed over. Fails as pyverbs does."""
        request = json.dumps({"do": do, **what}).encode()
        fds = [sock.fileno() for sock in sockets]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._control.sendmsg([request], rights)
        for sock in sockets:
            sock.close()
        data = self._control.recv(1 << 18)
        assert data, "the peer over pyverbs ended"
        answer = json.loads(data)
        assert "error" not in answer, f"{do}: {answer['error']}"
        return answer["ok"]

    def stop(self) -> None:
        """Ends it: it leaves when nobody holds the other side."""
        self._control.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@cache
def peer_process() -> PeerProcess:
    """The one of this session, which outlives the tests."""
    made = PeerProcess(os.environ.get("RFAAS_RDMA_DEVICE", ""))
    nothing_left.spared.append(lambda: [made.process.pid])
    return made


def in_session(session: pytest.Session) -> Iterator[None]:
    """For a fixture of the session: the peer is there before its first test that needs a device, and ends with it."""
    if any(item.get_closest_marker("rdma") for item in session.items):
        peer_process()
    yield
    if peer_process.cache_info().currsize:
        peer_process().stop()
        peer_process.cache_clear()
