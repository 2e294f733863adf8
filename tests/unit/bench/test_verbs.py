"""What benchmarks/verbs.py makes of measured times."""

import json
import sys

import pytest
import verbs

RUN = {
    **{"run": "2026-11-26T10:00:00", "bench": "rfaas bench latency …", "noise": [{"text": "load: 2 processes"}]},
    "machine": {"cpu": "TCG", "cpus": 2, "kernel": "6.1", "python": "3.11.2", "rfaas": "0.1"},
    "perftest": {"min_us": 23.5, "typical_us": 24.5},
}


def row(part, size_bytes, ratio, *, emulated=True):
    raw = {"raw_min_ns": [50_000] * 3, "raw_p25_ns": [60_000] * 3}
    call = {"call_min_ns": [round(50_000 * ratio)] * 3, "call_p25_ns": [round(60_000 * ratio)] * 3}
    return {"part": part, "size_bytes": size_bytes, "n": 900, "emulated": emulated, **raw, **call, **RUN}


def test_a_block_gives_its_minimum_and_its_25th_percentile(tmp_path):
    lines = ["size_bytes,state,function,call,series,block,index,took_ns"]
    for series, base_ns in (("call", 200), ("raw", 100)):
        for block in range(2):
            lines += [f"1,hot,native,invoke,{series},{block},{i},{base_ns + 10 * block + i}" for i in (3, 1, 2, 0)]
    path = tmp_path / "samples.csv"
    path.write_text("\n".join(lines) + "\n")
    [found] = verbs.rows(path)
    assert found == {
        **{"kind": "native", "size_bytes": 1, "n": 8, "call_min_ns": [200, 210], "call_p25_ns": [200, 210]},
        **{"raw_min_ns": [100, 110], "raw_p25_ns": [100, 110]},
    }
    ratios = verbs.over_raw(found)
    assert (ratios["min"].low, ratios["min"].high) == (pytest.approx(210 / 110), 2.0)


@pytest.mark.parametrize(
    ("part", "size_bytes", "ratio", "word"),
    [
        ("native", 1, 1.10, "goal met"),
        ("native", 1, 1.11, "below the limit"),
        ("native", 1, 1.42, "missed"),
        ("warm", 128, 1.3, "below the limit"),
        ("python", 1, 3.0, "reported"),
    ],
)
def test_a_figure_is_judged_by_the_worse_of_its_two_ratios(part, size_bytes, ratio, word):
    found = row(part, size_bytes, 1.0) | {"call_p25_ns": [round(60_000 * ratio)] * 3}
    [*_, line] = verbs.table([found])
    assert f"| {word} |" in line


def test_the_last_row_of_a_series_counts_and_emulation_is_said_where_it_was(tmp_path):
    path = tmp_path / "verbs.jsonl"
    rows = [row("raw", 1, 1.2), row("native", 1, 1.5), row("native", 1, 1.05)]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = verbs.latest(path)
    assert [(one["part"], one["call_min_ns"][0]) for one in found] == [("native", 52_500), ("raw", 60_000)]
    text = verbs.report(found)
    assert "emulation: not an RDMA latency" in text
    assert "noise: load: 2 processes" in text
    assert "47.0, 49.0" in text  # perftest says half of a round trip
    assert "mulation" not in verbs.report([row("native", 1, 1.0, emulated=False)])


SAYS = """#!{python}
import json, os, sys
series = {{name: [n, n + 1] for n, name in enumerate({series}, 10)}}
n = int(os.environ["RFAAS_EXECUTOR_ACQUIRE_TIMEOUT_S"])
for size in sys.argv[3].split(","):
    print(json.dumps({{"state": sys.argv[2], "size_bytes": int(size), "n": n, **series}}))
"""


def test_what_the_program_in_c_says_becomes_a_row_for_each_size_with_how_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setenv("RFAAS_RDMA_GUEST", "1")
    program = tmp_path / "c_calls_verbs-1234"
    program.write_text(SAYS.format(python=sys.executable, series=verbs.SERIES))
    program.chmod(0o755)
    found = list(verbs.from_c(verbs.PARTS["c-warm"], program, quick=True))
    assert [row["size_bytes"] for row in found] == [1, 128, 1024]
    assert found[0]["n"] == 300  # it has the guest's settings
    assert "c_calls_verbs librfaas_bench.so warm 1,128,1024 2 60 0.5" in found[0]["bench"]
    assert verbs.over_raw(found[0])["min"].low == pytest.approx(10 / 12)
