"""One end of a connection over RDMA by pyverbs, written from docs/spec/007-verbs.md and sharing no code with the core.

It moves bytes of frames and reads none of them; it reads places, and lends, where a test asks for it (`reads`), so a
bridge knows no rendezvous. Nothing blocks: `progress` moves everything on. Runs on the system's Python, which alone
has pyverbs. An end that lies or fails on request (`tell`, `lend`, `fail`) is what error injection needs.
"""

import collections
import ipaddress
import secrets
import socket
import time

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context, get_device_list
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

from support.verbs_messages import (
    ADDRESS,
    CONNECTED,
    MESSAGE_BYTES,
    PIECE_BYTES_MAX,
    RECEIVES,
    REFUSED,
    RING_BYTES,
    SLOT_BYTES,
    SLOTS,
    Address,
    Place,
    Word,
    address_message,
    address_of,
    encode,
    kind_of,
    places_message,
    places_of,
    slots_of,
    text_of,
    word_from,
    word_of,
)

SENDS = 512
SIGNAL_EVERY = 16
TELL_WITH_FRAME_SLOTS, TELL_ALONE_SLOTS = 32, 128
LINGER_S = 0.5
READ_S = 20.0


class Port:
    """The first port that is up of a device, and the address of it that goes furthest."""

    def __init__(self, name: str):
        name, _, number = (name or get_device_list()[0].name.decode()).partition(":")
        self.context = Context(name=name)
        self.number = int(number or 1)
        attributes = self.context.query_port(self.number)
        self.lid, self.mtu = attributes.lid, attributes.active_mtu
        self.is_ethernet = attributes.link_layer == e.IBV_LINK_LAYER_ETHERNET
        entries = [each for each in self.context.query_gid_table(256) if each.port_num == self.number]
        best = max(entries, key=self._suits)
        self.gid_index, self.gid = best.gid_index, ipaddress.IPv6Address(best.gid_str()).packed

    def _suits(self, entry) -> tuple[bool, bool]:
        is_mapped = ipaddress.IPv6Address(entry.gid_str()).ipv4_mapped is not None
        return entry.gid_type != e.IBV_GID_TYPE_ROCE_V1, is_mapped


class Broken(Exception):
    """The connection is over, out of order; why."""


