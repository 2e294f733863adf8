"""T60: a side of the shared-memory medium is killed at any step, sleeps at any step, or writes garbage.

Scaled: 1,000 kills in `make test`, 10,000 in a soak (RFAAS_SOAK). Each step of a ring is passed 100 times at least.
"""

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORE = HERE.parent.parent / "transport" / "core"
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-DRFAAS_FAILPOINTS", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
KILLS = 10_000 if os.environ.get("RFAAS_SOAK") else 1000
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
}

pytestmark = pytest.mark.timeout(900)

# Each line of the rings that keeps both sides apart, and what becomes of it. None of them may go unnoticed.
MUTANTS = {
    "any sequence number will do": ("sequence == reader->next + 1", "sequence != 0"),
    "one entry too many": ("writer->consumed < RFAAS_SHM_ENTRIES", "writer->consumed <= RFAAS_SHM_ENTRIES"),
    "bytes that are still read": (
        "RFAAS_SHM_DATA_BYTES - (writer->data_at - writer->consumed_bytes)",
        "RFAAS_SHM_DATA_BYTES",
    ),
    "sleeps without a last look": ("return rfaas_shm_entry_to_read(reader) == NULL;", "return true;"),
    "waits for room without a last look": ("return !rfaas_shm_has_room(writer, 1);", "return true;"),
    "rings no bell for an entry": ("return ours;", "return false;"),
    "rings no bell for room": ("atomic_exchange(&lines->writer_waits, 0) != 0;", "false;"),
    "a block that is still read": ("released == block->generation))", "released != block->generation))"),
    "any gap will do": ("gap_end_bytes - end_bytes >= size_bytes)", "true)"),
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    def compiled(ring="", name="shared_memory", flags=()):
        folder = tmp_path_factory.mktemp("shm")
        sources = [path for path in CORE.glob("*.c") if path.name != "shm_ring.c"]
        (folder / "shm_ring.c").write_text(ring or (CORE / "shm_ring.c").read_text())
        program = folder / name
        command = [os.environ.get("CC", "cc"), *FLAGS, *flags, f"-I{CORE}", "-o", program, HERE / "shared_memory.c"]
        subprocess.run([*command, folder / "shm_ring.c", *sources], check=True, timeout=120)
        return program

    return compiled


@pytest.fixture(scope="module")
def program(build):
    return build()


def run(program, mode, rounds, limit_s=300):
    return subprocess.run([program, mode, str(rounds), str(SEED)], capture_output=True, text=True, timeout=limit_s)


def hits(result):
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return {name: int(count) for name, count in (line.split() for line in result.stdout.splitlines())}


def test_what_a_killed_side_had_sent_arrives_whole_and_then_the_end(program):
    passed = hits(run(program, "kill", KILLS, limit_s=800))
    print(f"\n{KILLS} kills at random steps, seed {SEED}: 0 frames torn, lost or out of order; steps passed: {passed}")
    assert set(passed) == STEPS
    assert min(passed.values()) >= 100


def test_no_order_of_steps_loses_a_frame_or_a_bell(program):
    passed = hits(run(program, "schedules", 1000))
    assert set(passed) == STEPS
    assert min(passed.values()) >= 100


def test_garbage_in_shared_memory_ends_the_channel_at_worst(build):
    sanitized = build(flags=["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
    hits(run(sanitized, "scribble", 1000))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_no_check_of_the_rings_can_be_left_out(build, mutant):
    ring, (kept, broken) = (CORE / "shm_ring.c").read_text(), MUTANTS[mutant]
    assert ring.count(kept) == 1
    result = run(build(ring.replace(kept, broken), flags=["-Wno-error"]), "schedules", 300)
    assert result.returncode != 0
