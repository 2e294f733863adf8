"""T61: somebody between the two sides of an encrypted channel, or one who lacks its key, or a peer that just ends.

Whatever is done to the bytes, no frame is delivered that was not sent, and the channel ends with a reason. Then real
agents and programs that differ about encryption. Spec: docs/spec/004-session.md section 5.
"""

import os
import random
import socket

import pytest

import rfaas
from rfaas_transport import tls
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken, ChannelClosed, ConfigError
from rfaas_transport.frame import Kind
from support.media import drain, receive, receive_while_flushing
from support.personal import Personal
from support.waiting import wait_until

_tls = pytest.importorskip("rfaas_transport._tls", reason="rfaas was built without OpenSSL")

TIMEOUT_S = 20
KEY = bytes(range(32))
MARK = b"what nobody else may read"


class Middle:
    """Two ends of an encrypted channel and whoever is between them, who passes bytes on when told to."""

    def __init__(self, key=KEY, other_key=KEY):
        mine, self.dialer_side = socket.socketpair()
        self.accepter_side, theirs = socket.socketpair()
        for sock in (self.dialer_side, self.accepter_side):
            sock.setblocking(False)
        self.dialer = Channel.from_fd(mine.detach(), key=key, is_dialer=True)
        self.accepter = Channel.from_fd(theirs.detach(), key=other_key)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in (self.dialer, self.accepter, self.dialer_side, self.accepter_side):
            end.close()

    @staticmethod
    def take(sock):
        """What has come from one side."""
        try:
            return sock.recv(1 << 20)
        except BlockingIOError:
            return b""

    def shake_hands(self):
        """Pass everything on until both sides have nothing to say."""
        quiet = 0
        while quiet < 3:
            outward, inward = self.take(self.dialer_side), self.take(self.accepter_side)
            if outward:
                self.accepter_side.sendall(outward)
            if inward:
                self.dialer_side.sendall(inward)
            quiet = 0 if outward or inward else quiet + 1
            for channel in (self.accepter, self.dialer):
                assert channel.poll() is None
        return self

    def sent(self, *payloads):
        """The bytes on the wire of frames of the dialer, not passed on."""
        for payload in payloads:
            assert self.dialer.send(Kind.RESULT, call_id=7, segments=[payload])
        return wait_until(lambda: self.take(self.dialer_side), TIMEOUT_S, "a record")


def ending(channel):
    """What was delivered, and how the channel ended."""
    frames, error = drain(channel, TIMEOUT_S)
    return [bytes(frame.segments[0]) for frame in frames], error


def test_t61_nothing_goes_in_plain_and_it_arrives():
    with Middle().shake_hands() as middle:
        record = middle.sent(MARK * 10)
        assert MARK not in record
        assert KEY not in record
        middle.accepter_side.sendall(record)
        assert receive(middle.accepter).segments[0] == MARK * 10


@pytest.mark.parametrize("keys", [(KEY, bytes(32)), (KEY[::-1], KEY)])
def test_t61_a_side_without_the_key_is_refused_by_the_other(keys):
    with Middle(*keys) as middle:
        middle.dialer.send(Kind.RESULT, segments=[MARK])  # waits for the proof, which never comes

        def accepter_refused():
            middle.accepter_side.sendall(middle.take(middle.dialer_side))
            try:
                assert middle.accepter.poll() is None
            except ChannelBroken as error:
                return str(error)
            return ""

        assert "did not prove the channel's key" in wait_until(accepter_refused, TIMEOUT_S)
        middle.dialer_side.sendall(middle.take(middle.accepter_side))
        assert ending(middle.dialer)[0] == []
        assert MARK not in middle.take(middle.dialer_side)


def test_t61_a_peer_that_speaks_plainly_is_refused_and_gets_nothing():
    here, there = socket.socketpair()
    with Channel.from_fd(here.detach(), key=KEY, is_dialer=True) as secret, Channel.from_fd(there.detach()) as plain:
        secret.send(Kind.RESULT, segments=[MARK])
        plain.send(Kind.RESULT, segments=[MARK])
        with pytest.raises(ChannelBroken, match="did not prove"):
            wait_until(secret.poll, TIMEOUT_S)
        delivered, error = ending(plain)
        assert (delivered, type(error)) == ([], ChannelBroken)


def test_t61_no_byte_can_be_changed_on_the_way():
    with Middle().shake_hands() as middle:
        n_bytes = len(middle.sent(MARK))
    for at in range(n_bytes):
        with Middle().shake_hands() as middle:
            record = bytearray(middle.sent(MARK))
            record[at] ^= 1 << at % 8
            middle.accepter_side.sendall(record)
            middle.accepter_side.shutdown(socket.SHUT_WR)  # where the length grew, the rest is waited for
            delivered, error = ending(middle.accepter)
            assert (delivered, type(error)) == ([], ChannelBroken), at


