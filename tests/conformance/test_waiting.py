"""Waiting for channels: descriptors that tell the truth, the poller, threads, signals."""

import os
import select
import signal
import threading
import time

import pytest

from rfaas_transport._core import Channel, Poller
from rfaas_transport.errors import ChannelBroken, ChannelClosed
from rfaas_transport.frame import Kind
from support.media import drain, receive
from support.waiting import wait_until


@pytest.fixture
def poller():
    with Poller() as made:
        yield made


def is_readable(channel):
    return bool(select.select([channel.fileno()], [], [], 0)[0])


def test_the_descriptor_is_readable_exactly_while_poll_has_something(pair):
    left, right = pair
    assert not is_readable(right)
    for _ in range(3):
        left.send(Kind.RESULT, segments=[b"x"])
    for _ in range(3):
        wait_until(lambda: is_readable(right), 5)
        assert right.poll() is not None
    assert not is_readable(right)
    left.close()
    wait_until(lambda: is_readable(right), 5)


def test_a_side_that_polled_and_falls_asleep_misses_nothing(pair):
    left, right = pair
    call_id = 0
    for n_frames in (1, 2, 5, 40):
        right.stay_awake(True)
        wanted = range(call_id + 1, call_id + n_frames + 1)
        for call_id in wanted:
            left.send(Kind.RESULT, call_id=call_id, segments=[b"x" * 100])
        seen = [wait_until(lambda: right.spin(0.001), 5).call_id]
        told = right.stay_awake(False)
        assert len(wanted) == 1 or told or is_readable(right)
        while len(seen) < n_frames:
            assert told or right.wait(5.0)
            told = False
            while (frame := right.poll()) is not None:
                seen.append(frame.call_id)
        assert seen == list(wanted)
        assert right.poll() is None
        assert not is_readable(right)


def test_the_poller_names_who_has_something_to_do(pair, poller):
    left, right = pair
    poller.add(left.fileno(), 1)
    poller.add(right.fileno(), 2**63)
    assert poller.wait(0.0) == []
    left.send(Kind.RESULT)
    assert poller.wait(5.0) == [2**63]
    assert poller.wait(5.0) == [2**63]  # level-triggered
    receive(right)
    assert poller.wait(0.0) == []
    right.close()
    assert poller.wait(5.0) == [1]
    poller.remove(left.fileno())
    assert poller.wait(0.0) == []


def test_a_frame_wakes_the_poller_from_another_thread(pair, poller):
    left, right = pair
    poller.add(right.fileno(), 7)
    thread = threading.Thread(target=lambda: left.send(Kind.RESULT))
    thread.start()
    assert poller.wait(10.0) == [7]
    thread.join()


def test_want_write_tells_when_there_is_room(sockets, poller):
    left, right = sockets
    with Channel.from_fd(left.detach()) as channel:
        poller.add(channel.fileno(), 1)
        assert poller.wait(0.0) == []
        poller.want_write(channel.fileno(), True)
        assert poller.wait(5.0) == [1]
        channel.send(Kind.RESULT, segments=[bytes(64 << 20)])
        channel.flush()
        assert channel.wants_write
        wait_until(lambda: channel.flush() or poller.wait(0.0) == [], 5)
        wait_until(lambda: right.recv(8 << 20) and poller.wait(0.0) == [1], 20)
        poller.want_write(channel.fileno(), False)
        assert poller.wait(0.0) == []


def test_wake_ends_the_present_wait_or_the_next(poller):
    poller.wake()
    poller.wake()
    assert poller.wait(10.0) == []
    answers = []
    thread = threading.Thread(target=lambda: answers.append(poller.wait(None)))
    thread.start()
    poller.wake()
    thread.join(10)
    assert answers == [[]]
    assert poller.wait(0.0) == []


def test_the_time_out_is_kept(poller):
    start_s = time.monotonic()
    assert poller.wait(0.05) == []
    assert time.monotonic() - start_s >= 0.05


def test_the_gil_is_free_while_waiting(poller):
    """Were it held, the other thread could not run to wake us, and this would last its full time."""
    start_s = time.monotonic()
    threading.Thread(target=poller.wake).start()
    assert poller.wait(60.0) == []
    assert time.monotonic() - start_s < 30


