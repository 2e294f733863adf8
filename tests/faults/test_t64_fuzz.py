"""T64: every decoder in C meets whatever bytes there can be, under the address and the undefined-behaviour sanitizer.

One target a decoder in tests/fuzz; those in Python have theirs in tests/wire (docs/testing.md lists both). With the
compiler at hand they are driven by tests/fuzz/driver.c; a soak uses libFuzzer too where there is clang.
"""

import os
import random
import shutil
import subprocess

import msgpack
import pytest

from rfaas_transport.frame import Header, Kind, encode
from support import soak
from support.c_build import ASAN, FLAGS, INCLUDES, ROOT, CBuild, core_file, core_sources, tls_sources
from support.vectors import load, raw
from support.verbs_messages import Place, places_message

FUZZ = ROOT / "tests/fuzz"
LIBRFAAS = sorted((ROOT / "rfaas/librfaas").glob("*.c"))
TARGETS = {
    "head": [core_file("frame.c"), core_file("crc32c.c")],
    "stream": core_sources(),
    "memory": core_sources(),
    "records": [*core_sources(), *tls_sources()],
    "verbs": core_sources(),
    "pack": [ROOT / "rfaas/librfaas/pack.c"],
    "packet": [*(path for path in LIBRFAAS if path.name != "session.c"), *core_sources()],
    "result": [*LIBRFAAS, *core_sources()],
    "node": [ROOT / "slurm_plugin/node_agent/wire.c"],
}
ROUNDS = {"records": 300, "memory": 1000, "verbs": 3000}
LEAST_REACHED = 20
SEED = int(os.environ.get("RFAAS_TEST_SEED", random.randrange(2**32)))
DRIVEN = ("-fsanitize-coverage=trace-pc", *ASAN)
LIBRARIES = ("-lssl", "-lcrypto", "-ldl")
LIBFUZZER_S = 60

pytestmark = pytest.mark.timeout(soak.timeout_s())

LEASE = bytes(16)
PACKETS = [
    {
        "m": "channel",
        "executor": 1,
        "channel": 5,
        "lease": LEASE,
        "lease_seq": 1,
        "epoch": 1,
        "slot": 0,
        "generation": 1,
    }
    | {"node": "n", "medium": "shm"},
    {"m": "channel", "channel": 6, "lease": LEASE, "slot": 1, "generation": 2, "node": "n", "medium": "verbs"},
    {"m": "lease", "lease": LEASE, "lease_seq": 1, "epoch": 2, "slice": LEASE, "address": "a", "node": "n"}
    | {"cores": [0], "workers": 1, "ttl_s": 2.0, "expires_in_s": 2.0},
    {"m": "farewell", "channel": 1, "last_started": 7, "last_done": 6, "reason_code": 14, "exit_status": None}
    | {"signal": 9, "grace_s": 1.5, "node": "n", "lease": LEASE, "epoch": 1, "hint": "h" * 300},
    {"m": "lost", "channels": [1, 2, 2**64 - 1], "reason_code": 16, "node": "n", "lease": LEASE, "hint": ""},
    {"m": "ended", "lease": LEASE, "reason": "lost", "reason_code": 3},
    {"m": "notice", "lease": LEASE, "channels": [1], "node": "n", "cores": [0], "grace_s": 0, "reason_code": 1},
    {"m": "queued", "executor": 1, "reason": "r" * 300, "hint": "é" * 200, "code": "quota", "estimate_s": None},
    {"m": "denied", "executor": 1, "code": "quota", "hint": "\x1b[0m"},
]


def call_header(status, payload):
    """The bytes of a RESULT; the target sets its call and its checksum."""
    header = bytearray(64)
    header[0], header[1], header[4], header[6], header[48] = 1, 3, 8, status, len(payload)
    return bytes(header) + payload


def seeds(target):
    frames = [raw(vector) for vector in load("frames")["frames"]]
    if target in ("head", "stream"):
        return frames
    if target == "verbs":
        return verbs_seeds(frames)
    if target == "result":
        raised = msgpack.packb({"type": "E", "message": "m" * 100, "hint": "h"})
        results = [call_header(status, raised if status in (1, 2, 3, 4) else b"1234") for status in range(10)]
        return [*results, *frames]
    if target in ("pack", "packet"):
        return [msgpack.packb(packet) for packet in PACKETS]
    if target == "node":
        packets = [b"rfaas-hook/1 evict job=123 uid=1000 node=n1 cpus=0-3,8", b"rfaas-hook/1 free job=9 node=n1"]
        return [bytes.fromhex(load("grant")["request"]), *packets, b"rfaas-hook/1 status"]
    if target == "records":
        return [bytes([kind, 22 + kind % 2, 3, 3, 0, 40]) + bytes(40) for kind in range(4)]
    rng = random.Random(1)
    return [records(rng) for _ in range(20)]


