"""A session process whose every word a test chooses, with workers that run calls in threads of this process.

For orders of events that real processes can't be made to show. It speaks real bytes: SEQPACKET messages of spec 004,
frames of spec 001 over socketpairs.
"""

import contextlib
import pickle
import queue
import socket
import threading
import traceback

import cloudpickle
import msgpack

from rfaas.session import packets
from rfaas.session.connection import SessionConnection
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken, ChannelClosed
from rfaas_transport.frame import Kind, Status
from support.waiting import wait_until

LEASE = b"L" * 16


class Worker:
    """Serves one channel; `started` and `done` are what its page would say."""

    def __init__(self, number, max_blob_fetches=10):
        theirs, ours = socket.socketpair()
        self.number = number
        self.descriptor = theirs.detach()
        self.channel = Channel.from_fd(ours.detach())
        self.started = self.done = 0
        self.calls = []  # call ids read
        self.fetched = []
        self.hold = threading.Event()  # cleared: calls are not read
        self.hold.set()
        self._functions = {}
        self._manifests = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self):
        self.channel.send(Kind.HELLO, credits=1, segments=[msgpack.packb({"slot": 0})])
        self._thread.start()

    def die(self):
        """End without a word, wherever it is."""
        self.channel.close()

    def _next(self):
        while True:
            self.hold.wait()
            frame = self.channel.poll()
            if frame is not None:
                return frame
            self.channel.wait(0.05)

    def _serve(self):
        try:
            while True:
                self._take(self._next())
        except (ChannelClosed, ChannelBroken, ValueError):
            self.channel.close()

    def _take(self, frame):
        if frame.kind == Kind.DEFINE:
            manifest = msgpack.unpackb(frame.segments[0])
            blob = bytes(frame.segments[1]) if len(frame.segments) > 1 else None
            self._functions[frame.function] = (manifest["blobs"][0], blob)
        elif frame.kind == Kind.CALL:
            self._run(frame)

    def _function(self, index):
        digest, blob = self._functions[index]
        if blob is None:
            self.channel.send(Kind.FETCH, segments=[digest])
            answer = self._next()
            assert answer.kind == Kind.BLOB
            self.fetched.append(digest)
            blob = bytes(answer.segments[0])
            self._functions[index] = (digest, blob)
        return cloudpickle.loads(blob)

    def _run(self, frame):
        self.calls.append(frame.call_id)
        self.started = frame.call_id
        status, segments = Status.OK, []
        try:
            function = self._function(frame.function)
            args, kwargs = pickle.loads(frame.segments[0], buffers=frame.segments[1:])
            buffers = []
            data = cloudpickle.dumps(function(*args, **kwargs), protocol=5, buffer_callback=buffers.append)
            segments = [data, *(b.raw() for b in buffers)]
        except Exception as error:
            status = Status.EXCEPTION
            about = {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
            try:
                pickled = cloudpickle.dumps(error)
                pickle.loads(pickled)
            except Exception:
                pickled = b""
            segments = [msgpack.packb(about), pickled]
        self.done = frame.call_id
        self.channel.send(Kind.RESULT, call_id=frame.call_id, status=status, credits=1, segments=segments)


class ScriptedSession:
    """Answers `connect`; `install` puts it in the place of the real one."""

    def __init__(self, mode="embedded"):
        self.mode = mode
        self.joins = []
        self.messages = queue.Queue()  # from the client, of all connections
        self.wants = []
        self.workers = {}
        self.refuse = None  # an error for the next join
        self._sock = None
        self._next_channel = 1

    def install(self, monkeypatch):
        monkeypatch.setattr("rfaas.client.joining.connect", self.connect)

    def connect(self, choice, **join):
        self.joins.append(join)
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            raise error
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock = ours
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
        return SessionConnection(theirs, {"pid": 1, "mode": self.mode, "allocator": "scripted"})

    def _listen(self, sock):
        while True:
            try:
                received = packets.receive(sock)
            except OSError:
                received = None
            if received is None:
                sock.close()
                return
            self.messages.put(received[0])
            if received[0]["m"] == "want":
                self.wants.append(received[0]["workers"])
            elif received[0]["m"] == "leave":
                sock.close()
                return

    def say(self, descriptors=(), **message):
        packets.send(self._sock, packets.pack(message), descriptors)

    def worker(self, *, start=True):
        """Open a channel to a new worker; `start` lets it say HELLO."""
        wait_until(lambda: self._sock is not None, 10, "the client to join")
        worker = Worker(self._next_channel)
        self._next_channel += 1
        self.workers[worker.number] = worker
        where = {"lease": LEASE, "lease_seq": 1, "epoch": 1, "slot": worker.number, "generation": 1, "node": "n1"}
        self.say([worker.descriptor], m="channel", executor=1, channel=worker.number, medium="unix", **where)
        socket.socket(fileno=worker.descriptor).close()
        if start:
            worker.start()
        return worker

    def farewell(self, worker, reason_code=14, **more):
        words = {"last_started": worker.started, "last_done": worker.done, "reason_code": reason_code}
        about = {
            "exit_status": None,
            "signal": 9,
            "grace_s": None,
            "node": "n1",
            "lease": LEASE,
            "epoch": 1,
            "hint": "",
        }
        self.say(m="farewell", channel=worker.number, **{**words, **about, **more})

    def die(self):
        """The session process is gone, as by kill -9."""
        sock, self._sock = self._sock, None
        with contextlib.suppress(OSError):  # the client has left already
            sock.shutdown(socket.SHUT_RDWR)

    def end(self):
        """End everything, so that no call waits any more."""
        for worker in self.workers.values():
            worker.die()
            worker.hold.set()
        if self._sock is not None:
            self.die()
