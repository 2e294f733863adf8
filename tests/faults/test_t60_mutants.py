"""T60: no check of the shared memory, of its arrays and of loans can be left out unnoticed.

Each mutant is one of the sources with one of its checks changed; the programs that T60 and the sanitizers run must fail
with it. A mutant that passes says that a check is not tested, or not needed.
"""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from support import soak
from support.c_build import CBuild, core_file, core_sources

HERE = Path(__file__).parent
SYSTEM = HERE.parent / "system"
PROGRAM = [HERE / "shared_memory.c", HERE / "lies.c", SYSTEM / "core_arrays_test.c", SYSTEM / "core_loan_test.c"]
ROUNDS = {"schedules": 300, "lies": 1, "arrays": 1, "loan": 500}
LIMIT_S = 20  # a mutant that hangs is found too

pytestmark = pytest.mark.timeout(soak.timeout_s())


class Mutant(NamedTuple):
    file: str
    finds_it: str
    """The mode of the program that must fail."""
    kept: str
    broken: str


MUTANTS = {
    # --- what one side believes of the other's entries
    "any sequence number will do": Mutant("shm_ring.c", "schedules", "sequence == reader->next + 1", "sequence != 0"),
    "a piece may lie anywhere": Mutant(
        "shm_ring.c", "lies", "return at == reader->data_at && unbroken", "return unbroken"
    ),
    "a piece may go beyond the end": Mutant("shm_ring.c", "lies", "&& unbroken && fits", "&& fits"),
    "a piece of any size": Mutant("shm_ring.c", "lies", "&& unbroken && fits", "&& unbroken"),
    "a block within a frame": Mutant(
        "shm_receive.c", "lies", "kind == RFAAS_SHM_BLOCK && between", "kind == RFAAS_SHM_BLOCK"
    ),
    "a place within a frame": Mutant(
        "shm_receive.c", "lies", "kind == RFAAS_SHM_PLACED && between", "kind == RFAAS_SHM_PLACED"
    ),
    "pieces in any order": Mutant("shm_receive.c", "lies", "between != (kind == RFAAS_SHM_FRAME)", "false"),
    "pieces of any kind": Mutant(
        "shm_receive.c", "lies", "(kind != RFAAS_SHM_FRAME && kind != RFAAS_SHM_MORE)", "false"
    ),
    "more bytes than the frame has": Mutant("shm_receive.c", "lies", "if (fed_bytes < step_bytes)", "if (false)"),
    "a piece that shrinks": Mutant("shm_receive.c", "lies", "size_bytes < channel->entry_got_bytes", "false"),
    "two blocks for a frame": Mutant("shm_receive.c", "lies", "channel->placed != NULL || at %", "at %"),
    "a block anywhere": Mutant("shm_receive.c", "lies", "|| at % RFAAS_SHM_ARENA_STEP_BYTES != 0", ""),
    "a block of any size": Mutant(
        "shm_receive.c", "lies", "return size_bytes == channel->place_bytes ?", "return true ?"
    ),
    "a block of any number": Mutant("shm_segment.c", "lies", "slot >= RFAAS_SHM_BLOCKS || ", ""),
    "a block beyond the arena": Mutant("shm_segment.c", "lies", "at > segment->arena_bytes ||", ""),
    "a block larger than the arena": Mutant("shm_segment.c", "lies", "size_bytes > segment->arena_bytes - at", "false"),
    "a block of no bytes": Mutant("shm_segment.c", "lies", "size_bytes == 0 || ", ""),
    "memory that shrinks": Mutant("shm_segment.c", "lies", "(seals & SEALS) != SEALS || ", ""),
    "places without number": Mutant("shm_borrow.c", "lies", "receiver->n_placed == RFAAS_PLACED_MAX || ", ""),
    "places in any space": Mutant("shm_borrow.c", "lies", "(!in_pool && space != RFAAS_SHM_ARENA)", "false"),
    "places beyond the pool": Mutant("shm_borrow.c", "lies", "size_bytes > pool->size_bytes - at", "false"),
    "places in any order": Mutant("receiver.c", "lies", "!rises || ", ""),
    "places of any size": Mutant(
        "receiver.c", "lies", "rfaas_head_segment_size(head, placed->segment) != placed->where.iov_len", "false"
    ),
    "a small frame within a frame": Mutant(
        "shm_receive.c", "lies", "!rfaas_receiver_is_between_frames(receiver) || channel->placed", "channel->placed"
    ),
    "a small frame after a block": Mutant(
        "shm_receive.c", "lies", "|| channel->placed != NULL || channel->borrow", "|| channel->borrow"
    ),
    "a small frame after a place": Mutant("shm_receive.c", "lies", "|| channel->borrow != NULL ||\n", "||\n"),
    "a small frame of any size": Mutant("shm_small.c", "lies", "size_bytes > RFAAS_SHM_SMALL_BYTES || ", ""),
    "a small frame of several segments": Mutant("shm_small.c", "lies", "*n_segments > 1 || ", ""),
    "a small frame of bytes in no segment": Mutant("shm_small.c", "lies", "*n_segments < (size_bytes > 0) ||", ""),
    "a small frame without checksum": Mutant(
        "shm_small.c", "lies", "crc != rfaas_crc32c(words, sizeof words, 0)", "false"
    ),
    # --- what a writer believes of its reader
    "one entry too many": Mutant(
        "shm_ring.c", "schedules", "writer->consumed < RFAAS_SHM_ENTRIES", "writer->consumed <= RFAAS_SHM_ENTRIES"
    ),
    "bytes that are still read": Mutant(
        "shm_ring.c",
        "schedules",
        "RFAAS_SHM_DATA_BYTES - (writer->data_at - writer->consumed_bytes)",
        "RFAAS_SHM_DATA_BYTES",
    ),
    "no look for room in the bytes": Mutant(
        "shm_ring.c",
        "lies",
        "size_bytes == 0 || writer->data_at - writer->consumed_bytes < RFAAS_SHM_DATA_BYTES",
        "true",
    ),
    "entries enough without a look": Mutant(
        "shm_ring.c", "lies", "RFAAS_SHM_ENTRIES - (writer->next - writer->consumed) >= n", "true"
    ),
    "read more than was written": Mutant(
        "shm_ring.c", "lies", "consumed >= writer->consumed && consumed <= writer->next", "consumed >= writer->consumed"
    ),
    "read less than before": Mutant(
        "shm_ring.c", "lies", "consumed >= writer->consumed && consumed <= writer->next", "consumed <= writer->next"
    ),
    "read more bytes than were written": Mutant(
        "shm_ring.c",
        "lies",
        "bytes >= writer->consumed_bytes && bytes <= writer->data_at",
        "bytes >= writer->consumed_bytes",
    ),
    "read less bytes than before": Mutant(
        "shm_ring.c", "lies", "bytes >= writer->consumed_bytes && bytes <= writer->data_at", "bytes <= writer->data_at"
    ),
    "a block that is still read": Mutant(
        "shm_ring.c", "schedules", "released == block->generation))", "released != block->generation))"
    ),
    "blocks without generation": Mutant("shm_ring.c", "schedules", "++writer->generation[slot]", "1"),
    "a block that somebody holds": Mutant("shm_ring.c", "arrays", "!block->held && (", "("),
    "any gap will do": Mutant("shm_ring.c", "schedules", "gap_end_bytes - end_bytes >= size_bytes)", "true)"),
    "an arena larger than it is": Mutant(
        "shm_ring.c", "lies", "ready_bytes < writer->arena_bytes ? ready_bytes : writer->arena_bytes", "ready_bytes"
    ),
    "bytes behind a block": Mutant(
        "shm_ring.c",
        "lies",
        "return size_bytes <= block->size_bytes - (offset_bytes - block->offset_bytes) ? block : NULL",
        "return block",
    ),
    "an array that is still looked at": Mutant("shm_send.c", "arrays", "block->held && block->handed", "block->held"),
    "a pool that is not mapped": Mutant("shm_send.c", "schedules", "atomic_load(&lines->pool_mapped) != 1 ||", ""),
    "places before a frame that waits": Mutant("shm_send.c", "arrays", "channel->queue.first == NULL && ", ""),
    "places without room": Mutant(
        "shm_send.c", "arrays", "rfaas_shm_has_entries(&channel->writer, RFAAS_PLACED_MAX + 2)", "true"
    ),
    # --- bells
    "sleeps without a last look": Mutant(
        "shm_ring.c", "schedules", "return rfaas_shm_entry_to_read(reader) == NULL;", "return true;"
    ),
    "waits for room without a last look": Mutant(
        "shm_ring.c", "schedules", "return !rfaas_shm_has_room(writer, 1);", "return true;"
    ),
    "waits without saying so": Mutant(
        "shm_send.c", "schedules", "rc != RFAAS_AGAIN || rfaas_shm_wait_for_room(&channel->writer)", "true"
    ),
    "rings no bell for an entry": Mutant("shm_ring.c", "schedules", "return ours;", "return false;"),
    "rings no bell for room": Mutant("shm_ring.c", "schedules", "return wanted;", "return false;"),
    # --- arrays in the pool
    "what is kept stays the peer's": Mutant(
        "shm_borrow.c", "arrays", "whole &= make_private(&borrow->parts[i]);", "whole &= true;"
    ),
    "arrays in any gap": Mutant("array_pool.c", "arrays", "pool->blocks[index].at - end < size_bytes", "false"),
    "arrays beyond the pool": Mutant("array_pool.c", "arrays", "pool->size_bytes - end < size_bytes || ", ""),
    "kept memory that is in use": Mutant("array_pool.c", "arrays", "one->cached_since != 0 && ", ""),
    # --- loans
    "two borrowers": Mutant(
        "loan.c",
        "loan",
        "if (!go(loan, RFAAS_LOAN_IDLE, RFAAS_LOAN_BUSY))",
        "store(&loan->state, RFAAS_LOAN_BUSY);\n    if (false)",
    ),
    "taken although recalled": Mutant(
        "loan.c", "loan", "if (!load(&loan->recalled))\n        return true;", "return true;"
    ),
    "looks on although recalled": Mutant("loan.c", "loan", "if (load(&loan->recalled)) {", "if (false) {"),
    "sleeps although recalled": Mutant("loan.c", "loan", "load(&loan->recalled) ? 0 : poll", "poll"),
    "ended while in use": Mutant(
        "loan.c",
        "loan",
        "go(loan, RFAAS_LOAN_LEFT, RFAAS_LOAN_ABSENT))",
        "go(loan, RFAAS_LOAN_LEFT, RFAAS_LOAN_ABSENT) || go(loan, RFAAS_LOAN_BUSY, RFAAS_LOAN_ABSENT))",
    ),
    "awake although it was taken away": Mutant(
        "loan.c",
        "loan",
        "return go(loan, RFAAS_LOAN_ASLEEP, goes_on ? RFAAS_LOAN_BUSY : RFAAS_LOAN_LEFT) && goes_on",
        "store(&loan->state, goes_on ? RFAAS_LOAN_BUSY : RFAAS_LOAN_LEFT);\n    return goes_on",
    ),
    "an old bell wakes the next": Mutant("loan.c", "loan", "calm(loan); /*", "/*"),
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    sources = [*PROGRAM, *core_sources()]
    return CBuild(tmp_path_factory.mktemp("mutants"), sources, ["-DRFAAS_FAILPOINTS"])


def ended(program, mode):
    command = [program, mode, str(ROUNDS[mode]), os.environ.get("RFAAS_SEED", "20261126")]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S).returncode
    except subprocess.TimeoutExpired:
        return None


def test_the_sources_as_they_are_pass(build):
    program = build.link("unchanged")
    assert {mode: ended(program, mode) for mode in ROUNDS} == dict.fromkeys(ROUNDS, 0)


@pytest.mark.parametrize("name", MUTANTS)
def test_no_check_can_be_left_out(build, name):
    mutant = MUTANTS[name]
    source = core_file(mutant.file)
    text = source.read_text()
    assert text.count(mutant.kept) == 1
    program = build.link("mutant", {source: text.replace(mutant.kept, mutant.broken)})
    assert ended(program, mutant.finds_it) != 0
