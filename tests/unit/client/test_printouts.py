"""Output at its caller: whole lines with a prefix, and no result before what its call printed."""

import contextlib
import io
import logging
import os
import threading
import warnings
from types import SimpleNamespace

import pytest

from rfaas.client.effects import Deliver
from rfaas.client.mismatch import Differs, Mismatches
from rfaas.client.output_sinks import FILE_BYTES, CallerSink, FileSink
from rfaas.client.printouts import LINE_BYTES, WAIT_S, Printed, PrintedAll, Printouts
from rfaas.client.records import Call, ChannelInfo
from rfaas.config import CallSettings

INFO = ChannelInfo(number=7, lease=b"l", lease_seq=1, epoch=1, slot=2, generation=1, node="n1")


class Shown:
    """A Printouts with what it has written."""

    def __init__(self, prefix="[{node}/{worker} #{call}] "):
        self.written = []
        self.printouts = Printouts(lambda info, stream, text: self.written.append((stream, text)), prefix, 100)
        self.printouts.open(INFO)

    def take(self, data, call_id=1, stream=1, cut_bytes=0, over=False):
        self.printouts.take(Printed(7, call_id, stream, data, cut_bytes, over))

    def all_of(self, call_id):
        self.printouts.take(PrintedAll(7, call_id))

    def text(self, stream=1):
        return "".join(text for number, text in self.written if number == stream)


def result(call_id, channel=7):
    info = ChannelInfo(number=channel, lease=b"l", lease_seq=1, epoch=1, slot=2, generation=1, node="n1")
    return Deliver(Call(call_id, None, CallSettings()), SimpleNamespace(call_id=call_id), info)


def test_each_line_has_the_prefix_of_its_call():
    shown = Shown()
    shown.take(b"one\ntwo\n")
    shown.take(b"three\n", call_id=2)
    assert shown.text() == "[n1/2 #1] one\n[n1/2 #1] two\n[n1/2 #2] three\n"


def test_a_line_is_shown_when_it_is_whole_or_its_call_is_over():
    shown = Shown()
    shown.take(b"half ")
    assert shown.text() == ""
    shown.take(b"line\nrest")
    assert shown.text() == "[n1/2 #1] half line\n"
    shown.all_of(1)
    assert shown.text() == "[n1/2 #1] half line\n[n1/2 #1] rest\n"


def test_the_rest_of_a_call_does_not_become_the_next_call_s_line():
    shown = Shown()
    shown.take(b"rest")
    shown.take(b"next\n", call_id=2)
    assert shown.text() == "[n1/2 #1] rest\n[n1/2 #2] next\n"


def test_streams_are_kept_apart_and_progress_bars_stay_on_their_line():
    shown = Shown()
    shown.take(b"out")
    shown.take(b"10%\r20%\r", stream=2)
    shown.all_of(1)
    assert shown.text(1) == "[n1/2 #1] out\n"
    assert shown.text(2) == "[n1/2 #1] 10%\r[n1/2 #1] 20%\r"


def test_a_character_that_comes_in_two_parts_is_one_and_what_is_none_is_marked():
    shown = Shown(prefix="")
    euro = "€".encode()
    shown.take(euro[:1])
    shown.take(euro[1:] + b"\n\xff\n")
    assert shown.text() == "€\n\ufffd\n"


def test_a_line_without_end_is_shown_in_parts_and_costs_no_more_than_it_is_long():
    shown = Shown(prefix="> ")
    for _ in range(64):
        shown.take(b"x" * 32768)
    assert shown.text().count("x") >= 64 * 32768 - LINE_BYTES - 32768
    assert all(len(line) <= LINE_BYTES + 32768 + 2 for line in shown.text().splitlines())


def test_what_is_cut_is_said_once_and_counted_at_the_end():
    shown = Shown(prefix="")
    shown.take(b"kept")
    shown.take(b"", cut_bytes=5)
    shown.take(b"", cut_bytes=50)
    shown.take(b"", cut_bytes=500, over=True)
    assert shown.text().splitlines() == [
        "kept",
        "rfaas: output_limit_bytes=100 is reached, what this call prints from here is cut",
        "rfaas: 500 bytes of this call's output were cut",
    ]


