"""Output at its caller: whole lines with a prefix, and no result before what its call printed."""

from types import SimpleNamespace

import pytest

from rfaas.client.events import Call, ChannelInfo, Deliver
from rfaas.client.output_sinks import FILE_BYTES, FileSink, to_caller
from rfaas.client.printouts import LINE_BYTES, WAIT_S, Printed, PrintedAll, Printouts
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
        to_caller(INFO, 1, "€\n")
    assert (tmp_path / "ascii").read_text() == "\\u20ac\n"


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_program_without_a_stream_loses_the_text_and_nothing_else(monkeypatch, tmp_path, stream):
    if stream == "closed":
        stream = open(tmp_path / "closed", "w")  # noqa: SIM115 - closed is the point
        stream.close()
    monkeypatch.setattr("sys.stdout", stream)
    to_caller(INFO, 1, "text\n")


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
