"""Allocator and agents of a state directory as real processes, for tests of personal mode without Slurm."""

import contextlib
import json
import os
import signal
import subprocess
import sys

from rfaas.config import StateDir
from support.leftovers import alive, children
from support.waiting import wait_until


class Personal:
    """Starts daemons on a state directory and ends them all; their logs are beside it.

    Args:
        directory: an empty one of the test.
        ttl_s: of leases.
        start_s: what the allocator may take until it serves.
    """

    def __init__(self, directory, ttl_s=2.0, start_s=20):
        self.state_dir = directory / "state"
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.ttl_s, self.start_s = ttl_s, start_s
        self.python = [sys.executable]  # what daemons are started with
        self.agents = []
        self.allocator = None

    @property
    def choice(self):
        return StateDir(self.state_dir)

    def start_allocator(self, *arguments):
        """Start it, or start it again after a kill, and wait until it serves."""
        self.allocator = self._start(
            "allocator", "rfaas_allocator", "--state-dir", self.state_dir, "--ttl", f"{self.ttl_s}s", *arguments
        )
        about = self.state_dir / "allocator.json"

        def serves():
            assert self.allocator.poll() is None, f"the allocator did not start: {self.log('allocator')}"
            return about.exists() and json.loads(about.read_text())["pid"] == self.allocator.pid

        wait_until(serves, self.start_s, "the allocator")
        return self.allocator

    def start_agent(self, cores=2, grace_s=5.0, *arguments):
        """Start an agent; it registers by itself."""
        n_bytes = 1 << 40
        agent = self._start(
            f"agent-{len(self.agents)}",
            "rfaas_executors",
            *("--state-dir", self.state_dir, "--cores", cores, "--memory-bytes", n_bytes, "--grace-s", grace_s),
            *arguments,
        )
        self.agents.append(agent)
        return agent

    def _start(self, name, module, *arguments):
        with open(self.logs / f"{name}.log", "ab") as log:
            command = [*self.python, "-m", module, *map(str, arguments)]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def session_pids(self):
        """Pids of session processes that serve this state directory."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and alive(entry):
                try:
                    with open(f"/proc/{entry}/cmdline", "rb") as file:
                        words = file.read().split(b"\0")
                except OSError:
                    continue
                if b"rfaas.session" in words and os.fsencode(self.state_dir) in words:
                    found.append(int(entry))
        return found

    def stop(self):
        """End all, sessions last, and see that nothing is left."""
        agents = [agent for agent in self.agents if agent.poll() is None]
        below = [pid for agent in agents for pid in children(agent.pid)]
        for process in [*agents, *([self.allocator] if self.allocator else [])]:
            process.send_signal(signal.SIGTERM)
        for pid in self.session_pids():
            os.kill(pid, signal.SIGTERM)
        for process in [*self.agents, *([self.allocator] if self.allocator else [])]:
            process.wait(20)
        wait_until(lambda: not self.session_pids(), 10, "the end of session processes")
        wait_until(lambda: not any(alive(pid) for pid in below), 5, "the end of workers")

    def log(self, name):
        return (self.logs / f"{name}.log").read_text()


@contextlib.contextmanager
def outliving_tests(directory, **options):
    """A `Personal` for a fixture of more than one test: agents that a test starts may outlive it. Stopped then."""
    from support import nothing_left  # imports pytest, which those who only start daemons need not have

    made = Personal(directory, **options)

    def pids():
        return [agent.pid for agent in made.agents]

    nothing_left.spared.append(pids)
    try:
        yield made
    finally:
        made.stop()
        nothing_left.spared.remove(pids)
