"""The allocator that nobody started leaves by itself, and programs come at that very moment (010 section 8)."""

import os
import signal
import threading

import pytest

import rfaas
from rfaas.control.address import AllocatorAddress
from rfaas.site import ground
from rfaas.site.borrower import SiteSettings
from rfaas_transport.errors import AllocatorUnavailable
from support import functions as f
from support.leftovers import alive
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60
SITE = SiteSettings("127.0.0.1:1", keep_s=600.0)


@pytest.fixture
def state_dir(tmp_path):
    """Of an allocator that was started as a session process does; ended in the end."""
    path = tmp_path / "state"
    ground.ensure_allocator(path, SITE)
    yield path
    pid = serving(path)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid), TIMEOUT_S, "the allocator's end")


def gone(pid):
    """Whether our child has ended."""
    return not alive(pid) and os.waitpid(pid, os.WNOHANG)[0] == pid


def serving(state_dir):
    return AllocatorAddress.load(state_dir).pid


def ensured(state_dir):
    """Ask for an allocator in a thread; it is joined for what came of it."""
    came = []

    def ask():
        try:
            ground.ensure_allocator(state_dir, SITE)
        except AllocatorUnavailable as error:
            came.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, came


def test_who_comes_while_it_goes_waits_for_its_end_and_has_one_of_its_own(state_dir):
    first = serving(state_dir)
    (state_dir / "allocator.json").unlink()  # the first thing that an allocator takes back
    thread, came = ensured(state_dir)
    thread.join(0.5)
    assert thread.is_alive()
    os.kill(first, signal.SIGTERM)
    thread.join(TIMEOUT_S)
    assert not came
    assert serving(state_dir) != first


def test_who_comes_while_it_begins_has_that_one(state_dir):
    first = serving(state_dir)
    (state_dir / "allocator.json").rename(state_dir / "later")
    thread, came = ensured(state_dir)
    thread.join(0.5)
    assert thread.is_alive()
    (state_dir / "later").rename(state_dir / "allocator.json")
    thread.join(TIMEOUT_S)
    assert not came
    assert serving(state_dir) == first


def test_one_that_neither_serves_nor_ends_is_told(state_dir, monkeypatch):
    monkeypatch.setattr(ground, "LAST_LEAVES_S", 0.2)
    pid = serving(state_dir)
    (state_dir / "allocator.json").rename(state_dir / "later")
    with pytest.raises(AllocatorUnavailable, match=f"process {pid}, neither serves nor ends") as caught:
        ground.ensure_allocator(state_dir, SITE)
    assert "end it with SIGTERM" in str(caught.value)
    (state_dir / "later").rename(state_dir / "allocator.json")


def test_it_stays_for_a_program_that_comes_while_its_agents_go(tmp_path):
    personal = Personal(tmp_path, ttl_s=60.0)
    try:
        personal.start_allocator("--leave-after-s", "2")
        agent = personal.start_agent(1)
        with rfaas.Executor(1, allocator=personal.state_dir) as ex:
            assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        os.kill(agent.pid, signal.SIGSTOP)  # it can't go yet
        try:
            wait_until(lambda: "leaving: no session process" in personal.log("allocator"), TIMEOUT_S)
            with rfaas.Executor(1, allocator=personal.state_dir) as ex:
                called = ex.submit(f.add, 2)
                wait_until(lambda: "not leaving: a session process came" in personal.log("allocator"), TIMEOUT_S)
                os.kill(agent.pid, signal.SIGCONT)
                assert agent.wait(TIMEOUT_S) == 0
                personal.start_agent(1)
                assert called.result(TIMEOUT_S) == 2
        finally:
            agent.send_signal(signal.SIGCONT)
        assert personal.allocator.wait(TIMEOUT_S) == 0
    finally:
        personal.stop()
