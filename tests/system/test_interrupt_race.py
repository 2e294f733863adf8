"""Worker and agent meet on one state page: a call is taken back while its worker may be ending it (001 section 5)."""

import os
import random
import select
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from rfaas_executors._process import StatePage

HERE = Path(__file__).parent
CORE = HERE.parent.parent / "executors" / "core"
ROUNDS = 20_000 if os.environ.get("RFAAS_SOAK") else 30
TOLD_S = 10.0


# --- every schedule, of the C source itself ------------------------------------------------------


def explore(tmp_path, source):
    """Run both sides of a page through all schedules: exit status and what the program says."""
    changed = tmp_path / "state_page.c"
    changed.write_text(source)
    program = tmp_path / "schedules"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{CORE}"]
    command = [os.environ.get("CC", "cc"), *flags, f'-DSTATE_PAGE_SOURCE="{changed}"', "-o", program]
    subprocess.run([*command, HERE / "state_page_schedules.c"], check=True, timeout=120)
    result = subprocess.run([program], capture_output=True, text=True, timeout=120)
    return result.returncode, result.stdout


def test_no_schedule_of_worker_and_agent_breaks_a_promise(tmp_path):
    status, said = explore(tmp_path, (CORE / "state_page.c").read_text())
    print(said)
    assert status == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("observe(&slot->done) < call_id", "observe(&slot->done) != call_id", id="done-differs"),
        pytest.param("return observe(&slot->interrupted) != call_id", "return true", id="worker-never-looks"),
        pytest.param("if (observe(&slot->interrupted) != call_id)", "if (true)", id="starts-blindly"),
        pytest.param("    if (call_id < slot->interrupted)\n        return false;\n", "", id="lower-id-hides-higher"),
        pytest.param("store(&slot->started, before);", "(void)before;", id="refused-counts-as-started"),
    ],
)
def test_the_search_finds_what_is_wrong(tmp_path, right, wrong):
    """The first was the code once, and killed workers for calls that were over."""
    source = (CORE / "state_page.c").read_text()
    assert source.count(right) == 1
    status, said = explore(tmp_path, source.replace(right, wrong))
    print(said)
    assert status == 1


# --- two processes, in earnest -------------------------------------------------------------------


@pytest.fixture
def page():
    page = StatePage.create()
    yield page
    page.close()


def run_calls(page, told, wrong):
    """A worker in a process of its own: calls follow each other until one was interrupted; its number is told."""
    call_id = 0
    while True:
        call_id += 1
        may_run = page.start(0, call_id)
        if not may_run or not page.finish(0, call_id):
            os.write(told, struct.pack("<Q", call_id))
            os.read(wrong, 1)
            os._exit(0)


@pytest.mark.timeout(1800 if os.environ.get("RFAAS_SOAK") else 300)
def test_an_interrupt_and_the_end_of_a_call_never_miss_each_other(page):
    """Two processes race: whatever the agent was told, the worker starts no call after one that is to be killed."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    draw, n_running = random.Random(seed), 0
    for _ in range(ROUNDS):
        page.open(0, 1)
        told_read, told = os.pipe()
        hold_read, hold = os.pipe()
        pid = os.fork()
        if pid == 0:
            run_calls(page, told, hold_read)
        while page.read(0)[1] < 50:
            pass
        asked = set()
        while not select.select([told_read], [], [], 0)[0]:
            wanted = page.read(0)[1] + draw.randrange(3)
            asked.add(wanted)
            if page.interrupt(0, wanted):
                n_running += 1
                asked = {wanted}
                break
        if not select.select([told_read], [], [], TOLD_S)[0]:
            state = page.read(0)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail(f"the worker went on after its call was taken back: asked {asked}, page {state}")
        (at,) = struct.unpack("<Q", os.read(told_read, 8))
        assert at in asked  # it went no further, and waits for the kill
        os.write(hold, b"x")
        os.waitpid(pid, 0)
        for descriptor in told_read, told, hold_read, hold:
            os.close(descriptor)
    print(f"{n_running} of {ROUNDS} interrupts met a running call")
