"""What the agent does with prints and with modules that differ: who is told, in which order, and when nobody is."""

import asyncio
import os

import pytest
from unit.executors.agent_model import Shell

from rfaas_executors import agent_events as on
from rfaas_executors._process import StatePage
from rfaas_executors.output import CHUNK_BYTES, WorkerOutput
from rfaas_executors.streams import Streams
from support.waiting import wait_until


@pytest.fixture
def shell():
    shell = Shell()
    shell.up()
    return shell


def test_prints_go_to_the_session_that_listens_with_the_worker_s_name(shell):
    terms = shell.lease()
    [worker] = shell.living
    shell.step(on.Printed(worker, 5, 9, 1, b"text\n"))
    shell.step(on.PrintedAll(worker, 5, 9))
    [said] = shell.words("output")
    assert (said["lease"], said["slot"], said["generation"]) == (terms.lease_id, 0, 1)
    assert (said["channel"], said["call_id"], said["stream"], said["data"]) == (5, 9, 1, b"text\n")
    assert [words["call_id"] for words in shell.words("output-complete")] == [9]


def test_prints_are_kept_for_nobody(shell):
    terms = shell.lease()
    [worker] = shell.living
    shell.step(on.SessionGone(1))
    shell.step(on.Printed(worker, 5, 9, 1, b"text\n"))
    shell.attach(terms)
    assert shell.words("output") == []


def test_prints_of_a_worker_that_is_gone_are_passed_over(shell):
    shell.lease()
    [worker] = shell.living
    shell.die(worker)
    assert shell.step(on.Printed(worker, 5, 9, 1, b"text\n")) == []


# --- the pipes ----------------------------------------------------------------------------------------------------


class Pipes:
    """A WorkerOutput with a worker's ends of its pipes, in a loop of its own."""

    def __init__(self, limit_bytes=100, backlog_bytes=lambda: 0):
        self.loop = asyncio.new_event_loop()
        self.page = StatePage.create()
        self.call = (5, 1)
        self.posted = []
        self.loop.run_until_complete(self._make(limit_bytes, backlog_bytes))
        self.streams = Streams(self.page, self.ends)

    async def _make(self, limit_bytes, backlog_bytes):
        self.output = WorkerOutput(1, limit_bytes, self.page, lambda: self.call, self.posted.append, backlog_bytes)
        self.ends = self.output.open()

    def turn(self):
        self.loop.run_until_complete(asyncio.sleep(0))
        return True

    def close(self):
        self.output.close()
        self.loop.close()
        self.page.close()
        for end in self.ends:
            os.close(end)

    def data(self, stream=1):
        return b"".join(e.data for e in self.posted if isinstance(e, on.Printed) and e.stream == stream)


