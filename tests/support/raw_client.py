"""A client in bare messages and frames (docs/spec/004-session.md section 3), for tests of sessions."""

import hashlib
import pickle
import secrets

import cloudpickle
import msgpack

from rfaas.session import environment
from rfaas.session.packets import close_all
from rfaas.session.start import connect
from rfaas_transport import shared_memory
from rfaas_transport._core import Channel, Poller
from support.waiting import wait_until

DEFINE, CALL, RESULT, HELLO = 1, 2, 3, 96


class RawClient:
    """Joins at once; everything else on demand, in the caller's thread."""

    def __init__(self, choice, client_id=None, resume=(), env=None, **settings):
        self.client_id = client_id or secrets.token_bytes(16)
        env = env or environment.current()
        self.connection = connect(choice, client_id=self.client_id, env=env, resume=resume, **settings)
        self.messages = []
        self.channels = {}  # number -> (Channel, message)
        self._next_call = 1

    def want(self, workers, executor=1, cores=1, memory_bytes=1 << 20):
        keys = {"executor": executor, "workers": workers, "cores": cores, "memory_bytes": memory_bytes}
        self.connection.send({"m": "want", **keys})

    def pump(self):
        """Read what is there."""
        while (received := self.connection.receive()) is not None:
            message, descriptors = received
            self.messages.append(message)
            if message["m"] == "channel":
                over_memory = message["medium"] == "shm"
                channel = shared_memory.offer(descriptors[0]) if over_memory else Channel.from_fd(descriptors[0])
                self.channels[message["channel"]] = (channel, message)
            else:
                close_all(descriptors)

    def said(self, m):
        self.pump()
        return [message for message in self.messages if message["m"] == m]

    def wait_for(self, m, count=1, timeout_s=20.0):
        """Messages of this kind, once there are `count`; a failure shows all that was said."""

        def enough():
            found = self.said(m)
            return found if len(found) >= count else None

        try:
            return wait_until(enough, timeout_s, f"{count} {m}")
        except AssertionError as error:
            raise AssertionError(f"{error}; said: {self.messages}") from None

    def acquire(self, workers=1, timeout_s=30.0, executor=1):
        """Want workers and wait for their channels; returns the numbers."""
        had = len(self.channels)
        self.want(workers + had, executor=executor)
        wait_until(lambda: (self.pump(), len(self.channels) >= had + workers)[1], timeout_s, "channels")
        return list(self.channels)[had:]

    def call(self, number, function, *arguments, timeout_s=20.0):
        """Call a function on one channel and return its result."""
        return self.wait_result(number, self.submit(number, function, *arguments), timeout_s)

    def submit(self, number, function, *arguments):
        channel, message = self.channels[number]
        blob = cloudpickle.dumps(function)
        digest = hashlib.sha256(blob).digest()
        manifest = {"kind": "python", "abi": "pickle5", "isa": "any", "entry": "", "blobs": [digest]}
        call_id, self._next_call = self._next_call, self._next_call + 1
        if channel.tx_credits == 0:
            self._frame(number, HELLO, 0, 20)
        channel.send(DEFINE, function=1, segments=[msgpack.packb(manifest), blob])
        pickled = pickle.dumps((arguments, {}), protocol=5)
        where = {"lease_seq": message["lease_seq"], "epoch": message["epoch"]}
        channel.send(CALL, call_id=call_id, function=1, segments=[pickled], **where)
        return call_id

    def wait_result(self, number, call_id, timeout_s=20.0):
        frame = self._frame(number, RESULT, call_id, timeout_s)
        assert frame.status == 0, [bytes(segment) for segment in frame.segments]
        return pickle.loads(frame.segments[0])

    def _frame(self, number, kind, call_id, timeout_s):
        channel, _ = self.channels[number]
        poller = Poller()
        poller.add(channel.fileno(), 1)
        found = []

        def arrived():
            poller.wait(0.05)
            while not found and (frame := channel.poll()) is not None:
                if (frame.kind, frame.call_id) == (kind, call_id):
                    found.append(frame)
            return bool(found)

        try:
            wait_until(arrived, timeout_s, f"frame of kind {kind}")
        finally:
            poller.close()
        return found[0]

    def resume_entries(self):
        """What `join` needs to take over these leases."""
        over = {m["lease"] for m in self.messages if m["m"] == "ended"}
        keys = ("lease", "lease_seq", "epoch", "slice", "address", "node", "executor", "workers", "ttl_s")
        return [
            {key: m[key] for key in keys} | {"channels": self._channels_of(m["lease"])}
            for m in self.messages
            if m["m"] == "lease" and m["lease"] not in over
        ]

    def _channels_of(self, lease):
        mine = [m for _, m in self.channels.values() if m["lease"] == lease]
        return [[m["channel"], m["slot"], m["generation"]] for m in mine]

    def close(self):
        for channel, _ in self.channels.values():
            channel.close()
        self.connection.close()