class Endpoint:
    def __init__(self, sock: socket.socket, port: Port, rkey_xor: int = 0, reads: int = 0, receives: int = RECEIVES):
        self._socket, self._port = sock, port
        sock.setblocking(False)
        self._domain = PD(port.context)
        self._sent, self._received = CQ(port.context, SENDS), CQ(port.context, RECEIVES)
        self._ring = MR(self._domain, RING_BYTES, e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE)
        self._source = MR(self._domain, RING_BYTES, e.IBV_ACCESS_LOCAL_WRITE)
        cap = QPCap(max_send_wr=SENDS, max_recv_wr=RECEIVES, max_send_sge=1, max_recv_sge=1)
        self._pair = QP(
            self._domain, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self._sent, rcq=self._received, cap=cap, sq_sig_all=0)
        )
        attributes = QPAttr(port_num=port.number)
        attributes.qp_access_flags = e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
        self._pair.to_init(attributes)
        # pyverbs wants a piece of memory with each receive; a write with immediate data leaves it alone
        self._receive = RecvWR(num_sge=1, sg=[SGE(self._ring.buf, 8, self._ring.lkey)])
        self._allow(receives)
        self._packet_sequence = secrets.randbits(24)
        self.peer: Address | None = None
        self.is_open = self.peer_ended = self._says_end = self._said_end = self._socket_ended = False
        self._closed = False
        self.why = self._failure = ""
        self._message = b""
        self._queue: collections.deque[memoryview] = collections.deque()
        self._words: collections.deque[Word] = collections.deque()
        self._slots_sent = self._slots_returned = self._slots_taken = self._slots_untold = 0
        self._posted = self._acknowledged = self._signalled = 0
        self._end_by_s = 0.0
        self._reads = reads
        self._lent: list[MR] = []
        self.fetched: list[bytes] = []  # what the peer lent, read from there
        self.n_returned = 0  # frames of which the peer says that it read what was lent
        ring = (self._ring.buf, RING_BYTES, self._ring.rkey ^ rkey_xor)
        own = (self._pair.qp_num, self._packet_sequence, port.gid, port.lid, port.mtu, int(port.is_ethernet), reads)
        self._say(address_message(Address(*ring, *own)))

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def has_words(self) -> bool:
        return bool(self._words)

    # ---- for whoever has it ----

    def send(self, piece: bytes) -> None:
        """Queues bytes of one frame, or of a part of one."""
        if piece:
            self._queue.append(memoryview(piece))

    def take(self) -> bytes | None:
        """The bytes of the next message; None: nothing is there. Its slots are the peer's again."""
        if not self._words or self._closed:
            return None
        word = self._words.popleft()
        slot, n_slots = self._slots_taken % SLOTS, slots_of(word.size_bytes)
        piece: bytes = self._ring.read(word.size_bytes, slot * SLOT_BYTES)
        self._slots_taken += n_slots
        self._slots_untold += n_slots
        self._allow(1)
        if word.is_places:
            self._fetch(places_of(piece))
            return b""
        return piece

    def end(self) -> None:
        """Says the end when all that is queued has gone, and closes when the peer's device has it."""
        self._says_end = True

    def close(self) -> None:
        """Gives everything back at once, without a word."""
        if not self._closed:
            self._closed = True
            for each in (
                self._pair,
                *self._lent,
                self._ring,
                self._source,
                self._sent,
                self._received,
                self._domain,
                self._socket,
            ):
                each.close()

    def progress(self) -> bool:
        """Moves everything on; True: something happened. After the end, `why` says what broke the connection."""
        if self._closed or self.why:
            return False
        try:
            happened = self._ask_socket()
            if self.is_open:
                happened |= self._collect() | self._reap()
            if self._socket_ended and not self.peer_ended:
                self._failure = self._failure or "the peer's process ended without a word"
            if self._failure and not self._words:  # what arrived before is still there
                raise Broken(self._failure)
            if self.is_open and not self._failure:
                happened |= self._put()
                self._go_on_ending()
        except (Broken, PyverbsError) as broken:
            self.why = str(broken)
            return True
        return happened

    # ---- set-up ----

    def _say(self, message: bytes) -> None:
        self._socket.send(message)

    def _ask_socket(self) -> bool:
        try:
            data = self._socket.recv(1 if self.is_open else MESSAGE_BYTES - len(self._message))
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            happened, self._socket_ended = not self._socket_ended, True
            return happened
        if self.is_open:
            raise Broken("bytes beside the connection")
        self._message += data
        if len(self._message) == MESSAGE_BYTES:
            message, self._message = self._message, b""
            self._on_message(message)
        return True

    def _on_message(self, message: bytes) -> None:
        try:
            kind = kind_of(message)
            if kind == REFUSED:
                raise Broken(f"the peer refused: {text_of(message)}")
            if kind == ADDRESS and self.peer is None:
                self._connect(address_of(message))
                self._say(encode(CONNECTED))
            elif kind == CONNECTED and self.peer is not None:
                self.is_open = True
            else:
                raise Broken(f"message {kind} out of order")
        except ValueError as error:
            raise Broken(str(error)) from None

    def _connect(self, peer: Address) -> None:
        if peer.ring_bytes != RING_BYTES or bool(peer.is_ethernet) != self._port.is_ethernet:
            raise Broken("another ring, or another link layer")
        self.peer = peer
        route = GlobalRoute(dgid=GID(str(ipaddress.IPv6Address(peer.gid).exploded)), sgid_index=self._port.gid_index)
        route.hop_limit = 64
        attributes = QPAttr(port_num=self._port.number)
        attributes.ah_attr = AHAttr(
            gr=route, is_global=int(self._port.is_ethernet), dlid=peer.lid, port_num=self._port.number
        )
        attributes.dest_qp_num, attributes.rq_psn, attributes.sq_psn = (
            peer.queue_pair,
            peer.packet_sequence,
            self._packet_sequence,
        )
        attributes.path_mtu = min(peer.mtu, self._port.mtu)
        attributes.qp_access_flags = e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
        attributes.max_rd_atomic, attributes.max_dest_rd_atomic = min(self._reads, peer.reads), self._reads
        attributes.min_rnr_timer, attributes.timeout, attributes.retry_cnt, attributes.rnr_retry = 12, 14, 6, 7
        self._pair.to_rts(attributes)

    # ---- moving ----

    def _allow(self, n: int) -> None:
        for _ in range(n):
            self._pair.post_recv(self._receive)

    def _collect(self) -> bool:
        n, completions = self._received.poll(16)
        for completion in completions if n else ():
            if completion.status == e.IBV_WC_SUCCESS:
                self._on_word(word_from(socket.ntohl(completion.imm_data)))
            elif not self.peer_ended:
                self._failure = self._failure or f"a receive failed with status {completion.status}"
        return n > 0

    def _on_word(self, word: Word) -> None:
        self._slots_returned += word.freed_slots
        slot = (self._slots_taken + sum(slots_of(each.size_bytes) for each in self._words)) % SLOTS
        if self._slots_returned > self._slots_sent:
            raise Broken("the peer freed slots that were not sent")
        if word.size_bytes > PIECE_BYTES_MAX or slot + slots_of(word.size_bytes) > SLOTS:
            raise Broken("a message that can't be")
        self.peer_ended |= word.is_end
        if word.size_bytes == 0:
            self._allow(1)
            self.n_returned += word.is_places
        else:
            self._words.append(word)

    def _reap(self) -> bool:
        n, completions = self._sent.poll(16)
        for completion in completions if n else ():
            if completion.status != e.IBV_WC_SUCCESS and not self.peer_ended:
                self._failure = self._failure or f"a write failed with status {completion.status}"
            self._acknowledged = completion.wr_id
        return n > 0

    def _put(self) -> bool:
        happened = False
        while self._queue and not self.peer_ended and self._posted - self._acknowledged < SENDS - 2:
            slot = self._slots_sent % SLOTS
            room = min(SLOTS - (self._slots_sent - self._slots_returned), SLOTS - slot)
            piece = self._queue[0][: min(room * SLOT_BYTES, PIECE_BYTES_MAX)]
            if not piece:
                break
            tells = self._slots_untold >= TELL_WITH_FRAME_SLOTS
            self._write(slot * SLOT_BYTES, bytes(piece), Word(len(piece), self._untold() if tells else 0))
            self._slots_sent += slots_of(len(piece))
            rest = self._queue.popleft()[len(piece) :]
            if rest:
                self._queue.appendleft(rest)
            happened = True
        if self.peer_ended:
            self._queue.clear()
        elif self._slots_untold >= TELL_ALONE_SLOTS:
            self._write(0, b"", Word(0, self._untold()))
            happened = True
        return happened

    def lend(self, data: bytes, segments: list[int], rkey_xor: int = 0, more_bytes: int = 0) -> None:
        """Says that all of these segments of the next frame lie where `data` does; the rest is for lies."""
        region = MR(self._domain, len(data), e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_READ)
        region.write(data, len(data))
        self._lent.append(region)
        where = (region.buf, len(data) + more_bytes, region.rkey ^ rkey_xor)
        message = places_message([Place(*where, segment) for segment in segments])
        self._write(self._slots_sent % SLOTS * SLOT_BYTES, message, Word(len(message), is_places=True))
        self._slots_sent += 1

    def _fetch(self, places: list[Place]) -> None:
        """Reads them, one after the other, and says so."""
        for place in places:
            with MR(self._domain, place.size_bytes, e.IBV_ACCESS_LOCAL_WRITE) as region:
                self._posted += 1
                piece = SGE(region.buf, place.size_bytes, region.lkey)
                request = SendWR(
                    wr_id=self._posted,
                    opcode=e.IBV_WR_RDMA_READ,
                    num_sge=1,
                    sg=[piece],
                    send_flags=e.IBV_SEND_SIGNALED,
                )
                request.set_wr_rdma(place.rkey, place.address)
                self._pair.post_send(request)
                until_s = time.monotonic() + READ_S
                while self._acknowledged < self._posted and not self._failure and time.monotonic() < until_s:
                    self._reap()
                self.fetched.append(region.read(place.size_bytes, 0))
        self._write(0, b"", Word(0, self._untold(), is_places=True))

    def _untold(self) -> int:
        untold, self._slots_untold = self._slots_untold, 0
        return untold

    def _write(self, at: int, data: bytes, word: Word, rkey_xor: int = 0, signals: bool = False) -> None:
        assert self.peer is not None
        source_at = at if at + len(data) <= RING_BYTES else 0
        if data:
            self._source.write(data, len(data), source_at)
        self._posted += 1
        signals = signals or self._posted - self._signalled >= SIGNAL_EVERY
        request = SendWR(
            wr_id=self._posted,
            opcode=e.IBV_WR_RDMA_WRITE_WITH_IMM,
            num_sge=1,
            sg=[SGE(self._source.buf + source_at, len(data), self._source.lkey)],
            imm_data=socket.htonl(word_of(word)),
            send_flags=e.IBV_SEND_SIGNALED if signals else 0,
        )
        request.set_wr_rdma(self.peer.rkey ^ rkey_xor, self.peer.ring_address + at)
        self._pair.post_send(request)
        if signals:
            self._signalled = self._posted

    def _go_on_ending(self) -> None:
        if not self._says_end or (self._queue and not self.peer_ended):
            return
        if not self._said_end and not self.peer_ended:
            self._write(0, b"", Word(0, self._untold(), True), signals=True)
            self._said_end, self._end_by_s = True, time.monotonic() + LINGER_S
        if self._acknowledged == self._posted or self.peer_ended or time.monotonic() > self._end_by_s:
            self.close()

    # ---- what no honest end does ----

    def tell(self, word: Word, data: bytes, at: int, rkey_xor: int) -> None:
        """Writes to the peer's ring wherever and tells whatever."""
        self._write(at, data, word, rkey_xor, signals=True)

    def fail(self) -> None:
        """The queue pair goes to its error state, as a device does that gives up."""
        attributes = QPAttr(qp_state=e.IBV_QPS_ERR)
        self._pair.modify(attributes, e.IBV_QP_STATE)
