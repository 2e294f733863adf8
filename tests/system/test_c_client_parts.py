"""The parts of the client in C that do no I/O, sanitized: msgpack against Python's own, SHA-256, timers, the core."""

import hashlib
import os
import random
import struct
import subprocess
from pathlib import Path

import msgpack
import pytest

from support.soak import scaled

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = ROOT / "rfaas/librfaas"
PARTS = ("pack", "sha256", "timers", "client_core", "core_channels", "core_target", "failures")
MOST_NESTED = 16
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    program = tmp_path_factory.mktemp("parts") / "parts"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    sources = [HERE / "c_client/parts_test.c", ROOT / "tests/fuzz/fuzz_pack.c", *(SOURCES / f"{p}.c" for p in PARTS)]
    command = [os.environ.get("CC", "cc"), *flags, "-fno-sanitize-recover=all", f"-I{SOURCES}"]
    command += [f"-I{ROOT / 'transport/include'}", "-o", program, *sources]
    subprocess.run(command, check=True, timeout=TIMEOUT_S)

    def run(*words, data=b""):
        argv = [program, *map(str, words)]
        done = subprocess.run(argv, input=data, capture_output=True, timeout=TIMEOUT_S)
        assert (done.returncode, done.stderr.decode()) == (0, ""), words
        return done.stdout

    return run


def shown(value, depth=0):
    """A value as parts_test.c shows it; an exception if the reader in C has to refuse it."""
    if value is None:
        return "n"
    if isinstance(value, bool):
        return "FT"[value]
    if isinstance(value, int):
        return f"i{value}"
    if isinstance(value, float):
        return "f" + struct.pack(">d", value).hex()
    if isinstance(value, str):
        return "t" + value.encode(errors="surrogateescape").hex()
    if isinstance(value, bytes):
        return "b" + value.hex()
    if depth == MOST_NESTED or not isinstance(value, list | Pairs):
        raise ValueError("nested too deep, or of an extension type")
    if isinstance(value, Pairs):
        if not all(isinstance(key, str) for key, _ in value):
            raise ValueError("a key is no text")
        return "{" + "".join(f"{shown(key, depth + 1)},{shown(item, depth + 1)}," for key, item in value) + "}"
    return "[" + "".join(f"{shown(item, depth + 1)}," for item in value) + "]"


class Pairs(tuple):
    """A map, with keys that come twice."""


def expected(data):
    try:
        options = {"raw": False, "strict_map_key": False, "unicode_errors": "surrogateescape", "max_ext_len": 0}
        return shown(msgpack.unpackb(data, object_pairs_hook=Pairs, **options))
    except Exception:  # msgpack raises of all kinds
        return "-"


def some_value(rng, depth=0):
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([-1, 1]) * rng.getrandbits(rng.randrange(1, 64))
    if kind == 2:
        return rng.choice([0.0, -1.5, 1e300, float("inf")])
    if kind in (3, 4):
        return "".join(rng.choices("aé€😀\n", k=rng.choice([0, 1, 31, 32, 255, 256])))
    if kind == 5:
        return rng.randbytes(rng.choice([0, 1, 255, 256, 65536]))
    children = [some_value(rng, depth + 1) for _ in range(rng.choice([0, 1, 3, 15, 16]))]
    return children if kind < 8 else {str(n): child for n, child in enumerate(children)}


def mutated(rng, data):
    data = bytearray(data[:4096])
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(data))
        what = rng.randrange(3)
        if what == 0:
            data[place] = rng.randrange(256)
        elif what == 1 and len(data) > 1:
            del data[place:]
            data = data or bytearray(b"\xc0")
        else:
            data.insert(place, rng.randrange(0x80, 0x100))
    return bytes(data)


def test_msgpack_is_read_as_pythons_reader_reads_it(parts):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    inputs = [b"", b"\xc1", b"\x91" * 16 + b"\x90", b"\x91" * 17 + b"\x90", b"\x91" * 15 + b"\x90", b"\x81\x01\x01"]
    inputs += [mutated(rng, msgpack.packb(some_value(rng))) for _ in range(scaled(2000, 100_000))]
    packed = b"".join(struct.pack("<I", len(data)) + data for data in inputs)
    lines = parts("read", data=packed).decode().splitlines()
    assert len(lines) == len(inputs)
    for data, line in zip(inputs, lines, strict=True):
        assert line == expected(data), data
    accepted = sum(line != "-" for line in lines)
    assert len(inputs) / 10 < accepted < len(inputs)


def test_msgpack_is_written_in_its_shortest_form(parts):
    data = parts("write")
    value = msgpack.unpackb(data)
    assert msgpack.packb(value) == data
    assert value["numbers"][-1] == 2**64 - 1
    assert value["real"] == -0.15625


def test_the_msgpack_reader_survives_anything(parts):
    parts("fuzz", random.randrange(2**32), scaled(50_000, 10_000_000))


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 100_000])
def test_sha256(parts, size):
    data = random.Random(size).randbytes(size)
    assert parts("hash", data=data).decode() == hashlib.sha256(data).hexdigest()


def test_timers_keep_the_earliest_first(parts):
    parts("timers", random.randrange(2**32), 5000)


def test_the_core_ends_each_call_once_and_says_truly_whether_it_ran(parts):
    for _ in range(scaled(5, 500)):
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        counts = dict(word.split("=") for word in parts("core", seed, 10_000).decode().split())
        assert all(int(counts[name]) > 0 for name in ("answered", "failed", "cancelled", "redispatched", "retried"))
