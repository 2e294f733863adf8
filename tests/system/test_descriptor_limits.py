"""Daemons take all descriptors that they may have; functions get the limit that the user's programs have."""

import os
import resource
import subprocess
import sys

import pytest

from support.personal import Personal

SOFT, HARD = 250, 1500
PROGRAM = """
import resource, sys, rfaas
ex = rfaas.Executor(2, allocator=sys.argv[1], memory="1MiB")
seen = [*ex.invoke(resource.getrlimit, resource.RLIMIT_NOFILE), *ex.invoke(child_limit)]
print(*seen, ex._engine.session_pid, flush=True)
input()
"""
CHILD = """
def child_limit():
    import subprocess
    return subprocess.run(["sh", "-c", "ulimit -Sn; ulimit -Hn"], capture_output=True, text=True).stdout.split()
"""


def limits(pid):
    """Soft and hard limit of a process on open descriptors."""
    with open(f"/proc/{pid}/limits") as file:
        (line,) = [line for line in file if line.startswith("Max open files")]
    return tuple(int(word) for word in line.split()[3:5])


@pytest.fixture
def limited():
    """What this test starts may have so many descriptors, and uses so few by itself."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = ["prlimit", f"--nofile={SOFT}:{HARD}", "--"]
    assert before[1] == resource.RLIM_INFINITY or before[1] >= HARD
    return command


def program(command, allocator):
    words = [*command, sys.executable, "-c", CHILD + PROGRAM, str(allocator)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def asked(command, allocator, look):
    """What functions see, after `look(session process)`."""
    with program(command, allocator) as running:
        *seen, session = [int(word) for word in running.stdout.readline().split()]
        look(session)
        running.communicate("\n", timeout=20)
    return seen


def test_daemons_of_a_state_directory_raise_theirs_and_workers_keep_the_agents(tmp_path, limited, monkeypatch):
    personal = Personal(tmp_path)
    monkeypatch.setattr(personal, "python", [*limited, sys.executable])
    try:
        allocator = personal.start_allocator()
        agent = personal.start_agent(cores=2)
        seen = asked(limited, personal.state_dir, lambda session: check(allocator.pid, agent.pid, session))
    finally:
        personal.stop()
    assert seen == [SOFT, HARD] * 2


def check(*pids):
    for pid in pids:
        assert limits(pid) == (HARD, HARD), pid
    assert limits(os.getpid()) == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_an_embedded_session_process_does_so_too(limited):
    assert asked(limited, "embedded", check) == [SOFT, HARD] * 2


@pytest.mark.parametrize("limit", [12, 16, 20, 23])
def test_too_few_for_any_daemon_are_said_at_once_with_the_remedy(limit):
    """At twelve the session process could not take the connection of its own agent, and nobody said so."""
    program = "import rfaas\nwith rfaas.Executor(1, acquire_timeout_s=60) as ex: ex.submit(pow, 2, 10).result(60)"
    command = ["prlimit", f"--nofile={limit}:{limit}", "--", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert f"may open {limit} descriptors" in done.stderr
    assert "ulimit -Hn" in done.stderr