def test_descriptors_come_and_go_while_another_thread_waits(pair, poller):
    left, right = pair
    seen = []

    def wait_for_both():
        while len(set(seen)) < 2:
            seen.extend(poller.wait(10.0))

    thread = threading.Thread(target=wait_for_both)
    thread.start()
    right.send(Kind.RESULT)
    left.send(Kind.RESULT)
    poller.add(left.fileno(), 1)
    poller.add(right.fileno(), 2)
    thread.join(10)
    assert set(seen) == {1, 2}


def test_a_signal_handler_runs_during_a_wait_and_may_end_it(poller):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            poller.wait(30.0)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    poller.wake()
    assert poller.wait(30.0) == []  # usable as before


def test_a_signal_without_consequence_does_not_shorten_the_wait(poller):
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        start_s = time.monotonic()
        assert poller.wait(0.1) == []
        assert time.monotonic() - start_s >= 0.1
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_misuse_of_the_poller_is_refused(poller):
    reading, writing = os.pipe()
    poller.add(reading, 1)
    with pytest.raises(OSError, match="exists"):
        poller.add(reading, 2)
    with pytest.raises(KeyError):
        poller.want_write(writing, True)
    with pytest.raises(OSError, match="descriptor"):
        poller.add(987_654, 1)
    with pytest.raises((ValueError, OverflowError)):
        poller.add(writing, 2**64 - 1)
    with pytest.raises(ValueError, match="not a number"):
        poller.wait(float("nan"))
    os.close(reading)
    os.close(writing)
    poller.remove(reading)
    poller.remove(reading)


def test_a_closed_poller_says_so_and_ends_the_wait_under_way():
    poller = Poller()
    started = threading.Event()
    ended = []

    def wait():
        started.set()
        try:
            poller.wait(60.0)
        except ValueError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    started.wait(10)
    poller.close()
    poller.close()
    thread.join(10)
    assert len(ended) == 1
    for operation in (lambda: poller.wait(0), lambda: poller.add(0, 0), lambda: poller.remove(0)):
        with pytest.raises(ValueError, match="closed"):
            operation()
    poller.wake()


# ---- one channel at a time ----


def test_wait_of_a_channel_blocks_until_there_is_something(pair):
    left, right = pair
    assert not right.wait(0.0)
    thread = threading.Thread(target=lambda: left.send(Kind.RESULT))
    thread.start()
    assert right.wait(60.0)
    assert right.poll() is not None
    thread.join()
    left.close()
    assert right.wait(60.0)


# ---- threads ----


def test_several_threads_send_while_one_polls(pair):
    left, right = pair
    per_thread, n_threads, payload = 200, 4, os.urandom(3000)

    def send(thread):
        for i in range(per_thread):
            left.send(Kind.RESULT, call_id=thread * per_thread + i, segments=[payload, payload * (i % 40)])

    threads = [threading.Thread(target=send, args=(n,)) for n in range(n_threads)]
    for thread in threads:
        thread.start()
    seen = []

    def all_seen():
        left.flush()
        while (frame := right.poll()) is not None:
            assert frame.segments[0] == payload
            assert len(frame.segments[1]) == 3000 * (frame.call_id % per_thread % 40)
            seen.append(frame.call_id)
        return len(seen) == per_thread * n_threads

    wait_until(all_seen, 60)
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(per_thread * n_threads))
    for n in range(n_threads):
        mine = [call_id for call_id in seen if call_id // per_thread == n]
        assert mine == sorted(mine)


def test_closing_while_another_thread_sends_is_safe(make_pair):
    for _ in range(20):
        left, right = make_pair()
        data = bytearray(200_000)

        def send(channel=left, data=data):
            try:
                while True:
                    channel.send(Kind.RESULT, segments=[data])
            except (ChannelClosed, ChannelBroken):
                pass

        thread = threading.Thread(target=send)
        thread.start()
        receive(right)
        left.close()
        thread.join(10)
        assert not thread.is_alive()
        data.clear()  # nothing borrows it any more
        drain(right)
