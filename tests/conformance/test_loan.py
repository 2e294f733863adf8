"""Channels on loan: what borrowers may do, and every way in which the owner gets them back (transport/core/loan.h)."""

import signal
import threading
import time

import pytest

from rfaas_transport._core import Frame, Loan, Poller, Request, Requests
from rfaas_transport.errors import ChannelClosed
from rfaas_transport.frame import Kind, Status
from support.media import EACH_MEDIUM, MEDIA
from support.waiting import wait_until

TIMEOUT_S = 20.0
QUICK_S = 1.0  # a peer in Python on a CPU that is emulated, or busy, takes milliseconds
KNOWN = {b"f": 3}


class Peer:
    """Answers requests on the other end of a channel, in a thread of its own, until it is told to stop."""

    def __init__(self, channel):
        self.channel = channel
        self.hold = threading.Event()
        self.hold.set()
        self.reply = self.plainly
        self.served = []
        self._over = False
        channel.send(Kind.HELLO, credits=1)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def plainly(self, frame):
        self.channel.send(Kind.RESULT, call_id=frame.call_id, credits=1, segments=[b"".join(frame.segments)[::-1]])

    def _run(self):
        while not self._over:
            try:
                frame = self.channel.poll()
            except ChannelClosed:
                return
            if frame is None:
                self.channel.wait(0.01)
            elif frame.kind == Kind.CALL:
                self.served.append(b"".join(frame.segments))
                assert self.hold.wait(TIMEOUT_S)
                self.reply(frame)

    def stop(self):
        self.hold.set()
        self._over = True
        self._thread.join(TIMEOUT_S)


class Rig:
    """A loan of some channels with a peer behind each; the test is owner and borrower."""

    def __init__(self, medium, n=1, sleep_s=TIMEOUT_S, look_s=0.0002):
        self.poller = Poller()
        self.loan = Loan(self.poller, sleep_s, look_s, QUICK_S)
        self.pairs = [MEDIA[medium]() for _ in range(n)]
        self.channels = [ours for ours, _ in self.pairs]
        self.peers = [Peer(theirs) for _, theirs in self.pairs]
        for channel in self.channels:
            wait_until(channel.poll, TIMEOUT_S, "its hello")
        self.generation = 0
        self.begin()

    def begin(self, n_ids=1000, id_before=0):
        self.generation += 1
        terms = [(channel, id_before, 7, 8, KNOWN) for channel in self.channels]
        self.loan.begin(self.generation, terms, Kind.CALL, n_ids, 0)

    def send(self, payload):
        request = Request(b"f", payload, None)
        return request if self.loan.submit(self.generation, request) else None

    def close(self):
        for peer in self.peers:
            peer.stop()
        self.loan.end()
        self.loan.close()
        for pair in self.pairs:
            for channel in pair:
                channel.close()
        self.poller.close()


@pytest.fixture(params=EACH_MEDIUM)
def medium(request):
    return request.param


@pytest.fixture
def rig(medium):
    made = Rig(medium)
    yield made
    made.close()


@pytest.fixture
def impatient(medium):
    """Its borrowers sleep as long as they do in an executor."""
    made = Rig(medium, sleep_s=0.02)
    yield made
    made.close()


@pytest.fixture
def two(medium):
    made = Rig(medium, n=2)
    yield made
    made.close()


def test_small_answers_are_bytes_and_others_frames(rig):
    for size in (1, 100, 4096, 5000, 3_000_000):
        request = rig.send(b"a" * (size - 1) + b"b")
        assert rig.loan.wait(request)
        answer = request.answer()
        assert type(answer) is (bytes if size <= 4096 else Frame)
        data = answer if size <= 4096 else answer.segments[0]
        assert bytes(data) == b"b" + b"a" * (size - 1)
        assert request.answer() is answer
    assert rig.loan.answers == 5
    assert rig.loan.outstanding == 0


def test_large_answers_that_are_asked_for_late_are_what_was_sent(rig):
    payloads = [bytes([n]) * size for n, size in enumerate((9000, 5000, 70_000, 6000, 5000))]
    requests = [rig.send(payload) for payload in payloads]
    assert rig.loan.wait(requests[-1])
    assert [bytes(request.answer().segments[0]) for request in requests] == payloads


