"""--rfaas-share=cores:mem[:grace] as the SPANK plugin reads it, in C."""

import ctypes
import subprocess
from pathlib import Path

import pytest

SPANK = Path(__file__).parents[3] / "slurm_plugin/spank"


class Share(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("cores", "memory_mib", "grace_s")]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    target = tmp_path_factory.mktemp("share") / "share.so"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    subprocess.run(["cc", *flags, "-o", target, SPANK / "share_option.c"], check=True, timeout=60)
    loaded = ctypes.CDLL(str(target))
    loaded.rfaas_share_parse.restype = ctypes.c_bool
    loaded.rfaas_share_count.restype = ctypes.c_long
    return loaded


def parse(library, text):
    share, why = Share(), ctypes.create_string_buffer(256)
    right = library.rfaas_share_parse(text.encode(), ctypes.byref(share), why, ctypes.c_size_t(256))
    return (share.cores, share.memory_mib, share.grace_s) if right else why.value.decode()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2:8G", (2, 8192, 5)),
        ("1:500", (1, 500, 5)),
        ("1:500M:0", (1, 500, 0)),
        ("16:1T:30s", (16, 1 << 20, 30)),
        ("1:2GiB:5s", (1, 2048, 5)),
        ("1:2gb", (1, 2048, 5)),
        ("1:2048K", (1, 2, 5)),
        ("65535:1048576G:3600", (65535, 1 << 30, 3600)),
    ],
)
def test_what_it_means(library, text, meant):
    assert parse(library, text) == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no whole number of cores"),
        ("0:1G", "no whole number of cores"),
        ("-1:1G", "no whole number of cores"),
        ("99999999999999999999:1G", "no whole number of cores"),
        ("2", "the memory is missing"),
        ("2G:1", "the memory is missing"),
        ("2:", "no amount of memory"),
        ("2:0G", "no amount of memory"),
        ("2:512K", None),
        ("2:1X", "no amount of memory"),
        ("2:99999999T", "no amount of memory"),
        ("2:1G:", "no grace"),
        ("2:1G:3601", "no grace"),
        ("2:1G:5m", "something follows"),
        ("2:1G:5s ", "something follows"),
        ("2:1Gigabyte", "something follows"),
    ],
)
def test_what_is_refused_and_why(library, text, words):
    answer = parse(library, text)
    assert isinstance(answer, str)
    assert answer.startswith(f"--rfaas-share={text}: {words or 'no amount of memory'}")
    assert "cores:mem[:grace], e.g. 2:8G" in answer


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 1), ("0-3", 4), ("0-3,8", 5), ("2,4,6-7", 4), ("", -1), ("3-1", -1), ("0-", -1), ("0,", -1)],
)
def test_how_many_cores_a_list_holds(library, text, count):
    assert library.rfaas_share_count(text.encode()) == count
