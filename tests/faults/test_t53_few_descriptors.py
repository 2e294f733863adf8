"""T53: `ulimit -n 64`. Errors are typed, accept loops live on, and nobody burns a CPU over it."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest

from rfaas.control.address import AllocatorAddress
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(150), pytest.mark.figures]

LIMIT = 64
CPU_GOAL = 0.20  # of one CPU, while more dial than there are descriptors
WATCHED_S = 2.0

CALLS = """
import collections, rfaas, time
ex = rfaas.Executor(max_workers=80, memory="1MiB", acquire_timeout_s=30)
calls = [ex.submit(pow, 2, n) for n in range(200)]
ends = collections.Counter()
for n, call in enumerate(calls):
    try:
        ends["right" if call.result(60) == 2**n else "wrong"] += 1
    except rfaas.RfaasError as error:
        ends[error.code] += 1
ex.shutdown()
print(dict(ends))
"""


def limited():
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


def cpu_s(pid):
    """Processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_share(pid):
    """Of one CPU, over some seconds in which it is left alone; and the most descriptors that it had meanwhile."""
    before_s, begun_s, most = cpu_s(pid), time.monotonic(), 0

    def is_over():
        nonlocal most
        most = max(most, len(os.listdir(f"/proc/{pid}/fd")))
        return time.monotonic() - begun_s >= WATCHED_S

    wait_until(is_over, 2 * WATCHED_S + 5)
    return (cpu_s(pid) - before_s) / (time.monotonic() - begun_s), most


@contextlib.contextmanager
def too_many(family, address, kind=socket.SOCK_STREAM):
    """More connections than the other side has descriptors; those that are not taken wait in its backlog."""
    with contextlib.ExitStack() as stack:
        for _ in range(2 * LIMIT):
            sock = stack.enter_context(socket.socket(family, kind))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # the backlog is full: as good
                sock.connect(address)
        yield


@pytest.fixture
def daemons(tmp_path):
    """Starts programs that may have so few descriptors only; ends them."""
    running = []
    environ = {**os.environ, "RFAAS_STATE_DIR": str(tmp_path / "state"), "RFAAS_LOG": "warning"}

    def start(name, *words):
        with open(tmp_path / f"{name}.log", "w") as log:
            command = [sys.executable, *map(str, words)]
            running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environ, preexec_fn=limited))
        return running[-1]

    yield start
    for process in reversed(running):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def status(state_dir):
    command = [sys.executable, "-m", "rfaas", "status", "--json", "--state-dir", str(state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return json.loads(done.stdout)


def slice_up(state_dir):
    return [view for view in status(state_dir).get("slices", ()) if view["state"] == "up"]


def test_t53_an_allocator_and_an_agent_with_few_descriptors_outlive_too_many_dials(daemons, tmp_path):
    state_dir = tmp_path / "state"
    allocator = daemons("allocator", "-m", "rfaas_allocator", "--state-dir", state_dir)
    wait_until((state_dir / "allocator.json").exists, 30, "the allocator")
    agent = daemons(
        *("agent", "-m", "rfaas_executors", "--state-dir", state_dir),
        *("--cores", "2", "--memory-bytes", str(1 << 30)),
    )
    wait_until(lambda: slice_up(state_dir), 30, "a slice")
    with open("/proc/net/unix") as file:
        names = [line.split()[-1] for line in file if "@rfaas" in line]
    with too_many(socket.AF_UNIX, AllocatorAddress.load(state_dir).unix):
        share, most = cpu_share(allocator.pid)
    goal = f"goal {CPU_GOAL:.0%}"
    print(f"T53: allocator, {most} of {LIMIT} descriptors in use, {2 * LIMIT} dials: {share:.0%} of a CPU ({goal})")
    assert most >= LIMIT - 2, "it was not short of descriptors"
    assert share <= 3 * CPU_GOAL
    agents = [name for name in names if owns(agent.pid, name)]
    assert agents, names
    with too_many(socket.AF_UNIX, "\0" + agents[0][1:]):
        share, most = cpu_share(agent.pid)
    print(f"T53: agent, {most} of {LIMIT} descriptors in use: {share:.0%}")
    assert most >= LIMIT - 2, "it was not short of descriptors"
    assert share <= 3 * CPU_GOAL
    # Both are there as before.
    wait_until(lambda: slice_up(state_dir), 30, "the slice")
    program = "import rfaas; ex = rfaas.Executor(max_workers=2, memory='1MiB'); print(ex.submit(pow, 2, 10).result(60))"
    environ = {**os.environ, "RFAAS_ALLOCATOR": str(state_dir)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, env=environ)
    assert done.stdout == "1024\n", done.stderr
    assert (allocator.poll(), agent.poll()) == (None, None)


def owns(pid, name):
    """True if a process has the unix socket of this name."""
    with open("/proc/net/unix") as file:
        inodes = {line.split()[6] for line in file if line.split()[-1] == name}
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{entry}")
                if link.removeprefix("socket:[").rstrip("]") in inodes:
                    return True
    return False


def test_t53_a_program_with_few_descriptors_gets_its_results(tmp_path):
    environ = {**os.environ, "RFAAS_ALLOCATOR": "embedded"}
    command = [sys.executable, "-c", CALLS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environ, preexec_fn=limited, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'right': 200}\n", done.stderr
    assert "Traceback" not in done.stderr