def verbs_seeds(frames):
    """What fuzz_verbs.c reads: a message in place of a set-up, whole and cut off anywhere; frames, words, lies."""
    messages = [raw(vector) for vector in load("verbs")["messages"] + load("verbs")["refused"]]
    set_ups = [b"\0" + message for message in messages] + [b"\0" + messages[0][:size] for size in range(192)]
    pairs = [b"\0" + messages[0] + message for message in messages]
    words = [bytes.fromhex(word["bytes"])[::-1] for word in load("verbs")["words"]]
    small = [frame for frame in frames if len(frame) < 256]
    arriving = [bytes([0, len(frame)]) + frame for frame in small]
    telling = [bytes([kind, 4]) + word for word in words for kind in (1, 17)]
    fetched = [bytes([4, len(data)]) + data + bytes([0, len(head)]) + head for data, head in placed_frames()]
    lives = [b"\1" + b"".join(arriving), b"\1" + b"".join(arriving) + bytes([0x33, 0]), b"\x81" + b"".join(telling)]
    lives += [b"\1" + b"".join(fetched), *(b"\1" + one + arriving[0] for one in fetched), b"\xff\x43\0\x43\0"]
    return [*set_ups, *pairs, *lives, *(b"\x41" + b"".join(arriving[:3]) + told for told in telling)]


def placed_frames():
    """Places, and as much of the frame that they are of as follows them in the ring."""
    header = Header(kind=Kind.RESULT, call_id=9)
    for sizes in ((200_000,), (5, 70_000), (131_072, 3, 140_000)):
        segments = [bytes(size) for size in sizes]
        head = b"".join(encode(header, segments))[: -sum(sizes)]
        large = [(number, size) for number, size in enumerate(sizes) if size > 5]
        data = places_message([Place(4096, size, 7, number) for number, size in large])
        yield data, head + b"".join(bytes(size) for size in sizes if size <= 5)


def records(rng):
    """What fuzz_memory.c writes: mostly what can be."""
    made = b""
    for _ in range(rng.randrange(1, 12)):
        kind = rng.choice([1, 1, 2, 3, 4])
        head = bytes([rng.randrange(4), kind, rng.randrange(8), 1 if kind < 3 else 0])
        size = rng.choice([0, 20, 32, 40, 1000]) if kind < 3 else 0
        places = [rng.choice([0, 4096, 8192]), rng.choice([1000, 8192])]
        words = [rng.randrange(4), 1, 0, rng.randrange(2)]
        made += head + size.to_bytes(4, "little") + b"".join(n.to_bytes(8, "little") for n in places)
        made += b"".join(n.to_bytes(4, "little") for n in words) + bytes(
            [3, rng.randrange(2), 0, rng.randrange(3), *bytes(4)]
        )
    return made


def write_seeds(target, folder):
    folder.mkdir()
    for number, data in enumerate(seeds(target)):
        (folder / str(number)).write_bytes(data)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """All sources, each compiled once."""
    sources = {source for target in TARGETS.values() for source in target} | set(FUZZ.glob("*.c"))
    return CBuild(tmp_path_factory.mktemp("fuzz"), sorted(sources), DRIVEN, LIBRARIES)


@pytest.mark.parametrize("target", TARGETS)
def test_a_decoder_survives_anything(build, target, tmp_path):
    program = build.link(target, of=[FUZZ / "driver.c", FUZZ / f"fuzz_{target}.c", *TARGETS[target]])
    rounds, last = ROUNDS.get(target, 10_000), tmp_path / "last-input"
    rounds = soak.scaled(rounds, 200 * rounds)
    command = [program, str(rounds), str(SEED), last, *write_seeds(target, tmp_path / "seeds")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=soak.timeout_s())
    print(f"{target}: seed {SEED}, {done.stdout.strip()}")
    assert done.returncode == 0, f"seed {SEED}; the input is {last}, behind its length in 8 bytes\n{done.stderr}"
    assert done.stderr == ""
    assert int(done.stdout.split("reached=")[1]) >= LEAST_REACHED
    clang = shutil.which("clang") or shutil.which("clang-14")
    if soak.SOAK and clang is not None:
        libfuzzer(clang, target, tmp_path)


def libfuzzer(clang, target, tmp_path):
    sources = [FUZZ / f"fuzz_{target}.c", *TARGETS[target]]
    includes = [f"-I{ROOT / path}" for path in INCLUDES] + [f"-I{FUZZ}"]
    checks = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    flags = [flag for flag in FLAGS if flag != "-Werror"]
    program = tmp_path / f"{target}-libfuzzer"
    subprocess.run([clang, *flags, *checks, *includes, "-o", program, *sources, *LIBRARIES], check=True, timeout=300)
    words = [
        f"-max_total_time={LIBFUZZER_S}",
        f"-seed={SEED % 2**31 + 1}",
        f"-artifact_prefix={tmp_path}/",
        "-max_len=8192",
    ]
    done = subprocess.run([program, *words, tmp_path / "seeds"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