def test_a_borrower_looks_for_as_long_as_it_is_told_to_and_sleeps_then(medium):
    used_s = []
    for look_s in (0.0002, TIMEOUT_S):
        rig = Rig(medium, look_s=look_s)
        rig.peers[0].hold.clear()
        later = threading.Timer(0.2, rig.peers[0].hold.set)
        later.start()
        request = rig.send(b"x")
        before_s = time.thread_time()
        assert rig.loan.wait(request)
        used_s.append(time.thread_time() - before_s)
        later.join()
        rig.close()
    print(f"CPU of a borrower that waits 0.2 s: {used_s[0] * 1e3:.2f} ms asleep, {used_s[1] * 1e3:.2f} ms looking")
    assert used_s[1] > 2 * used_s[0]


def test_segments_of_any_buffers_go_as_they_are(rig):
    request = rig.send([b"head", bytearray(b"x" * 10_000), memoryview(b"tail")])
    assert rig.loan.wait(request)
    assert bytes(request.answer().segments[0]) == (b"head" + b"x" * 10_000 + b"tail")[::-1]


def test_what_finds_no_free_channel_waits_in_order(two):
    for peer in two.peers:
        peer.hold.clear()
    requests = [two.send(bytes([n])) for n in range(20)]
    assert [request.sent for request in requests] == [True] * 2 + [False] * 18
    assert (two.loan.outstanding, two.loan.waiting) == (20, 18)
    for peer in two.peers:
        peer.hold.set()
    assert all(two.loan.wait(request) for request in requests)
    assert [request.answer() for request in requests] == [bytes([n]) for n in range(20)]
    served = sorted(two.peers[0].served + two.peers[1].served)
    assert served == [bytes([n]) for n in range(20)]
    assert all(peer.served == sorted(peer.served) for peer in two.peers)


def test_numbers_rise_and_the_lease_is_named(rig):
    seen = []

    def look(frame):
        seen.append((frame.call_id, frame.function, frame.lease_seq, frame.epoch))
        rig.peers[0].plainly(frame)

    rig.peers[0].reply = look
    for _ in range(3):
        assert rig.loan.wait(rig.send(b""))
    assert seen == [(n, 3, 7, 8) for n in (1, 2, 3)]


def test_an_error_is_an_answer_and_the_channel_goes_on(rig):
    def fail(frame):
        rig.peers[0].channel.send(
            Kind.RESULT, call_id=frame.call_id, status=Status.EXCEPTION, credits=1, segments=[b"why"]
        )

    rig.peers[0].reply = fail
    request = rig.send(b"x")
    assert rig.loan.wait(request)
    assert request.answer().status == Status.EXCEPTION
    rig.peers[0].reply = rig.peers[0].plainly
    assert rig.loan.wait(rig.send(b"y"))


@pytest.mark.parametrize(
    "odd",
    [
        {"kind": Kind.OUTPUT},
        {"kind": Kind.RESULT, "status": Status.NOT_STARTED, "credits": 1},
        {"kind": Kind.RESULT, "status": Status.OK, "credits": 0},
        {"kind": Kind.ERROR, "status": Status.BAD_FRAME, "text": "no"},
    ],
    ids=["output", "not started", "the last one", "error"],
)
def test_what_is_no_plain_answer_is_left_to_the_owner(rig, odd):
    rig.peers[0].reply = lambda frame: rig.peers[0].channel.send(**odd, call_id=frame.call_id)
    request = rig.send(b"x")
    waits = rig.send(b"y")
    assert not rig.loan.wait(request)
    assert rig.loan.is_over
    [(n_answers, unanswered, call_id, frame, _)], waiting = rig.loan.end()
    assert (n_answers, unanswered, call_id, waiting) == (0, [request], 1, [waits])
    assert (frame.kind, frame.call_id) == (odd["kind"], 1)
    assert not request.is_on_loan
    assert not rig.loan.wait(request)


def test_the_end_of_a_channel_is_left_to_the_owner(rig):
    rig.peers[0].reply = lambda frame: rig.peers[0].channel.close()
    request = rig.send(b"x")
    wait_until(lambda: not rig.loan.wait(request), TIMEOUT_S)
    assert rig.loan.is_over
    [(_, unanswered, _, frame, _)], _ = rig.loan.end()
    assert (unanswered, frame) == ([request], None)
    with pytest.raises(ChannelClosed):
        rig.channels[0].poll()


