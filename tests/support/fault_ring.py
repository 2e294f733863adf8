"""Allocator, agents and programs of one test as real processes that may be killed, and what they must not leave.

All of them carry the test's event log in their environment (`RFAAS_EVENT_LOG`), which is how they are found again:
other tests and other users may run the same programs on the machine.
"""

import asyncio
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rfaas
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient
from support.deadlines import wait_in_time
from support.invariants import note_kill
from support.leftovers import alive, children, parent
from support.personal import Personal
from support.residue import Residue, command, descriptors
from support.waiting import wait_until

TTL_S = 2.0
CORES = 2  # of each agent
WORKERS = 2 * CORES  # of an executor that has all of a ring

long_ttl = pytest.mark.parametrize("ring", [20.0], indirect=True)
"""Leases that outlive the start of a few processes on a busy machine."""


def seeded(name):
    """A random source for the moments of a test; its seed is printed, and RFAAS_TEST_SEED repeats a run."""
    seed = int(os.environ.get("RFAAS_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"\n{name}: RFAAS_TEST_SEED={seed}")
    return random.Random(seed)


def pause(source, least_s=0.05, most_s=0.5):
    """Let things run for a random time: the moment of the next fault."""
    until_s = time.monotonic() + source.uniform(least_s, most_s)
    wait_until(lambda: time.monotonic() >= until_s, most_s + 1)


class Ring(Personal):
    """An allocator and two agents; the agents of odd number see the allocator as from another host: TLS, and TCP data.

    Args:
        directory: an empty one of the test.
        events: its event log, in the environment.
        ttl_s: of leases.
        cores: of each agent.
    """

    def __init__(self, directory, events, ttl_s=TTL_S, cores=CORES):
        super().__init__(directory, ttl_s)
        self.directory = directory
        self.cores = cores
        self.witness = directory / "witness"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.far_dir = directory / "far"
        self.programs = []
        self._children = []  # of programs, which outlive them
        self._dead_agents = []
        self.residue = Residue(events)

    # --- starting -----------------------------------------------------------------------------------

    def start(self, agents=2):
        """Start the allocator, then the agents, and wait for their cores."""
        self.start_allocator()
        for number in range(agents):
            self.start_slice(number)
        self.wait_registered()

    def start_allocator(self):
        """Start it, or start it again; the far side hears where it is now."""
        allocator = super().start_allocator("--listen", "127.0.0.1")
        self._publish_far()
        return allocator

    def _publish_far(self):
        """A copy of the state directory as another host would see it, on which the unix socket is none of its own."""
        self.far_dir.mkdir(mode=0o700, exist_ok=True)
        for name in ("secret", "tls.key", "tls.crt"):
            if not (self.far_dir / name).exists():
                shutil.copy(self.state_dir / name, self.far_dir / name)
        about = json.loads((self.state_dir / "allocator.json").read_bytes())
        new = self.far_dir / ".allocator.json"
        new.touch(mode=0o600)
        new.write_text(json.dumps({**about, "host": f"not-{socket.gethostname()}"}))
        new.rename(self.far_dir / "allocator.json")

    def start_slice(self, number):
        """Start the agent of slice `number`, or its successor after a kill."""
        far = number % 2 == 1
        arguments = ("--slice-key", f"{self.state_dir}:{number}", *(("--listen", "127.0.0.1") if far else ()))
        state_dir = self.far_dir if far else self.state_dir
        command = ("rfaas_executors", "--state-dir", state_dir, "--cores", self.cores)
        agent = self._start(f"agent-{number}", *command, "--memory-bytes", 1 << 40, "--grace-s", 2, *arguments)
        if number < len(self.agents):
            self._dead_agents.append(self.agents[number])
            self.agents[number] = agent
        else:
            self.agents.append(agent)
        return agent

    def start_client(self, witness, workers, child, allocator=None, executors=1):
        """Start `support.victim` and wait until its calls are answered; returns it and its child's pid or 0."""
        arguments = [allocator or self.state_dir, witness, workers, child, executors]
        program = subprocess.Popen(
            [sys.executable, "-m", "support.victim", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        self.programs.append(program)
        assert select.select([program.stdout], [], [], 30)[0], "the program gets no answers"
        child_pid = int(program.stdout.readline())
        self._children += [child_pid] if child_pid else []
        return program, child_pid

    def executor(self, max_workers, allocator=None, **settings):
        """An executor of this process, with workers of this ring."""
        return rfaas.Executor(max_workers, memory="256MiB", allocator=allocator or self.state_dir, **settings)

    # --- looking ------------------------------------------------------------------------------------

    def snapshot(self):
        """The allocator's view."""

        async def ask():
            async with AdminClient(AllocatorAddress.load(self.state_dir)) as admin:
                return await admin.snapshot()

        return asyncio.run(ask())

    def leases(self, *states):
        """By lease id: slice and cores of the leases that the allocator knows, of these states or of all."""
        return {
            lease.terms.lease_id: (lease.terms.slice_id, lease.core_ids)
            for view in self.snapshot().slices
            for lease in view.leases
            if not states or lease.state in states
        }

    def wait_registered(self):
        """Wait until every agent that lives is known to the allocator."""
        n_agents = len(self.agents)
        wait_until(lambda: sum(s.state == "up" for s in self.snapshot().slices) == n_agents, 20, "registered agents")

    def wait_workers(self, executor, count, timeout_s=20.0):
        """Wait until an executor has so many workers."""
        wait_until(lambda: executor.statistics()["workers"] == count, timeout_s, f"{count} workers")

    def workers_of(self, agent):
        """Pids of the workers of an agent's process: the children of its templates."""
        return [pid for template in children(agent, depth=1) for pid in children(template, depth=1)]

    def session_daemons(self):
        """Pids of session processes that have left their starter, whether they serve yet or not."""
        pids = self.session_pids()
        return [pid for pid in pids if parent(pid) not in (*pids, os.getpid(), None)]

    def wait_session_daemon(self, other_than):
        """Wait for a session process that is another one; returns its pid."""
        return wait_until(lambda: set(self.session_daemons()) - {other_than}, 20, "a session process").pop()

    def joined(self):
        """How often a client has joined a session process, over all session processes."""
        path = self.state_dir / "log" / "session.log"
        return path.read_text().count("client joined") if path.exists() else 0

    def wait_joined(self, count):
        """Wait until a client has joined so often; says what session processes logged if none does."""
        try:
            wait_until(lambda: self.joined() >= count, 20, f"join {count}")
        except AssertionError as error:
            log = (self.state_dir / "log" / "session.log").read_text()[-4000:]
            alive = {pid: command(pid) for pid in self.session_pids()}
            raise AssertionError(f"{error}; processes {alive}; log:\n{log}") from None

    def embedded_pids(self):
        """Pids of the session processes of this very process."""
        found = [pid for pid in self.residue.processes() if f"--client-pid {os.getpid()} " in command(pid)]
        return [pid for pid in found if parent(pid) not in (*found, os.getpid(), None)]

    def descriptors(self):
        """By pid of every daemon and template that lives, how many descriptors it has open."""
        found = [pid for pid in self.residue.processes() if pid not in (program.pid for program in self.programs)]
        return {pid: len(descriptors(pid)) for pid in found}

    def assert_no_more_descriptors(self, before):
        """No process that lived through it all has more descriptors open than `before`, of `descriptors()`."""

        def more():
            now = self.descriptors()
            return {pid: (count, now[pid]) for pid, count in before.items() if now.get(pid, 0) > count}

        try:
            wait_until(lambda: not more(), 15.0, "descriptors to be closed")
        except AssertionError as error:
            held = {command(pid): sorted(descriptors(pid).values()) for pid in more()}
            raise AssertionError(f"{error}; {more()} {held}") from None

    # --- breaking -----------------------------------------------------------------------------------

    def kill(self, pid, number=signal.SIGKILL):
        """Send a signal at once, noted in the event log; returns the moment on CLOCK_MONOTONIC."""
        note_kill(pid, "kill" if number == signal.SIGKILL else signal.Signals(number).name)
        at_s = time.monotonic()
        os.kill(pid, number)
        return at_s

    # --- the end ------------------------------------------------------------------------------------

    def stop(self):
        """End everything in order and see that nothing is left."""
        self.residue.look()
        for program in self.programs:
            if program.poll() is None:
                program.kill()
            program.wait(10)
            program.stdout.close()
        for child in self._children:
            if child in self.residue.processes():
                os.kill(child, signal.SIGKILL)
        super().stop()
        for agent in self._dead_agents:
            agent.wait(10)
        self.residue.assert_nothing_left(self.temporary)
        left = {path.name for path in self.state_dir.iterdir()} if self.state_dir.exists() else set()
        kept = {"secret", "tls.key", "tls.crt", "journal.sqlite", "journal.reserve", "log"}
        assert left <= kept, f"left in the state directory: {left - kept}"


def wait_dead(pids, timeout_s, what):
    """Wait until none of these processes runs."""
    wait_in_time(lambda: not [pid for pid in pids if alive(pid)], timeout_s, f"the end of {what}")


@pytest.fixture
def ring(request, tmp_path, event_log, monkeypatch):
    ring = Ring(tmp_path, event_log, getattr(request, "param", TTL_S))
    monkeypatch.setenv("TMPDIR", str(ring.temporary))
    ring.start()
    yield ring
    ring.stop()


@pytest.fixture
def alone(tmp_path, event_log, monkeypatch):
    """A ring without daemons: the embedded mode."""
    ring = Ring(tmp_path, event_log)
    monkeypatch.setenv("TMPDIR", str(ring.temporary))
    yield ring
    ring.stop()
