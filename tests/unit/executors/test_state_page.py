"""The page that worker and agent share: its bytes are those of docs/spec/001-invocation.md section 5."""

import mmap
import os
import struct
import time

import pytest

from rfaas_executors._process import StatePage


@pytest.fixture
def page():
    page = StatePage.create()
    yield page
    page.close()


def test_a_slot_is_64_bytes_of_six_numbers_in_the_specified_order(page):
    page.open(3, 77)
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    page.start(3, 5, 1_000_000_000)
    after_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    page.finish(3, 4)
    assert page.interrupt(3, 5) is True
    with mmap.mmap(page.fileno(), 4096) as seen:
        channel, started, done, deadline, started_at, interrupted, *rest = struct.unpack_from("<8Q", seen, 3 * 64)
        assert set(seen[: 3 * 64]) == {0}
    assert (channel, started, done, interrupted, rest) == (77, 5, 4, 5, [0, 0])
    assert before_ns <= started_at <= after_ns
    assert deadline == 0  # nothing runs any more


def test_what_one_mapping_writes_the_other_reads(page):
    other = StatePage.from_fd(os.dup(page.fileno()))
    other.open(0, 9)
    other.start(0, 1, 500)
    assert page.read(0)[:3] == (9, 1, 0)
    _, _, _, deadline_ns, started_ns = page.read(0)
    assert deadline_ns - started_ns == 500
    other.finish(0, 1)
    assert page.read(0)[:4] == (9, 1, 1, 0)
    other.open(0, 10)
    assert page.read(0) == (10, 0, 0, 0, 0)
    other.close()


def test_slots_outside_the_page_and_closed_pages_are_refused(page):
    for slot in -1, StatePage.N_SLOTS:
        with pytest.raises(IndexError):
            page.start(slot, 1)
    page.close()
    page.close()
    with pytest.raises(ValueError, match="closed"):
        page.read(0)


def test_the_memory_can_not_shrink_under_a_reader(page):
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(page.fileno(), 0)


def test_what_is_too_small_is_no_page():
    fd = os.memfd_create("small")
    with pytest.raises(OSError, match="too small"):
        StatePage.from_fd(fd)
    os.close(fd)  # it stayed ours


def test_descriptors_are_not_leaked():
    before = set(os.listdir("/proc/self/fd"))
    page = StatePage.create()
    del page
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_interrupted_call_does_not_start_and_one_that_runs_is_told_of(page):
    page.open(0, 9)
    assert page.interrupt(0, 1) is False
    assert page.start(0, 1) is False
    assert page.read(0)[1:3] == (0, 0)  # which proves that it never ran
    assert page.start(0, 2) is True
    assert page.interrupt(0, 1) is False
    assert page.finish(0, 2) is True
    assert page.interrupt(0, 2) is False  # it is over
    assert page.start(0, 3) is True
    assert page.interrupt(0, 3) is True
    assert page.interrupt(0, 2) is False  # heard again, too late: the third stays interrupted
    assert page.finish(0, 3) is False
    page.open(0, 10)
    assert page.start(0, 1) is True  # another channel's


# --- usage ---------------------------------------------------------------------------------------


def test_usage_lies_behind_the_slots_in_the_specified_order(page):
    page.open(0, 7)
    page.start(0, 1)
    started_ns = page.read(0)[4]
    page.finish(0, 1, 1000, 24)
    page.start(0, 2)
    page.finish(0, 2, 1, 2)
    with mmap.mmap(page.fileno(), 8192) as seen:
        running_ns, hot_ns, calls, bytes_in, bytes_out, *rest = struct.unpack_from("<8Q", seen, 4096)
        assert set(seen[4096 + 64 :]) == {0}
    assert (hot_ns, calls, bytes_in, bytes_out, rest) == (0, 2, 1001, 26, [0, 0, 0])
    assert 0 < running_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_ns
    assert page.usage() == (running_ns, hot_ns, calls, bytes_in, bytes_out)


def test_usage_outlives_the_channel(page):
    page.open(0, 7)
    page.start(0, 1)
    page.finish(0, 1, 5, 6)
    page.open(0, 8)
    assert page.usage()[2:] == (1, 5, 6)


def test_a_page_of_the_version_before_serves_without_usage():
    fd = os.memfd_create("old")
    os.ftruncate(fd, 4096)
    page = StatePage.from_fd(fd)
    page.open(0, 7)
    page.start(0, 1)
    page.finish(0, 1, 5, 6)
    assert page.read(0)[:3] == (7, 1, 1)
    assert page.usage() == (0, 0, 0, 0, 0)
    page.close()
    with pytest.raises(ValueError, match="closed"):
        page.usage()


def test_last_words_lie_at_their_place_and_are_cut(page):
    assert page.last_words() == b""
    page.say_last("wörk".encode())
    assert page.last_words() == "wörk".encode()
    with mmap.mmap(page.fileno(), 8192) as seen:
        assert seen[6144:6153] == struct.pack("<I", 5) + "wörk".encode()
    page.say_last(b"x" * 5000)
    assert page.last_words() == b"x" * 2044


def test_last_words_of_an_impossible_length_are_none(page):
    with mmap.mmap(page.fileno(), 8192) as seen:
        seen[6144:6148] = struct.pack("<I", 2045)
    assert page.last_words() == b""