@pytest.mark.parametrize("after_s", [0.0, 0.00005, 0.001, 0.01])
def test_the_owner_gets_its_channels_back_from_who_looks_and_from_who_sleeps(rig, after_s):
    rig.peers[0].hold.clear()
    request = rig.send(b"x")
    answered = []
    waiting = threading.Thread(target=lambda: answered.append(rig.loan.wait(request)))
    waiting.start()
    time.sleep(after_s)
    rig.loan.recall()
    assert rig.send(b"y") is None
    [(_, unanswered, call_id, frame, _)], _ = rig.loan.end()
    waiting.join(TIMEOUT_S)
    assert (answered, unanswered, call_id, frame) == ([False], [request], 1, None)
    rig.peers[0].hold.set()
    rig.channels[0].stay_awake(False)
    frame = wait_until(rig.channels[0].poll, TIMEOUT_S)
    assert (frame.kind, frame.call_id) == (Kind.RESULT, 1)
    rig.begin(id_before=5000)
    assert rig.loan.wait(rig.send(b"again"))


def test_who_waits_for_long_leaves_it_to_the_owner(impatient):
    rig = impatient
    rig.peers[0].hold.clear()
    began_s = time.monotonic()
    assert not rig.loan.wait(rig.send(b"x"))
    assert time.monotonic() - began_s < 10.0  # some 20 ms
    assert rig.loan.is_over
    assert rig.poller.wait(TIMEOUT_S) == []  # woken


def test_a_timeout_is_kept(rig):
    rig.peers[0].hold.clear()
    request = rig.send(b"x")
    assert not rig.loan.wait(request, 0.001)
    assert request.is_on_loan
    assert len(rig.loan.end()[0]) == 1


def test_a_call_in_one_step_is_answered_or_says_who_has_it(rig):
    for payload in (b"small", bytes(100_000), [b"two ", b"segments"]):
        request = Request(b"f", payload, None)
        assert rig.loan.call(rig.generation, request) is True
        answer = request.answer()
        data = bytes(answer if type(answer) is bytes else answer.segments[0])
        assert data == b"".join([payload] if type(payload) is bytes else payload)[::-1]
    assert rig.loan.call(rig.generation + 1, Request(b"f", b"x", None)) is None
    assert (rig.loan.answers, rig.loan.outstanding, rig.loan.unused) == (3, 0, True)


def test_a_call_in_one_step_comes_after_those_that_wait(two):
    for peer in two.peers:
        peer.hold.clear()
    before = [two.send(bytes([n])) for n in range(10)]
    last = Request(b"f", b"last", None)
    opening = threading.Timer(0.002, lambda: [peer.hold.set() for peer in two.peers])
    opening.start()
    if not two.loan.call(two.generation, last):
        wait_until(lambda: two.loan.wait(last), TIMEOUT_S)
    opening.join()
    for request in before:  # those at the other peer may take longer
        wait_until(lambda request=request: two.loan.wait(request), TIMEOUT_S)
    assert last.answer() == b"tsal"
    assert b"last" in (two.peers[0].served[-1], two.peers[1].served[-1])


def test_a_call_in_one_step_that_lasts_is_left_to_the_owner(impatient):
    rig = impatient
    rig.peers[0].hold.clear()
    request = Request(b"f", b"x", None)
    assert rig.loan.call(rig.generation, request) is False
    assert rig.loan.is_over
    [(_, unanswered, call_id, frame, _)], waiting = rig.loan.end()
    assert (unanswered, call_id, frame, waiting) == ([request], 1, None, [])


def test_a_call_in_one_step_that_no_channel_takes_waits_for_the_owner(medium):
    rig = Rig(medium)
    try:
        assert rig.loan.end() is not None
        rig.begin(n_ids=1)
        assert rig.loan.call(rig.generation, Request(b"f", b"x", None))
        request = Request(b"f", b"y", None)
        assert rig.loan.call(rig.generation, request) is False
        assert rig.loan.is_over
        [(n_answers, unanswered, _, frame, _)], waiting = rig.loan.end()
        assert (n_answers, unanswered, frame, waiting) == (1, [], None, [request])
        assert not request.sent
    finally:
        rig.close()


