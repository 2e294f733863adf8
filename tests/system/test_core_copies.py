"""A payload over a socket goes from the sender's buffer to the kernel, from there to the frame's, and nowhere else."""

import os
import subprocess
from pathlib import Path

import pytest

from support.c_build import CORE_FOLDERS, core_sources

HERE = Path(__file__).parent
PAYLOAD_BYTES = 32 << 20
COUNTED = ("memcpy", "memmove", "send", "sendmsg", "recvmsg", "recv")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    made = tmp_path_factory.mktemp("copies") / "core_copies"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-pthread"]
    flags += [f"-I{folder}" for folder in CORE_FOLDERS]
    wrapped = [f"-Wl,--wrap={name}" for name in COUNTED]
    command = [os.environ.get("CC", "cc"), *flags, *wrapped, "-o", made, HERE / "core_copies.c"]
    subprocess.run([*command, *core_sources()], check=True, timeout=120)
    return made


def count(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return map(int, done.stdout.split())


@pytest.mark.parametrize("state", ["asleep", "awake"])
def test_a_large_payload_is_copied_by_the_kernel_alone(program, state):
    copied, sent, received = count(program, state)
    print(f"{state}: {copied} bytes copied, {sent} sent, {received} received, of a payload of {PAYLOAD_BYTES}")
    assert PAYLOAD_BYTES <= sent <= 1.001 * PAYLOAD_BYTES
    assert received == sent
    assert copied <= 0.01 * PAYLOAD_BYTES


def test_the_count_finds_a_copy(program):
    copied, _, _ = count(program, "asleep", "once more")
    assert copied >= PAYLOAD_BYTES // 2
