"""T60: a side of the shared-memory medium is killed at any step, sleeps at any step, writes garbage, or lies.

Scaled: 400 kills in `make test`, 10,000 in a soak (RFAAS_SOAK). Each step of a ring is passed 100 times at least.
That each check matters is test_t60_mutants.py's.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from support import soak
from support.c_build import ASAN, CORE, CBuild, core_sources

HERE = Path(__file__).parent
SYSTEM = HERE.parent / "system"
PROGRAM = [HERE / "shared_memory.c", HERE / "lies.c", SYSTEM / "core_arrays_test.c", SYSTEM / "core_loan_test.c"]
KILLS = soak.scaled(400, 10_000)
ORDERS = soak.scaled(400, 10_000)
SEED = int(os.environ.get("RFAAS_SEED", "20261126"))
STEPS = {
    "before-sequence",
    "after-sequence",
    "after-waking",
    "before-waiting",
    "after-waiting",
    "before-falling-asleep",
    "after-falling-asleep",
    "after-consumed",
    "after-consumed-bytes",
    "after-taking-wish",
    "after-staying-awake",
    "after-releasing",
    "after-header",
    "after-block-bytes",
    "after-touching",
    "after-arena-ready",
    "after-arena-wanted",
    "after-pool-mapped",
    "after-gone",
}
"""One for each store that the other side sees; stores of the same entry before its number count as one."""
STORE = re.compile(r"atomic_(store|exchange|compare_exchange_strong)(_explicit)?\(")
NO_STEPS = {
    "atomic_store(&rfaas_shm_tx(segment)->lines.arena_ready_bytes, segment->arena_bytes);": "before there is a peer",
    "atomic_store(&segment->retired, true);": "this process's own",
}

pytestmark = pytest.mark.timeout(soak.timeout_s())


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    sources = [*PROGRAM, *core_sources()]
    return CBuild(tmp_path_factory.mktemp("shm"), sources, ["-DRFAAS_FAILPOINTS"]).link("shared_memory")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    sources = [*PROGRAM, *core_sources()]
    return CBuild(tmp_path_factory.mktemp("shm"), sources, ["-DRFAAS_FAILPOINTS", *ASAN]).link("shared_memory")


def run(program, mode, rounds):
    return subprocess.run(
        [program, mode, str(rounds), str(SEED)], capture_output=True, text=True, timeout=soak.timeout_s()
    )


def hits(result):
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return {name: int(count) for name, count in (line.split() for line in result.stdout.splitlines())}


def test_a_step_follows_each_store_that_the_other_side_sees():
    missing = []
    for path in sorted((CORE / "shm").glob("shm*.c")):
        lines = [line.strip() for line in path.read_text().splitlines()]
        for number, line in enumerate(lines):
            if STORE.search(line) and line not in NO_STEPS and not lines[number + 1].startswith("FAILPOINT("):
                missing.append(f"{path.name}:{number + 1}: {line}")
    assert missing == []


def test_what_a_killed_side_had_sent_arrives_whole_and_then_the_end(program):
    passed = hits(run(program, "kill", KILLS))
    print(f"\n{KILLS} kills at random steps, seed {SEED}: 0 frames torn, lost or out of order; steps passed: {passed}")
    assert set(passed) == STEPS
    assert min(passed.values()) >= 100


def test_no_order_of_steps_loses_a_frame_or_a_bell(program):
    passed = hits(run(program, "schedules", ORDERS))
    assert set(passed) == STEPS
    assert min(passed.values()) >= 100


def test_garbage_in_shared_memory_ends_the_channel_at_worst(sanitized):
    hits(run(sanitized, "scribble", soak.scaled(1000, 100_000)))


def test_no_lie_about_the_shared_memory_is_believed(sanitized):
    hits(run(sanitized, "lies", 1))