def test_a_result_waits_for_the_output_of_its_call():
    printouts, ending = Shown().printouts, result(3)
    printouts.expect(7, 3)
    assert printouts.holds(ending, 10.0)
    assert printouts.release(10.1) == []
    printouts.take(PrintedAll(7, 3))
    assert printouts.release(10.2) == [ending]
    assert not printouts.holds(ending, 10.3)
    assert printouts.due_s() is None


def test_a_result_whose_output_came_first_does_not_wait():
    printouts = Shown().printouts
    printouts.take(PrintedAll(7, 3))
    printouts.expect(7, 3)
    assert not printouts.holds(result(3), 10.0)


def test_a_result_waits_though_a_later_call_has_printed_too():
    printouts, ending = Shown().printouts, result(3)
    printouts.expect(7, 3)
    printouts.expect(7, 5)
    assert printouts.holds(ending, 10.0)
    printouts.take(PrintedAll(7, 3))
    assert printouts.release(10.1) == [ending]


def test_a_result_of_a_call_that_printed_nothing_does_not_wait():
    printouts = Shown().printouts
    printouts.expect(7, 3)
    printouts.take(PrintedAll(7, 2))
    assert not printouts.holds(result(2), 10.0)
    assert not printouts.holds(result(4), 10.0)
    assert not printouts.holds(result(3, channel=8), 10.0)


@pytest.mark.parametrize("how", ["time", "session lost"])
def test_a_result_waits_for_lost_output_no_longer_than_said(how):
    printouts, ending = Shown().printouts, result(3)
    printouts.expect(7, 3)
    assert printouts.holds(ending, 10.0)
    assert printouts.due_s() == 10.0 + WAIT_S
    if how == "session lost":
        printouts.lost()
    assert printouts.release(10.0 if how == "session lost" else 10.0 + WAIT_S) == [ending]
    assert not printouts.holds(ending, 12.0)


def test_output_of_an_unknown_channel_is_passed_over():
    shown = Shown()
    shown.printouts.take(Printed(99, 1, 1, b"who?\n", 0, False))
    assert shown.written == []


def test_text_that_a_stream_can_t_encode_is_shown_escaped(monkeypatch, tmp_path):
    with open(tmp_path / "ascii", "w", encoding="ascii") as file:
        monkeypatch.setattr("sys.stdout", file)
        CallerSink().write(INFO, 1, "€\n")
    assert (tmp_path / "ascii").read_text() == "\\u20ac\n"


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_program_without_a_stream_loses_the_text_and_nothing_else(monkeypatch, tmp_path, stream):
    if stream == "closed":
        stream = open(tmp_path / "closed", "w")  # noqa: SIM115 - closed is the point
        stream.close()
    monkeypatch.setattr("sys.stdout", stream)
    CallerSink().write(INFO, 1, "text\n")


class Raising:
    """A stream of the program's own with a fault."""

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("error", [TypeError("bytes"), RuntimeError("tee"), SystemExit(3), OSError(28, "disk full")])
def test_a_stream_that_raises_is_said_once_and_ends_nothing(monkeypatch, caplog, error):
    sink = CallerSink()
    monkeypatch.setattr("sys.stdout", Raising(error))
    sink.write(INFO, 1, "one\n")
    sink.write(INFO, 1, "two\n")
    assert caplog.text.count(f"sys.stdout raised {type(error).__name__}") == 1


def test_a_binary_stream_and_an_ascii_one_without_a_name_lose_text_at_most(monkeypatch, caplog):
    class Ascii(list):
        def write(self, text):
            self.append(text.encode("ascii"))

    sink, plain = CallerSink(), Ascii()
    monkeypatch.setattr("sys.stdout", io.BytesIO())
    sink.write(INFO, 1, "one\n")
    assert caplog.text.count("sys.stdout raised TypeError") == 1
    monkeypatch.setattr("sys.stdout", plain)
    sink.write(INFO, 1, "€\n")
    assert plain == [b"\\u20ac\n"]