def test_a_request_of_another_loan_is_refused(rig):
    assert rig.loan.end() is not None
    request = Request(b"f", b"x", None)
    assert not rig.loan.submit(rig.generation, request)
    rig.begin()
    assert not rig.loan.submit(rig.generation - 1, request)
    assert not request.sent
    assert rig.loan.end() is not None
    assert rig.loan.end() is None


def test_what_was_not_sent_can_be_withdrawn(rig):
    rig.peers[0].hold.clear()
    sent, first, second = (rig.send(name) for name in (b"sent", b"first", b"second"))
    assert not rig.loan.withdraw(sent)
    assert rig.loan.withdraw(first)
    assert not rig.loan.withdraw(first)
    rig.peers[0].hold.set()
    assert rig.loan.wait(second)
    assert rig.peers[0].served == [b"sent", b"second"]
    assert not rig.loan.withdraw(second)


def behind_each_other(rig, n=40):
    """Requests of which several are at the peer at a time; it has stopped at one."""
    rig.peers[0].channel.send(Kind.TAKEN, credits=7)
    stop_at = n // 2

    def reply(frame):
        rig.peers[0].plainly(frame)
        if len(rig.peers[0].served) == stop_at:
            rig.peers[0].hold.clear()

    rig.peers[0].reply = reply
    requests = [rig.send(b"%d" % i) for i in range(n)]
    rig.loan.wait(requests[stop_at - 1], TIMEOUT_S)
    rig.loan.look()
    return requests


def several_at_the_peer(rig):
    """As `behind_each_other`; a busy machine may let the peer seem slow for a while, which gets one at a time."""
    for _ in range(50):
        requests = behind_each_other(rig)
        there = [request for request in requests if request.sent and not request.done]
        if len(there) > 1:
            return requests, there
        rig.peers[0].hold.set()
        assert rig.loan.wait(requests[-1], TIMEOUT_S)
        rig.peers[0].served.clear()
    raise AssertionError("no request ever lay behind another")


def test_requests_lie_behind_others_while_some_wait_and_the_peer_takes_them(rig):
    requests, there = several_at_the_peer(rig)
    assert len(there) <= 8
    assert [request.behind for request in there] == [False] + [True] * (len(there) - 1)
    rig.peers[0].hold.set()
    assert rig.loan.wait(requests[-1], TIMEOUT_S)
    assert [request.answer() for request in requests] == [request.payload[::-1] for request in requests]
    assert not any(request.behind for request in requests)


def test_what_lies_behind_comes_back_in_order_with_the_numbers_it_was_sent_under(rig):
    requests, there = several_at_the_peer(rig)
    [(n_answers, unanswered, call_id, frame, credits)], waiting = rig.loan.end()
    assert (unanswered, frame) == (there, None)
    assert credits >= 7
    assert waiting == [request for request in requests if not request.sent]
    assert not any(request.is_on_loan for request in requests)
    rig.peers[0].hold.set()
    rig.channels[0].stay_awake(False)
    numbers = [wait_until(rig.channels[0].poll, TIMEOUT_S).call_id for _ in there]
    assert numbers == [call_id + i for i in range(len(there))]
    assert n_answers == call_id - 1


def test_large_requests_and_those_of_another_function_lie_behind_nothing(rig):
    rig.peers[0].channel.send(Kind.TAKEN, credits=7)
    requests = [rig.send(bytes(40_000)) for _ in range(20)]
    assert rig.loan.wait(requests[9])
    rig.loan.look()
    assert not any(request.behind for request in requests)


def test_numbers_that_run_out_end_a_loan_and_lose_nothing(rig):
    assert rig.loan.end() is not None
    rig.begin(n_ids=3, id_before=100)
    requests = [rig.send(bytes([n])) for n in range(5)]
    assert not rig.loan.wait(requests[-1])
    [(n_answers, unanswered, call_id, _, _)], waiting = rig.loan.end()
    assert (n_answers, unanswered, call_id) == (3, [], 103)
    assert waiting == requests[3:]


