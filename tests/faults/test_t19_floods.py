"""T19: a function that prints a gibibyte, or fills the disk it may write to: its own affair, and no other's.

Scaled: 128 MiB in `make test`, a gibibyte in a soak (RFAAS_SOAK). Where prints go is the executor's business: to this
program's own output, to a file, or nowhere; what is asserted is that nobody's memory or disk fills and nobody waits.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rfaas
from support import hostile
from support.deadlines import SLACK, assert_in_time
from support.leftovers import children
from support.namespace import SmallDisk
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures]

FLOOD = (1 << 30) if os.environ.get("RFAAS_SOAK") else (128 << 20)
MAY_KEEP = 64 << 20  # of a flood, by everybody together
TIMEOUT_S = 120
ANSWER_GOAL_S = 1.0

PROGRAM = """
import json, sys, time
sys.path.insert(0, {tests!r})
import rfaas
from support import hostile
from support.leftovers import children

def resident(pid):
    try:
        return int(open(f"/proc/{{pid}}/statm").read().split()[1]) * 4096
    except OSError:
        return 0

with rfaas.Executor(2, allocator="embedded") as ex:
    [future.result(60) for future in [ex.submit(hostile.rest, 0.2) for _ in range(2)]]
    family = lambda: ["self", ex._engine.session_pid, *children(ex._engine.session_pid)]
    before = sum(map(resident, family()))
    flood = ex.submit(hostile.flood, {size})
    slowest_s, most, answered = 0.0, before, 0
    while not flood.done():
        began_s = time.monotonic()
        assert ex.submit(hostile.size_of, b"abc").result(60) == 3
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        most = max(most, sum(map(resident, family())))
        answered += 1
    words = {{"result": flood.result(), "slowest_s": slowest_s, "grown": most - before, "answered": answered}}
with open({answer!r}, "w") as file:
    json.dump(words, file)
"""


def test_a_flood_of_prints_fills_nobody_s_memory_and_delays_no_other_call(tmp_path):
    import json

    answer, program = tmp_path / "answer.json", tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parents[1]), size=FLOOD, answer=str(answer)))
    began_s = time.monotonic()
    with subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path
    ) as run:
        seen = 0
        while chunk := run.stdout.read1(1 << 20):  # as a terminal would
            seen += len(chunk)
        assert run.wait(TIMEOUT_S) == 0
    took_s = time.monotonic() - began_s
    said = json.loads(answer.read_text())
    on_disk = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    print(f"\n{FLOOD >> 20} MiB printed in {took_s:.1f} s: {seen >> 20} MiB seen here, {on_disk >> 20} MiB on disk, "
          f"all processes together grew by {said['grown'] >> 20} MiB; {said['answered']} calls beside, the slowest "
          f"took {said['slowest_s'] * 1000:.0f} ms (goal {ANSWER_GOAL_S:g} s)")  # fmt: skip
    assert said["result"] == FLOOD
    assert said["grown"] <= MAY_KEEP
    assert on_disk <= MAY_KEEP
    assert_in_time(said["slowest_s"], SLACK * ANSWER_GOAL_S)
    assert said["answered"] >= 1  # the flood may be over within a second


def test_a_full_scratch_directory_is_the_function_s_own_oserror(tmp_path):
    """The program runs beside a disk of 4 MiB; only the call that fills it hears of it."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    disk = SmallDisk(directory, 4096)
    try:
        program = tmp_path / "program.py"
        program.write_text(
            f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
            "import rfaas\nfrom support import hostile\n"
            "with rfaas.Executor(2, allocator='embedded') as ex:\n"
            "    beside = ex.submit(hostile.rest, 0.5)\n"
            f"    error = ex.submit(hostile.fill, {str(directory)!r}).exception(60)\n"
            "    print(type(error).__name__, error.errno, beside.result(60) > 0, ex.submit(hostile.ok).result(60)[0])\n"
        )
        command = disk.python(program)
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.stdout == "OSError 28 True 0\n", done.stderr
    finally:
        disk.close()


def test_a_function_that_prints_after_nobody_reads_any_more_does_not_hang_its_pool(tmp_path):
    """The reader of this program's output leaves; calls go on, or fail with their own error, and the pool ends."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "import rfaas\nfrom support import hostile\n"
        "with rfaas.Executor(1, allocator='embedded') as ex:\n"
        "    error = ex.submit(hostile.flood, 1 << 22).exception(60)\n"
        "    ended = type(error).__name__, ex.submit(hostile.size_of, b'abc').result(60)\n"
        f"open({str(tmp_path / 'answer')!r}, 'w').write(repr(ended))\n"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run([sys.executable, program], stdout=write_end, timeout=TIMEOUT_S, check=False)
    finally:
        os.close(write_end)
    assert done.returncode in (0, 120)  # 120: Python's own, for output that nobody takes
    assert (tmp_path / "answer").read_text() in ("('BrokenPipeError', 3)", "('NoneType', 3)")


def test_nothing_of_a_flood_lives_on():
    with rfaas.Executor(1, allocator="embedded") as ex:
        ex.submit(hostile.ok).result(TIMEOUT_S)
        family = [ex._engine.session_pid, *children(ex._engine.session_pid)]
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family), 5, "the end of all")