@pytest.fixture
def pipes():
    made = []

    def make(**options):
        made.append(Pipes(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_both_streams_are_taken_with_the_call_that_runs(pipes):
    here = pipes()
    os.write(here.ends[0], b"out")
    os.write(here.ends[1], b"err")
    wait_until(lambda: here.turn() and len(here.posted) == 2, 5)
    assert {(e.channel, e.call_id, e.stream, e.data) for e in here.posted} == {(5, 1, 1, b"out"), (5, 1, 2, b"err")}


def test_a_call_gets_its_limit_of_both_streams_together_and_the_next_one_anew(pipes):
    here = pipes(limit_bytes=10)
    os.write(here.ends[0], b"123456")
    os.write(here.ends[1], b"abcdefgh")
    here.output.complete(5, 1)
    assert (here.data(1), here.data(2)) == (b"123456", b"abcd")
    cut = [e for e in here.posted if isinstance(e, on.Printed) and e.over]
    assert [(e.stream, e.cut_bytes) for e in cut] == [(2, 4)]
    assert isinstance(here.posted[-1], on.PrintedAll)
    here.call = (5, 2)
    os.write(here.ends[0], b"next")
    here.output.complete(5, 2)
    assert here.data(1) == b"123456next"


def test_what_is_cut_is_told_at_once_and_counted_at_the_end(pipes):
    here = pipes(limit_bytes=10)
    for _ in range(5):
        os.write(here.ends[0], b"x" * 1000)
        here.turn()
        here.turn()
    here.output.complete(5, 1)
    told = [(e.cut_bytes, e.over) for e in here.posted if isinstance(e, on.Printed) and e.cut_bytes]
    assert told[-1] == (4990, True)
    assert len(told) == 2
    assert not told[0][1]


def test_a_message_carries_no_more_than_a_packet(pipes):
    here = pipes(limit_bytes=1 << 20)
    os.write(here.ends[0], b"x" * 65536)
    here.output.complete(5, 1)
    assert max(len(e.data) for e in here.posted if isinstance(e, on.Printed)) <= CHUNK_BYTES
    assert here.data() == b"x" * 65536


def test_pipes_are_left_alone_while_a_session_reads_nothing(pipes):
    backlog = [1 << 30]
    here = pipes(backlog_bytes=lambda: backlog[0])
    os.write(here.ends[0], b"waits")
    for _ in range(20):
        here.turn()
    assert here.posted == []
    backlog[0] = 0
    wait_until(lambda: here.turn() and here.data() == b"waits", 5)


def test_what_a_dead_worker_left_is_told_and_then_that_this_was_all(pipes):
    here = pipes()
    os.write(here.ends[0], b"last words")
    here.output.close()
    assert here.data() == b"last words"
    assert isinstance(here.posted[-1], on.PrintedAll)


def test_a_worker_knows_whether_its_call_printed(pipes):
    here = pipes()
    assert not here.streams.call_printed()
    os.write(here.ends[1], b"x")
    assert here.streams.call_printed()  # it lies in the pipe
    here.output.complete(5, 1)
    assert here.streams.call_printed()  # the agent was late with it: one look too many, and no more
    assert not here.streams.call_printed()
    os.write(here.ends[0], b"y")
    here.output.complete(5, 2)
    assert here.streams.call_printed()  # the pipe is empty, but the agent has taken something
    assert not here.streams.call_printed()


# --- modules ------------------------------------------------------------------------------------------------------

ASKED = [["numpy", "2.0"], ["gone", "1"]]
DIFFER = (("numpy", "2.0", "1.0"), ("gone", "1", None))


def attach(shell, **words):
    terms = shell.propose()
    shell.attach(terms, **words)
    return terms


def test_modules_are_looked_for_before_the_workers_are_made(shell):
    attach(shell, modules=ASKED)
    asked = [e for e in shell.new if isinstance(e, on.CheckModules | on.StartWorker)]
    assert [type(e) for e in asked] == [on.CheckModules, on.StartWorker]
    assert asked[0].modules == (("numpy", "2.0"), ("gone", "1"))


def test_a_difference_is_told_and_the_lease_goes_on(shell):
    terms = attach(shell, modules=ASKED)
    shell.step(on.ModulesDiffer(terms.lease_id, DIFFER))
    [said] = shell.words("differs")
    assert said["modules"] == [["numpy", "2.0", "1.0"], ["gone", "1", None]]
    assert shell.words("refused") == []


def test_a_client_that_wants_the_same_is_refused(shell):
    terms = attach(shell, modules=ASKED, modules_strict=True)
    shell.step(on.ModulesDiffer(terms.lease_id, DIFFER))
    [refused] = shell.words("refused")
    assert refused["code"] == "environment-failed"
    assert "numpy is 2.0 here and 1.0 there; gone 1 is missing there" in refused["hint"]
    assert shell.words("differs") == []


def test_a_difference_of_a_lease_that_has_ended_is_nobody_s(shell):
    assert shell.step(on.ModulesDiffer(b"z" * 16, DIFFER)) == []
