"""A session process that a test plays itself, for one program in C: it is found in place of the real one.

The program's helper (004 section 6) is a script that names this socket. What is said is real packets; the test says
them.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgpack

from rfaas.session import environment, packets
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken, ChannelClosed
from rfaas_transport.frame import Kind
from support.waiting import wait_until

LEASE = b"L" * 16
TIMEOUT_S = 60.0
SETTINGS = {
    **{"workers": 1, "cores": 1, "memory_bytes": 1 << 28, "placement": "pack", "transport": "auto", "hot_for_s": 0.0},
    **{"acquire_timeout_s": 0.0, "output_limit_bytes": 0, "idempotent": False, "retries": 0, "call_timeout_s": 0.0},
}


def helper_that_answers(directory: Path, answer: dict[str, object]) -> Path:
    """A helper (RFAAS_PYTHON) that gives this answer, whoever asks: a script in an empty directory."""
    directory.mkdir(exist_ok=True)
    said, helper = directory / "answer", directory / "helper"
    said.write_bytes(msgpack.packb(answer))
    helper.write_text(f"#!/bin/sh\ncat {said} >&3\n")
    helper.chmod(0o700)
    return helper


def answer_of_helper() -> dict[str, object]:
    """What the real helper answers a program that has this process's environment."""
    reading, writing = os.pipe()
    with open(reading, "rb") as said:
        about = ["--client-pid", str(os.getpid()), "--client-start", "1"]
        keep = f'exec {sys.executable} -m rfaas.librfaas "$@" 3>&{writing}'
        asking = subprocess.Popen(["bash", "-c", keep, "sh", *about], pass_fds=[writing])
        os.close(writing)
        answer: dict[str, object] = msgpack.unpackb(said.read())
        assert asking.wait(TIMEOUT_S) == 0, answer
    return answer


class SessionOfC:
    """Listens for the program.

    Args:
        directory: for the script that is its helper.
        settings: of the program, as its helper would tell them.
    """

    def __init__(self, directory: Path, **settings: object) -> None:
        name = f"\0rfaas-test-session-{os.getpid()}-{directory.name}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(name)
        self._listener.listen(1)
        self._listener.settimeout(TIMEOUT_S)
        self._sock: socket.socket | None = None
        ready = {"m": "ready", "socket": name.encode(), "env": environment.current(), **SETTINGS, **settings}
        self.helper = helper_that_answers(directory, ready)

    def welcome(self) -> None:
        """Let the program join."""
        self._sock, _ = self._listener.accept()
        self._sock.settimeout(TIMEOUT_S)
        assert self.hear("join")["version"] == 1
        self.say({"m": "welcome", "version": 1, "pid": os.getpid(), "mode": "personal", "allocator": "a test's"})

    def hear(self, kind: str) -> dict[str, object]:
        """The next message of this kind; others before it are passed over."""
        assert self._sock is not None
        while True:
            received = packets.receive(self._sock)
            assert received is not None, "the program left"
            if received[0]["m"] == kind:
                return received[0]

    def say(self, message: dict[str, object], descriptors: tuple[int, ...] = ()) -> None:
        """Send one packet."""
        assert self._sock is not None
        packets.send(self._sock, packets.pack(message), descriptors)

    def open(self, number: int, medium: str) -> socket.socket:
        """Give the program a channel to a worker that the test plays; returns that one's end of the connection."""
        ours, theirs = socket.socketpair()
        about = {"lease": LEASE, "lease_seq": 1, "epoch": 1, "slot": 0, "generation": number, "node": "n1"}
        with theirs:
            channel = {"m": "channel", "executor": 1, "channel": number, "medium": medium, **about}
            self.say(channel, (theirs.fileno(),))
        return ours

    def farewell(self, number: int) -> None:
        """A channel ended of which the worker has read nothing."""
        about = {"lease": LEASE, "epoch": 1, "node": "n1", "exit_status": None, "signal": None, "grace_s": None}
        said = {"last_started": 0, "last_done": 0, "reason_code": 0, "hint": ""}
        self.say({"m": "farewell", "channel": number, **said, **about})

    def close(self) -> None:
        """End the connection and the listener."""
        if self._sock is not None:
            self._sock.close()
        self._listener.close()


def echo_until_the_end(connection: socket.socket, adopt: Callable[[int], Channel] = Channel.from_fd) -> int:
    """Be the worker of one call: greets, answers with the call's own bytes, waits for the program to leave.

    Args:
        adopt: makes the channel of the connection.

    Returns:
        How many bytes the call had.
    """
    channel = adopt(connection.detach())
    calls: list[tuple[int, bytes]] = []

    def has_called() -> bool:
        frame = channel.poll()
        if frame is not None and frame.kind == Kind.CALL:
            calls.append((frame.call_id, bytes(frame.segments[0])))
        return bool(calls)

    def has_ended() -> bool:
        try:
            return channel.poll() is not None
        except (ChannelClosed, ChannelBroken):
            return True

    try:
        channel.send(Kind.HELLO, credits=1, segments=[msgpack.packb({"slot": 0})])
        wait_until(has_called, TIMEOUT_S, "the call")
        [(call_id, given)] = calls
        channel.send(Kind.RESULT, call_id=call_id, credits=1, segments=[given])
        wait_until(has_ended, TIMEOUT_S, "the program to leave")
        return len(given)
    finally:
        channel.close()
