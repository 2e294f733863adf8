"""Who goes beyond memory or tasks, seen in real processes; and the watch over all of them in a loop."""

import asyncio
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfaas_executors import agent_events as on
from rfaas_executors import proc_usage, watch
from rfaas_executors.limits import LEAST_BYTES, SPARSE_BYTES, Beyond, WorkerLimits, data_allowance_bytes
from rfaas_transport.errors import ReasonCode
from support.waiting import wait_until

MIB = 1 << 20

HOLD = """
import os, sys, time
size, children, threads = map(int, sys.argv[1:])
for _ in range(children):
    if os.fork() == 0:
        break
import threading
for _ in range(threads):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
held = b"\\1" * size
os.write(1, b"ready\\n")
time.sleep(60)
"""


@pytest.fixture
def hold():
    """Starts a process of one's own group that holds so much, with children that hold as much each."""
    started = []

    def start(size_bytes, children=0, threads=0):
        command = [sys.executable, "-c", HOLD, str(size_bytes), str(children), str(threads)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        for _ in range(children + 1):
            assert process.stdout.readline() == "ready\n"
        return process.pid

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_family_is_a_process_with_all_below_it(hold):
    pid = hold(0, children=3, threads=2)
    family = wait_until(lambda: (f := proc_usage.family(pid, 1000)).n_tasks >= 12 and f, 5, "all threads")
    living = [one for one, resident in family.resident.items() if resident]
    assert pid in living
    assert len(living) == 4
    assert proc_usage.family(pid, 2).n_tasks > 2
    assert proc_usage.family(2**22 + 1, 10) == proc_usage.Family({}, 0)


def test_what_counts_is_one_s_own_memory_and_not_pages_of_files(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(64 * MIB))
    before = proc_usage.own_bytes(os.getpid())
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[offset] for offset in range(0, len(mapped), 4096)) == 0
        assert proc_usage.own_bytes(os.getpid()) - before < 16 * MIB
    held = b"\1" * (64 * MIB)
    assert proc_usage.own_bytes(os.getpid()) - before > 48 * MIB
    del held


def close_look(limits, now_s):
    found = limits.look(now_s)
    return limits.look_closely(found, now_s) if isinstance(found, proc_usage.Family) else found


def test_a_worker_beyond_its_memory_is_told_with_figures(hold):
    pid = hold(100 * MIB)
    beyond = close_look(WorkerLimits(pid, 64 * MIB, 100), 0.0)
    assert beyond.reason_code is ReasonCode.MEMORY_LIMIT
    assert "its limit was 64.0 MiB" in beyond.hint
    assert close_look(WorkerLimits(pid, 200 * MIB, 100), 0.0) is None


def test_memory_below_it_counts_too(hold):
    beyond = close_look(WorkerLimits(hold(40 * MIB, children=2), 100 * MIB, 100), 0.0)
    assert beyond.reason_code is ReasonCode.MEMORY_LIMIT
    assert "processes below it" in beyond.hint


def test_exact_figures_are_read_no_more_often_than_needed(hold):
    """The resident sets are beyond the limit, since they count shared pages; what is the worker's own is not."""
    limits = WorkerLimits(hold(30 * MIB, children=1), 64 * MIB, 100)
    limits.limit_bytes = sum(map(proc_usage.own_bytes, proc_usage.family(limits.pid, 100).resident)) + MIB
    assert limits.look(10.0) is not None
    assert close_look(limits, 10.0) is None
    assert limits.look(10.1) is None, "nothing has grown, and it was read a moment ago"
    assert isinstance(limits.look(11.5), proc_usage.Family), "what was shared may have become its own"


def test_a_worker_with_too_many_tasks_is_stopped_and_told(hold):
    pid = hold(0, children=4, threads=4)
    beyond = wait_until(lambda: WorkerLimits(pid, 1 << 40, 12).look(0.0), 5, "all threads")
    assert beyond == Beyond(
        ReasonCode.PROCESS_LIMIT, "it had more than 12 processes and threads, the limit of a worker"
    )
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 5, "the stop")


def test_address_space_allows_twice_the_limit_and_what_is_hardly_touched():
    assert data_allowance_bytes(1) == 2 * LEAST_BYTES + SPARSE_BYTES
    assert data_allowance_bytes(1 << 40) == (2 << 40) + SPARSE_BYTES


# --- the watch over all -------------------------------------------------------------------------------------


def watched(hold, seconds, busy=True, limit_bytes=1 << 40, **options):
    """What is posted of one worker that holds 100 MiB, and of another that holds nothing."""
    posted = []

    async def run():
        look = watch.Watch(posted.append, set(), **options)
        look.add(1, hold(0), limit_bytes, lambda: busy)
        look.add(2, hold(100 * MIB), limit_bytes, lambda: busy)
        until_s = time.monotonic() + seconds
        while not posted and time.monotonic() < until_s:
            await asyncio.sleep(0.01)
        look.close()

    asyncio.run(run())
    return posted


@pytest.mark.parametrize("busy", [True, False])
def test_who_is_beyond_is_posted_whether_it_runs_a_call_or_not(hold, busy):
    event = watched(hold, 5.0, busy, 64 * MIB)[0]
    assert (type(event), event.worker, event.reason_code) == (on.LimitExceeded, 2, ReasonCode.MEMORY_LIMIT)


def test_nobody_within_limits_is_posted(hold):
    assert watched(hold, 0.3, True, 1 << 40, available_part=lambda: 0.5) == []


def test_the_largest_goes_when_the_machine_has_no_memory_left(hold):
    event = watched(hold, 5.0, available_part=lambda: 0.011)[0]
    assert (event.worker, event.reason_code) == (2, ReasonCode.MEMORY_EXHAUSTED)
    assert "1.1% of its memory left" in event.hint


def test_idle_workers_are_none_of_the_machine_s_victims(hold):
    assert watched(hold, 0.3, busy=False, available_part=lambda: 0.011) == []


def test_the_machine_s_own_figures_can_be_read():
    assert 0.0 < proc_usage.available_part() <= 1.0
    assert proc_usage.oom_kills() >= 0


def test_a_template_that_was_stopped_goes_on():
    with subprocess.Popen(["sleep", "60"]) as process:
        process.send_signal(signal.SIGSTOP)

        def state():
            with open(f"/proc/{process.pid}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0]

        wait_until(lambda: state() == "T", 5)
        watch.wake_if_stopped(process.pid)
        wait_until(lambda: state() == "S", 5)
        process.kill()
    watch.wake_if_stopped(process.pid)


def test_a_busy_worker_is_looked_at_within_a_second_however_dear_the_last_look_was(hold, monkeypatch):
    """A fork bomb makes each look wait for the kernel's lock of the process table."""
    looks_s = []

    def dear_look(limits, now_s):
        looks_s.append(now_s)
        return None

    clock_s = iter(range(1 << 30))  # each reading one second of CPU later than the last
    monkeypatch.setattr(watch.WorkerLimits, "look", dear_look)
    monkeypatch.setattr(watch.time, "thread_time", lambda: next(clock_s))
    assert watched(hold, 1.8) == []
    assert len(looks_s) >= 4, "two workers, twice each"