def test_t61_a_stream_that_is_cut_anywhere_is_broken_after_what_was_whole():
    with Middle().shake_hands() as middle:
        whole = middle.sent(b"first", b"second")
    for n_bytes in range(len(whole)):
        with Middle().shake_hands() as middle:
            middle.accepter_side.sendall(middle.sent(b"first", b"second")[:n_bytes])
            middle.accepter_side.shutdown(socket.SHUT_WR)
            delivered, error = ending(middle.accepter)
            assert delivered == ([] if n_bytes < len(whole) // 2 else [b"first"]), n_bytes
            assert isinstance(error, ChannelBroken), n_bytes


def test_t61_a_handshake_that_is_cut_anywhere_is_broken():
    random_ = random.Random(61)
    for _ in range(60):
        with Middle() as middle:
            hello = wait_until(lambda m=middle: m.take(m.dialer_side), TIMEOUT_S)
            middle.accepter_side.sendall(hello[: random_.randrange(1, len(hello))])
            middle.accepter_side.shutdown(socket.SHUT_WR)
            delivered, error = ending(middle.accepter)
            assert (delivered, type(error)) == ([], ChannelBroken)


def test_t61_records_can_be_neither_repeated_nor_left_out():
    for times in (0, 2):
        with Middle().shake_hands() as middle:
            first, second = middle.sent(b"first"), middle.sent(b"second")
            middle.accepter_side.sendall(first * times + second)
            delivered, error = ending(middle.accepter)
            assert (delivered, type(error)) == ([b"first"] if times else [], ChannelBroken)


def test_t61_an_end_that_was_not_said_is_a_broken_channel_and_one_that_was_is_an_end():
    for say in (True, False):
        with Middle().shake_hands() as middle:
            middle.accepter_side.sendall(middle.sent(b"last"))
            if say:
                middle.dialer.close()
                middle.accepter_side.sendall(wait_until(lambda m=middle: m.take(m.dialer_side), TIMEOUT_S))
            middle.accepter_side.shutdown(socket.SHUT_WR)
            delivered, error = ending(middle.accepter)
            assert (delivered, type(error)) == ([b"last"], ChannelClosed if say else ChannelBroken)


def test_t61_garbage_never_becomes_a_frame():
    random_ = random.Random(610)
    for round_ in range(200):
        with Middle() as middle:
            if round_ % 2:
                middle.shake_hands()
            garbage = random_.randbytes(random_.randrange(1, 400))
            middle.accepter_side.sendall(b"\x17\x03\x03" + garbage if round_ % 4 > 1 else garbage)
            middle.accepter_side.shutdown(socket.SHUT_WR)
            delivered, error = ending(middle.accepter)
            assert (delivered, isinstance(error, ChannelBroken)) == ([], True)


def test_t61_keys_are_changed_long_before_they_wear_out():
    _tls._change_keys_after(3)
    try:
        with Middle().shake_hands() as middle:
            records = set()
            for number in range(50):
                record = middle.sent(b"%d" % number)
                records.add(len(record))
                middle.accepter_side.sendall(record)
                assert receive(middle.accepter).segments[0] == b"%d" % number
            assert len(records) > 1  # some carry the change
        here, there = socket.socketpair()
        left = Channel.from_fd(here.detach(), key=KEY, is_dialer=True)
        with left, Channel.from_fd(there.detach(), key=KEY) as right:
            data = os.urandom(3 << 20)
            left.send(Kind.RESULT, segments=[data])
            wait_until(lambda: right.poll() or left.poll() or left.statistics()["queued_bytes"] < len(data), TIMEOUT_S)
            assert receive_while_flushing(right, left).segments[0] == data
    finally:
        _tls._change_keys_after(0)


def test_t61_a_wrong_key_size_is_refused_at_once():
    here, there = socket.socketpair()
    with here, there, pytest.raises(ConfigError, match="31 bytes"):
        Channel.from_fd(here.fileno(), key=KEY[1:])


# ---- programs and agents ----


@pytest.fixture
def personal(tmp_path):
    made = Personal(tmp_path)
    made.start_allocator()
    yield made
    made.stop()


def media_of(executor):
    """What the open channels of an executor are made of."""
    return {port.channel.medium for port in executor._engine._ports._by_token.values()}


@pytest.mark.parametrize(
    ("program", "agent", "medium"),
    [("trusted", "trusted", "tcp"), ("encrypt", "trusted", "tls"), ("trusted", "encrypt", "tls")],
)
def test_t61_either_side_may_ask_for_encryption(personal, monkeypatch, program, agent, medium):
    monkeypatch.setenv("RFAAS_AGENT_TRANSPORT_SECURITY", agent)
    personal.start_agent(1, 5.0, "--listen", "127.0.0.1")
    with rfaas.Executor(1, allocator=personal.state_dir, transport_security=program) as executor:
        assert executor.submit(pow, 2, 10).result(60) == 1024
        assert executor.submit(bytes, 3 << 20).result(60) == bytes(3 << 20)
        assert media_of(executor) == {medium}
        with pytest.raises(rfaas.WorkerLost):  # an end that nobody said, on either medium
            executor.submit(os._exit, 3).result(60)
        assert executor.submit(pow, 2, 3).result(60) == 8
        assert media_of(executor) == {medium}


def test_t61_what_can_t_encrypt_is_told_with_a_remedy(monkeypatch):
    monkeypatch.setattr(tls, "is_built", lambda: False)
    with pytest.raises(ConfigError, match="built without OpenSSL") as raised:
        rfaas.Executor(1, transport_security="encrypt")
    assert "libssl-dev" in raised.value.hint
