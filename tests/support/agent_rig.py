"""A real agent process with the test as its allocator, session process and client: blocking, one thread, plain."""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import msgpack

from rfaas.control.messages import Freed, LeaseTerms, Propose, Register, Registered
from rfaas_transport._core import Channel
from rfaas_transport.frame import Kind, Status
from rfaas_transport.handshake import Dialer, handshake_blocking
from rfaas_transport.manifest import Manifest, digest, encode_manifest
from rfaas_transport.messages import MessageReader, pack
from support.waiting import wait_until

Words = dict[str, Any]


def environment(**changes: Any) -> Words:
    """004 section 4 of this very process."""
    return {
        "python": sys.executable,
        "version": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "path": [entry or os.getcwd() for entry in sys.path],
        "cwd": os.getcwd(),
        "preload": [],
        "vars": {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    } | changes


class AgentRig:
    """Starts an agent; use as a context manager, which in the end asserts that nothing of it lives."""

    def __init__(
        self,
        *,
        cores: int = 4,
        tcp: bool = False,
        grace_s: float = 5.0,
        drain_s: float = 4.0,
        template_linger_s: float = 10.0,
        sched: str = "normal",
        event_log: Path | None = None,
        job_id: str = "",
    ) -> None:
        self.slice_id = secrets.token_bytes(16)
        self.secret = secrets.token_bytes(32)
        self.said: list[Any] = []
        self._open: list[Any] = []
        self._last_seq = 0
        self._arrived = b""
        options = {
            "slice_id": self.slice_id,
            "secret": self.secret,
            "cores": cores,
            "tcp": tcp,
            "grace_s": grace_s,
            "drain_s": drain_s,
            "template_linger_s": template_linger_s,
            "sched": sched,
            "job_id": job_id,
        }
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        if event_log is not None:
            env["RFAAS_EVENT_LOG"] = str(event_log)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.agent_process", pickle.dumps(options).hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
        self.register = self.wait_for(Register)
        self.address = self.register.slice.session_address
        self.tell(Registered(1, 1))

    # --- the allocator's side -------------------------------------------------------------------

    def tell(self, message: Any) -> None:
        assert self.process.stdin is not None
        data = pickle.dumps(message)
        self.process.stdin.write(len(data).to_bytes(4, "little") + data)
        self.process.stdin.flush()

    def hear(self, timeout_s: float = 0.0) -> list[Any]:
        """All that the agent ever said to its allocator."""
        assert self.process.stdout is not None
        out = self.process.stdout.fileno()
        while select.select([out], [], [], timeout_s)[0]:
            data = os.read(out, 65536)
            if not data:
                break
            self._arrived += data
            timeout_s = 0.0
        while len(self._arrived) >= 4 and len(self._arrived) >= 4 + (size := _size(self._arrived)):
            self.said.append(pickle.loads(self._arrived[4 : 4 + size]))
            self._arrived = self._arrived[4 + size :]
        return self.said

    def wait_for(self, kind: type, timeout_s: float = 10.0) -> Any:
        return wait_until(
            lambda: next((m for m in self.hear(0.01) if isinstance(m, kind)), None), timeout_s, kind.__name__
        )

    def propose(self, workers: int = 1, cores_per_worker: int = 1, ttl_s: float = 10.0, epoch: int = 1) -> LeaseTerms:
        self._last_seq += 1
        holder = secrets.token_bytes(16)
        terms = LeaseTerms(
            secrets.token_bytes(16),
            self._last_seq,
            self.slice_id,
            epoch,
            holder,
            1,
            workers,
            cores_per_worker,
            1 << 20,
            ttl_s,
        )
        self.tell(Propose(terms))
        return terms

    def freed(self, terms: LeaseTerms) -> Freed | None:
        return next((m for m in self.hear() if isinstance(m, Freed) and m.lease_id == terms.lease_id), None)

    # --- processes ------------------------------------------------------------------------------

    def family(self) -> list[int]:
        """Every living process that carries the slice's mark (the agent itself does not)."""
        return marked(self.slice_id)

    def session(self) -> Session:
        """A session connection, closed with the rig."""
        session = Session(self)
        self.closes(session)
        return session

    def closes(self, thing: Any) -> None:
        """Have the rig close something at its end."""
        self._open.append(thing)

    def __enter__(self) -> AgentRig:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(10)
        for thing in self._open:
            thing.close()
        wait_until(lambda: not self.family(), 1.0, "the agent's family to be gone")
        for pipe in self.process.stdin, self.process.stdout:
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def marked(slice_id: bytes) -> list[int]:
    mark = f"RFAAS_SLICE={slice_id.hex()}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
            except OSError:
                continue
    return found


def _size(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")


def connect(address: str) -> socket.socket:
    medium, _, where = address.partition(":")
    if medium == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect("\0" + where.removeprefix("@"))
        return sock
    host, _, port = where.rpartition(":")
    return socket.create_connection((host, int(port)))


class Session:
    """One session connection, and the calls of one client."""

    def __init__(self, rig: AgentRig) -> None:
        self.rig = rig
        self.sock = connect(rig.address)
        handshake_blocking(self.sock, Dialer(rig.secret, "session", {}))
        self.heard: list[Words] = []
        self._reader = MessageReader()
        self._last_channel = 0
        self._last_call = 0

    def send(self, message: Words) -> None:
        self.sock.sendall(pack(message))

    def attach(self, terms: LeaseTerms, env: Words | None = None, **changes: Any) -> None:
        self.send(
            {
                "m": "attach",
                "lease": terms.lease_id,
                "lease_seq": terms.lease_seq,
                "epoch": terms.epoch,
                "holder": terms.holder,
                "workers": terms.workers,
                "env": env or environment(),
                "ttl_s": terms.ttl_s,
            }
            | changes
        )

    def hear(self, timeout_s: float = 0.0) -> list[Words]:
        while select.select([self.sock], [], [], timeout_s)[0]:
            data = self.sock.recv(65536)
            if not data:
                break
            self.heard += self._reader.feed(data)
            timeout_s = 0.0
        return self.heard

    def wait_for(self, m: str, timeout_s: float = 20.0, where: Callable[[Words], bool] = lambda w: True) -> Words:
        return wait_until(
            lambda: next((w for w in self.hear(0.01) if w["m"] == m and where(w)), None),
            timeout_s,
            f"{m} from the agent",
        )

    def workers(self, n: int, timeout_s: float = 20.0) -> list[Words]:
        return wait_until(
            lambda: (ups := [w for w in self.hear(0.01) if w["m"] == "worker-up"]) and len(ups) >= n and ups,
            timeout_s,
            f"{n} workers",
        )

    def dial(self, terms: LeaseTerms, up: Words) -> Client:
        self._last_channel += 1
        sock = connect(self.rig.address)
        params = {
            "lease": terms.lease_id,
            "slot": up["slot"],
            "generation": up["generation"],
            "channel": self._last_channel,
        }
        handshake_blocking(sock, Dialer(self.rig.secret, "data", params))
        client = Client(Channel.from_fd(sock.detach()), self._last_channel, terms)
        self.rig.closes(client)
        return client

    def start(self, workers: int = 1, env: Words | None = None, ttl_s: float = 10.0) -> tuple[LeaseTerms, list[Client]]:
        """A lease with all of its workers connected."""
        terms = self.rig.propose(workers, ttl_s=ttl_s)
        self.rig.wait_for(type(self.rig.register))
        wait_until(lambda: any(getattr(m, "lease_id", b"") == terms.lease_id for m in self.rig.hear(0.01)), 5)
        self.attach(terms, env)
        mine = wait_until(
            lambda: (
                (ups := [w for w in self.hear(0.01) if w["m"] == "worker-up" and w["lease"] == terms.lease_id])
                and len(ups) >= workers
                and ups
            ),
            20,
            "workers",
        )
        return terms, [self.dial(terms, up) for up in mine]

    def close(self) -> None:
        self.sock.close()


class Client:
    """The client's end of one channel."""

    def __init__(self, channel: Channel, number: int, terms: LeaseTerms) -> None:
        self.channel = channel
        self.number = number
        self.terms = terms
        self.hello = self.receive(20.0)
        assert self.hello.kind == Kind.HELLO
        self._functions: dict[bytes, int] = {}
        self._last_call = 0

    def receive(self, timeout_s: float = 10.0) -> Any:
        """The next frame, taken as it comes: a pause between two looks would be longer than what some tests measure."""
        deadline_s = time.monotonic() + timeout_s
        while (frame := self.channel.poll()) is None:
            assert time.monotonic() < deadline_s, f"still waiting for a frame after {timeout_s} s"
            self.channel.wait(0.05)
        return frame

    def call(
        self,
        function: Any,
        *args: Any,
        along: bool = True,
        deadline_s: float = 0.0,
        epoch: int | None = None,
        out_size: int = 0,
        **kw: Any,
    ) -> int:
        """Send a call; `along`: with the function's blob; `out_size`: what its result may take."""
        blob = cloudpickle.dumps(function)
        manifest = encode_manifest(Manifest(blobs=(digest(blob),)))
        index = self._functions.get(manifest)
        if index is None:
            index = self._functions[manifest] = len(self._functions)
            self.channel.send(Kind.DEFINE, function=index, segments=[manifest, blob] if along else [manifest])
        buffers: list[Any] = []
        data = cloudpickle.dumps((args, kw), protocol=5, buffer_callback=buffers.append)
        self._last_call += 1
        self.channel.send(
            Kind.CALL,
            call_id=self._last_call,
            function=index,
            lease_seq=self.terms.lease_seq,
            epoch=self.terms.epoch if epoch is None else epoch,
            deadline_ns=int(deadline_s * 1e9),
            out_size=out_size,
            segments=[data, *(buffer.raw() for buffer in buffers)],
        )
        return self._last_call

    def result(self, timeout_s: float = 10.0) -> Any:
        """The value of the next RESULT; AssertionError with the remote traceback if it is none."""
        frame = self.receive(timeout_s)
        assert frame.kind == Kind.RESULT, frame
        assert frame.status == Status.OK, msgpack.unpackb(frame.segments[0]) if frame.segments else frame
        return pickle.loads(frame.segments[0], buffers=frame.segments[1:])

    def run(self, function: Any, *args: Any, **kw: Any) -> Any:
        self.call(function, *args, **kw)
        return self.result()

    def close(self) -> None:
        self.channel.close()