def test_a_log_handler_that_raises_after_a_stream_that_raises_ends_nothing(monkeypatch):
    class Handler(logging.Handler):
        def emit(self, record):
            raise SystemExit(record.getMessage())

    handler = Handler()
    logging.getLogger("rfaas").addHandler(handler)
    try:
        monkeypatch.setattr("sys.stdout", Raising(TypeError("bytes")))
        CallerSink().write(INFO, 1, "one\n")
    finally:
        logging.getLogger("rfaas").removeHandler(handler)


@pytest.mark.parametrize("shown", [RuntimeError("window"), SystemExit(3)])
def test_a_warning_that_can_t_be_shown_is_logged(monkeypatch, caplog, shown):
    def show(*_args, **_kwargs):
        raise shown

    warnings.simplefilter("always")
    monkeypatch.setattr("warnings.showwarning", show)
    event = Differs("n7", (("numpy", "1.0", None),))
    mismatches = Mismatches()
    mismatches.tell(event)
    mismatches.tell(event)
    assert caplog.text.count("numpy") == 1


@pytest.fixture
def pipe():
    """A non-blocking pipe: its read end, and a file that writes to it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(writer, "w", encoding="utf-8") as file:
        yield reader, file
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(reader, 1 << 20):
                pass
    os.close(reader)


def test_what_a_full_pipe_does_not_take_is_counted_and_said(pipe, monkeypatch, caplog):
    reader, file = pipe
    monkeypatch.setattr("sys.stdout", file)
    sink = CallerSink()
    lines = [f"{number:07}é\n" for number in range(40_000)]  # 400 kB, a pipe holds 64 KiB
    for at in range(0, len(lines), 100):
        sink.write(INFO, 1, "".join(lines[at : at + 100]))
    assert caplog.text.count("non-blocking and full") == 1
    kept = b""
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            kept += os.read(reader, 1 << 20)
    sink.write(INFO, 1, "after\n")
    kept += os.read(reader, 1 << 20)
    shown, notice, after = kept.decode().partition("\nrfaas: ")
    rest, _, after = after.partition(" characters that functions printed were dropped: nobody read them\n")
    assert (bool(notice), after) == (True, "after\n")
    before = "".join(lines)
    assert before.startswith(shown)
    assert len(shown) + int(rest) == len(before)


def test_a_slow_reader_of_a_non_blocking_pipe_loses_nothing(pipe, monkeypatch):
    descriptor, file = pipe
    monkeypatch.setattr("sys.stdout", file)
    text = "".join(f"{number:07}\n" for number in range(40_000))
    got = []

    def read():
        n_bytes = 0
        while n_bytes < len(text):
            got.append(os.read(descriptor, 4096))
            n_bytes += len(got[-1])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    sink = CallerSink()
    for at in range(0, len(text), 8000):
        sink.write(INFO, 1, text[at : at + 8000])
    reader.join(30)
    assert b"".join(got).decode() == text


def test_files_are_put_aside_when_they_are_full(tmp_path):
    sink = FileSink(str(tmp_path / "made"), "abc")
    sink.write(INFO, 1, "first\n")
    sink.write(INFO, 2, "error\n")
    sink.write(INFO, 1, "x" * FILE_BYTES)
    sink.write(INFO, 1, "last\n")
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names == ["n1-2-abc.err", "n1-2-abc.out", "n1-2-abc.out.1"]
    assert (tmp_path / "made" / "n1-2-abc.out").read_text() == "last\n"


def test_a_directory_that_can_t_be_made_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    sink = FileSink(str(tmp_path / "file" / "sub"), "abc")
    sink.write(INFO, 1, "one\n")
    sink.write(INFO, 1, "two\n")
    assert caplog.text.count("set output_dir to another directory") == 1
