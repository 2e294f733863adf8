"""A real allocator process on a state directory, and agents and holders that a test plays over real sockets."""

import contextlib
import secrets
import signal
import subprocess
import sys
import tempfile

from rfaas.control import messages as m
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import dial_agent, dial_holder
from rfaas_transport.errors import RfaasError
from support.waiting import wait_until

MIB = 2**20
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class AllocatorProcess:
    """`python -m rfaas_allocator`; a context manager that leaves no process behind.

    Args:
        state_dir: its directory; need not exist.
        arguments: more of its command line.
    """

    def __init__(self, state_dir, *arguments):
        self.state_dir = state_dir
        self.arguments = arguments
        self.process = None
        self._said = None  # a file: a pipe that nobody reads stops who writes much

    def spawn(self, **how):
        command = [sys.executable, "-W", "error", "-m", "rfaas_allocator", "--state-dir", str(self.state_dir)]
        self._close()
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [*command, *self.arguments], stdout=subprocess.DEVNULL, stderr=self._said, **how
        )
        return self.process

    def _ended(self, limit_s):
        """Wait for its end; return the exit code and what it said."""
        status = self.process.wait(limit_s)
        self._said.seek(0)
        return status, self._said.read()

    def _close(self):
        if self._said is not None:
            self._said.close()

    def start(self, **how):
        """Start it and wait until it serves; return its address."""
        self.spawn(**how)
        return wait_until(self.served, START_TIMEOUT_S, "the allocator to serve")

    def served(self):
        """Its address if it serves, else None."""
        if self.process.poll() is not None:
            raise AssertionError(f"the allocator ended: {self._ended(0)[1]}")
        with contextlib.suppress(RfaasError):
            address = AllocatorAddress.load(self.state_dir)
            if address.pid == self.process.pid:
                return address
        return None

    def run_to_end(self):
        """Start one that is to end by itself; return its exit code and what it said."""
        self.spawn()
        return self._ended(START_TIMEOUT_S)

    def stop(self, number=signal.SIGTERM):
        """Send a signal and wait; return the exit code and what it said."""
        self.process.send_signal(number)
        return self._ended(STOP_TIMEOUT_S)

    def kill(self):
        """kill -9."""
        return self.stop(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process is not None:
            self.process.kill()  # harmless if it has ended
            self.process.wait(STOP_TIMEOUT_S)
            self._close()


class PlayedAgent:
    """An agent that accepts what fits, over a real link."""

    def __init__(self, cores=4, node="n1", job_id=""):
        slice_id = m.SliceId(secrets.token_bytes(16))
        self.slice = m.Slice(slice_id, node, cores, cores * 1024 * MIB, "unix:@nobody", job_id=job_id)
        self.instance = m.InstanceId(secrets.token_bytes(16))
        self.epoch, self.alloc_epoch = m.Epoch(0), 0
        self.held = {}
        self.link = None

    async def connect(self, address):
        """Dial, register, and wait for the epoch."""
        self.link = await dial_agent(address)
        self.link.send(m.Register(self.slice, self.instance, self.epoch, tuple(self.held.values())))
        registered = await self.link.receive()
        assert isinstance(registered, m.Registered)
        assert registered.epoch >= self.epoch
        self.epoch, self.alloc_epoch = registered.epoch, registered.alloc_epoch

    async def answer(self, count=1):
        """Answer so many messages."""
        for _ in range(count):
            message = await self.link.receive()
            if isinstance(message, m.Propose):
                self._accept(message.terms)
            elif isinstance(message, m.EndLease) and message.lease_id in self.held:
                del self.held[message.lease_id]
                self.link.send(m.Freed(message.lease_id, self.epoch, "released", message.reason_code))

    def _accept(self, terms):
        used = {core for lease in self.held.values() for core in lease.core_ids}
        free = [core for core in range(self.slice.cores) if core not in used]
        assert len(free) >= terms.cores, "granted beyond the slice"
        self.held[terms.lease_id] = m.HeldLease(terms, tuple(free[: terms.cores]), "GRANTED")
        self.link.send(m.Accepted(terms.lease_id, self.epoch, tuple(free[: terms.cores])))


class PlayedHolder:
    """A holder over a real link."""

    def __init__(self):
        self.holder = m.HolderId(secrets.token_bytes(16))
        self.granted = {}
        self.link = None

    async def connect(self, address):
        """Dial and say hello."""
        self.link = await dial_holder(address)
        self.link.send(m.HolderHello(self.holder, 0, "test", tuple(self.granted)))

    def want(self, workers, request=1, **about):
        """Set the target of a request."""
        self.link.send(m.Want(self.holder, request, workers, 1, MIB, **about))

    async def hear(self):
        """Take the next message."""
        message = await self.link.receive()
        if isinstance(message, m.Granted):
            self.granted[message.terms.lease_id] = message
        elif isinstance(message, m.Ended):
            self.granted.pop(message.lease_id, None)
        return message
