"""The process in which the peer over pyverbs lives: serve.py CONTROL_FD DEVICE.

Requests come as JSON over a SOCK_SEQPACKET socket, with descriptors where one is opened; `support.verbs_peer` sends
them. A *bridge* lends a plain stream socket an end over RDMA: whoever holds the other side of that socket speaks
frames to the C core through pyverbs. Other ends are moved by requests, one by one.
"""

import array
import hashlib
import json
import select
import socket
import struct
import sys
from typing import Any

from endpoint import Endpoint, Port

from support.verbs_messages import Word

HEADER_BYTES, WORDS_AT, PAYLOAD_AT = 64, 4, 48  # spec 001 section 1
READ_BYTES = 65_536
ANSWER_BYTES = 16_384  # a datagram is one piece of the kernel's memory
PAUSE_S = 0.001  # a completion queue has no descriptor in pyverbs


class Frames:
    """Cuts a stream of frames into pieces of which none holds bytes of two."""

    def __init__(self) -> None:
        self._head = b""
        self._left_bytes = 0

    @property
    def is_between(self) -> bool:
        return not self._head and self._left_bytes == 0

    def cut(self, data: bytes) -> list[bytes]:
        pieces = []
        while data:
            if self._left_bytes == 0:
                data, self._head = self._head + data, b""
                if len(data) < HEADER_BYTES:
                    self._head = data
                    break
                (words,), (payload_bytes,) = (
                    struct.unpack_from("<H", data, WORDS_AT),
                    struct.unpack_from("<Q", data, PAYLOAD_AT),
                )
                self._left_bytes = words * 8 + payload_bytes
            pieces.append(data[: self._left_bytes])
            data = data[len(pieces[-1]) :]
            self._left_bytes -= len(pieces[-1])
        return pieces


class Bridge:
    """A plain stream socket and an end over RDMA, each carrying to the other."""

    number = 0

    def __init__(self, endpoint: Endpoint, plain: socket.socket):
        self.endpoint, self._plain = endpoint, plain
        plain.setblocking(False)
        self._frames = Frames()
        self._pending = b""
        self._plain_over = False

    @property
    def is_over(self) -> bool:
        return self.endpoint.is_closed and self._plain.fileno() < 0

    def progress(self) -> bool:
        happened = self.endpoint.progress() | self._to_plain()
        if not self._plain_over and self.endpoint.is_open and self.endpoint.queued == 0:
            happened |= self._from_plain()
        over = (self.endpoint.why or self.endpoint.peer_ended) and not self._pending and not self.endpoint.has_words
        if self._plain_over or over:
            happened |= self._finish(bool(over))
        return happened

    def _finish(self, over: bool) -> bool:
        if over:
            self.endpoint.close()
        if self.endpoint.is_closed and self._plain.fileno() >= 0:
            self._plain.close()
            return True
        return False

    def _from_plain(self) -> bool:
        try:
            data = self._plain.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._plain_over = True
            if self._frames.is_between:
                self.endpoint.end()
            else:
                self.endpoint.close()
            return True
        for piece in self._frames.cut(data):
            self.endpoint.send(piece)
        return True

    def _to_plain(self) -> bool:
        happened = False
        while self._pending or (not self.endpoint.is_closed and (piece := self.endpoint.take()) is not None):
            self._pending = self._pending or piece
            try:
                self._pending = self._pending[self._plain.send(self._pending) :]
            except BlockingIOError:
                break
            except OSError:  # nobody is there to read it
                self._pending = b""
            happened = True
        return happened


class Server:
    def __init__(self, control: socket.socket, device: str):
        self._control, self._port = control, Port(device)
        self._bridges: list[Bridge] = []
        self._n_bridges = 0
        self._ends: dict[int, Endpoint] = {}
        self._taken: dict[int, bytes] = {}

    def run(self) -> None:
        """Until the control socket ends."""
        while True:
            happened = [each.progress() for each in (*self._bridges, *self._ends.values())]
            self._bridges = [bridge for bridge in self._bridges if not bridge.is_over]
            timeout_s = (0 if any(happened) else PAUSE_S) if happened else None
            if select.select([self._control], [], [], timeout_s)[0] and not self._serve():
                return

    def _serve(self) -> bool:
        space = socket.CMSG_SPACE(2 * 4)
        data, ancillary, _, _ = self._control.recvmsg(1 << 18, space)
        if not data:
            return False
        fds = array.array("i", b"".join(blob for _, _, blob in ancillary))
        request = json.loads(data)
        try:
            answer = {
                "ok": getattr(self, f"on_{request.pop('do')}")([socket.socket(fileno=fd) for fd in fds], **request)
            }
        except Exception as error:  # whatever pyverbs raises is the test's to see
            answer = {"error": f"{type(error).__name__}: {error}"}
        self._control.send(json.dumps(answer).encode())
        return True

    def on_bridge(self, sockets: list[socket.socket]) -> int:
        self._bridges.append(Bridge(Endpoint(sockets[0], self._port), sockets[1]))
        self._n_bridges += 1
        self._bridges[-1].number = self._n_bridges
        return self._n_bridges

    def on_bridge_is_open(self, _: list[socket.socket], number: int) -> bool:
        return any(bridge.number == number and bridge.endpoint.is_open for bridge in self._bridges)

    def on_open(self, sockets: list[socket.socket], **what: int) -> int:
        number = max(self._ends, default=0) + 1
        self._taken.pop(number, None)
        self._ends[number] = Endpoint(sockets[0], self._port, **what)
        return number

    def on_bridges(self, _: list[socket.socket]) -> int:
        return len(self._bridges)

    def on_state(self, _: list[socket.socket], end: int) -> dict[str, Any]:
        one = self._ends[end]
        ring = {"address": one.peer.ring_address, "key": one.peer.rkey} if one.peer else None
        return {
            "open": one.is_open,
            "ended": one.peer_ended,
            "why": one.why,
            "closed": one.is_closed,
            "peer": ring,
            "returned": one.n_returned,
            "fetched": [hashlib.sha256(data).hexdigest() for data in one.fetched],
        }

    def on_send(self, _: list[socket.socket], end: int, frame: str) -> None:
        self._ends[end].send(bytes.fromhex(frame))

    def on_take(self, _: list[socket.socket], end: int) -> str:
        taken = self._taken.pop(end, b"")
        while len(taken) < ANSWER_BYTES and (piece := self._ends[end].take()) is not None:
            taken += piece
        self._taken[end] = taken[ANSWER_BYTES:]
        return taken[:ANSWER_BYTES].hex()

    def on_tell(self, _: list[socket.socket], end: int, data: str, word: list[Any], **what: Any) -> None:
        self._ends[end].tell(Word(*word), bytes.fromhex(data), **what)

    def on_lend(self, _: list[socket.socket], end: int, size_bytes: int, **what: Any) -> None:
        self._ends[end].lend(bytes(n % 251 for n in range(size_bytes)), **what)

    def on_fail(self, _: list[socket.socket], end: int) -> None:
        self._ends[end].fail()

    def on_end(self, _: list[socket.socket], end: int) -> None:
        self._ends[end].end()

    def on_close(self, _: list[socket.socket], end: int) -> None:
        if end in self._ends:
            self._ends.pop(end).close()


if __name__ == "__main__":
    Server(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]).run()
