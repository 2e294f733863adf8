"""What calls copy, counted: a preloaded library sums the bytes of memcpy, memmove, send and recv at both ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent.parent / "support"
SIZE_BYTES = 8 << 20
SLACK = 0.01  # of a copy: pickles, heads and what else there is

NONE = {"memory": 0, "sent": 0, "received": 0}
ONE = NONE | {"memory": 1}
SENT, RECEIVED = NONE | {"sent": 1}, NONE | {"received": 1}
BOTH = {"memory": 0, "sent": 1, "received": 1}

# Copies at the caller, then at the worker. Over tcp the kernel's are the only ones, and it needs them.
ALLOWED = {
    "shm": {
        "argument": (ONE, NONE),
        "result": (NONE, NONE),
        "argument of rfaas.empty": (NONE, NONE),
        "result of rfaas.empty": (NONE, NONE),
        "result that is kept": (NONE, ONE),
        "result of numpy after others": (NONE, NONE),
        "result of numpy that is kept": (NONE, ONE),
        "result of a thread": (NONE, ONE),
        "returned argument": (ONE, ONE),
        "returned argument of rfaas.empty": (NONE, ONE),
        "memoryview": (ONE, NONE),
        "bytes": (ONE, ONE),  # the worker's: bytes can't lie in memory that is not their own
    },
    "tcp": {
        "argument": (SENT, RECEIVED),
        "result": (RECEIVED, SENT),
        "argument of rfaas.empty": (SENT, RECEIVED),
        "result of rfaas.empty": (RECEIVED, SENT),
        "result that is kept": (RECEIVED, SENT),
        "result of numpy after others": (RECEIVED, SENT),
        "result of numpy that is kept": (RECEIVED, SENT),
        "result of a thread": (RECEIVED, SENT),
        "returned argument": (BOTH, BOTH),
        "returned argument of rfaas.empty": (BOTH, BOTH),
        "memoryview": (SENT, RECEIVED),
        "bytes": (SENT, RECEIVED | {"memory": 1}),
    },
}
DELIBERATE = "argument that the function copies"


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    library = tmp_path_factory.mktemp("copies") / "copycount.so"
    flags = ["-std=gnu11", "-O2", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    source = SUPPORT / "copycount.c"
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", library, source, "-ldl"], check=True, timeout=60)
    return library


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_no_call_copies_more_than_is_promised(counter, transport):
    paths = os.pathsep.join([str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {
        "LD_PRELOAD": str(counter),
        "RFAAS_ENV_PASS": "LD_PRELOAD",
        "PYTHONPATH": paths,
    }
    program = [sys.executable, str(SUPPORT / "copying.py"), transport, str(SIZE_BYTES)]
    run = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=60, check=True)
    found = json.loads(run.stdout)
    assert all(one["right"] for one in found.values())
    copies = {
        name: [{kind: size / SIZE_BYTES for kind, size in one[side].items()} for side in ("client", "worker")]
        for name, one in found.items()
    }
    print(transport, copies)
    # A copy more is found, so the counter counts where it is said to.
    assert copies.pop(DELIBERATE)[1]["memory"] >= 1
    too_many = {
        name: (counted, allowed)
        for name, allowed in ALLOWED[transport].items()
        for counted, most in zip(copies.pop(name), allowed, strict=True)
        if any(counted[kind] > most[kind] * (1 + SLACK) + (most[kind] == 0) * SLACK for kind in most)
    }
    assert (too_many, copies) == ({}, {})
    total = sum(sum(side.values()) for one in found.values() for side in (one["client"], one["worker"]))
    assert total >= 10 * SIZE_BYTES  # it was loaded at both ends