def test_several_threads_share_a_loan_until_one_hinders_another(two):
    """Who asks while another sleeps has the owner see to all; nothing is lost or answered twice."""
    requests = []

    def use(thread):
        for n in range(50):
            request = two.send(f"{thread}-{n}".encode())
            if request is None:
                return
            requests.append(request)
            while not two.loan.wait(request):
                if two.loan.is_over:
                    return
                time.sleep(0.0005)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    channels, waiting = two.loan.end()
    done = [request for request in requests if request.done]
    assert all(request.answer() == request.payload[::-1] for request in done)
    sent = [request for _, requests, *_ in channels for request in requests]
    assert len(done) + len(sent) + len(waiting) == len(requests)
    assert sum(n_answers for n_answers, *_ in channels) == len(done)


def test_a_signal_s_handler_runs_while_somebody_waits_for_long(impatient):
    """Not later than the borrower sleeps."""
    rig = impatient
    rig.peers[0].hold.clear()
    caught = []
    before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(time.monotonic()))
    try:
        main = threading.main_thread().ident
        timer = threading.Timer(0.002, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        request = rig.send(b"x")
        timer.start()
        rig.loan.wait(request)
        timer.join()
        wait_until(lambda: caught, TIMEOUT_S)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_plain_requests_are_told_from_others(medium):
    ours, theirs = MEDIA[medium]()
    with ours, theirs:
        theirs.send(Kind.HELLO, credits=9)
        wait_until(ours.poll, TIMEOUT_S)
        requests = Requests(theirs, Kind.CALL, Kind.RESULT, 3, 7, 8)
        assert requests.next(0.0) is None
        plain = {"function": 3, "lease_seq": 7, "epoch": 8}
        sent = [
            {**plain, "call_id": 1, "segments": [b"small"]},
            {**plain, "call_id": 2, "segments": [b"two", b"segments"]},
            {**plain, "call_id": 3, "segments": [b"x" * 100_000]},
            {**plain, "call_id": 4, "segments": [b"x"], "function": 2},
            {**plain, "call_id": 5, "segments": [b"x"], "lease_seq": 6},
            {**plain, "call_id": 6, "segments": [b"x"], "epoch": 9},
            {**plain, "call_id": 7, "segments": [b"x"], "deadline_ns": 1},
            {**plain, "call_id": 8, "segments": [b"x"], "attempt": 1},
            {**plain, "call_id": 9, "segments": []},
        ]
        for fields in sent:
            ours.send(Kind.CALL, **fields)
        assert wait_until(lambda: requests.next(0.01), TIMEOUT_S) == b"small"
        assert (requests.call_id, requests.in_size, requests.frame().call_id) == (1, 5, 1)
        assert requests.answer(b"answer")
        frame = wait_until(ours.poll, TIMEOUT_S)
        assert (frame.kind, frame.call_id, frame.credits, bytes(frame.segments[0])) == (Kind.RESULT, 1, 1, b"answer")
        segments = wait_until(lambda: requests.next(0.01), TIMEOUT_S)
        assert [bytes(segment) for segment in segments] == [b"two", b"segments"]
        assert requests.answer([b"a", b"b"])
        assert [bytes(s) for s in wait_until(ours.poll, TIMEOUT_S).segments] == [b"a", b"b"]
        (segment,) = wait_until(lambda: requests.next(0.01), TIMEOUT_S)
        assert bytes(segment) == b"x" * 100_000
        for call_id in range(4, 10):
            frame = wait_until(lambda: requests.next(0.01), TIMEOUT_S)
            assert (type(frame), frame.call_id) == (Frame, call_id)


def test_a_loan_that_is_never_ended_is_freed_with_what_is_on_it(medium):
    left, right = MEDIA[medium]()
    with left, right, Poller() as poller:
        right.send(Kind.HELLO, credits=1)
        wait_until(left.poll, TIMEOUT_S)
        loan = Loan(poller)
        loan.begin(1, [(left, 0, 7, 8, KNOWN)], Kind.CALL, 10, 0)
        assert loan.submit(1, Request(b"f", b"sent", None))
        assert loan.submit(1, Request(b"f", [bytearray(10_000)], None))
        assert loan.outstanding == 2
        del loan
