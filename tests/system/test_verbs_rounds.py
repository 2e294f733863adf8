"""Frames of every length go over RDMA and back as they are, where the device is memory: round and round the rings."""

import subprocess
from pathlib import Path

import pytest

from support.c_build import ASAN, ROOT, CBuild, core_sources

ROUNDS = 700  # the rings have 256 slots
SLOT_BYTES = 1024
MESSAGE_BYTES = 65 * SLOT_BYTES
HEADER_BYTES = 64


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("rounds")
    own = ROOT / "benchmarks/raw/verbs_rounds.c"
    return CBuild(folder, [*core_sources(), own], ASAN).link("verbs_rounds")


@pytest.mark.parametrize(
    "size_bytes",
    [0, 1, 960, 961, 65_536, MESSAGE_BYTES - HEADER_BYTES, MESSAGE_BYTES - HEADER_BYTES + 1, 100_000],
)
def test_frames_come_whole_all_around_the_ring(program, size_bytes):
    done = subprocess.run([program, str(size_bytes), str(ROUNDS)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
