"""`rfaas bench` as a performance engineer types it, on this machine with nothing configured."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import rfaas
from rfaas.bench import link, served, statistics
from support.deadlines import assert_in_time

QUICK_S = 60
NO_MATPLOTLIB = """
import sys
from pathlib import Path
sys.modules["matplotlib"] = None
from rfaas.cli import main
main()
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs `rfaas bench …` in a directory of its own, embedded; returns its output."""

    def ran(*arguments, program=("-m", "rfaas"), stdout=subprocess.PIPE):
        return subprocess.run(
            [sys.executable, *program, "bench", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=QUICK_S,
            cwd=tmp_path,
            env={**os.environ, "RFAAS_ALLOCATOR": "embedded", "RFAAS_STATE_DIR": str(tmp_path / "state")},
        )

    def run(*arguments, code=0, **options):
        done = ran(*arguments, **options)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    run.ran, run.folder = ran, tmp_path
    return run


def rows(text):
    """Head and rows of a table as dictionaries."""
    heads = [line for line in text.splitlines() if line.startswith("#")]
    names = heads[-1].removeprefix("# ").split()
    return heads, [dict(zip(names, line.split(), strict=True)) for line in text.splitlines() if line[0] != "#"]


def test_latency_stands_beside_the_bare_medium_of_the_same_two_processes(bench, tmp_path):
    files = ("--raw-samples", "all.csv", "--plot", "over.svg", "--cdf", "distribution.png")
    told = json.loads(bench("latency", "--quick", "--sizes", "0,64KiB", "-n", "10", "--json", *files))
    assert told["medium"] == "shm"
    series = {(row["size_bytes"], row["state"], row["call"]): row for row in told["rows"]}
    assert set(series) == {(n, s, c) for n in (0, 65536) for s in ("hot", "warm") for c in ("invoke", "submit")}
    for row in told["rows"]:
        for kind in ("calls", "raw"):
            assert 0 < row[kind]["min_ns"] <= row[kind]["p50_ns"] <= row[kind]["max_ns"]
        assert row["calls"]["p99_ns"] is None  # ten say nothing of a hundredth
        assert row["added_ns"] == row["calls"]["p50_ns"] - row["raw"]["p50_ns"]
    assert series[0, "hot", "invoke"]["raw_bytes"] == 64
    with open(tmp_path / "all.csv") as file:
        samples = list(csv.DictReader(file))
    for kind in ("calls", "raw"):
        n = sum(row[kind]["n"] for row in told["rows"])
        assert sum(one["series"] == kind.removesuffix("s") for one in samples) == n
    assert "<svg" in (tmp_path / "over.svg").read_text()
    assert (tmp_path / "distribution.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_says_where_it_was_measured_and_what_disturbed_it(bench):
    cpu = str(min(os.sched_getaffinity(0)))
    one = ("--client-cpu", cpu, "--worker-cpu", cpu)
    kinds = ("--kind", "python,raw,native")
    few = ("--quick", *kinds, "--state", "hot", "--call", "invoke", "--sizes", "1", "-n", "2", "--transport", "tcp")
    heads, table = rows(bench("latency", *few, *one))
    assert any(f"share CPU {cpu}" in line for line in heads if line.startswith("# noise:")), heads
    assert any("over unix" in line or "over tcp" in line for line in heads), heads
    assert any("one reading costs" in line for line in heads), heads
    assert [(row["BYTES"], row["KIND"]) for row in table] == [("1", "python"), ("1", "raw"), ("1", "native")]
    assert all(float(row["P50"]) > 0 < float(row["RAW_P50"]) for row in table)


def test_rate_has_a_line_for_each_number_under_way(bench):
    heads, table = rows(bench("rate", "--quick", "--in-flight", "1,32", "-n", "60"))
    assert [row["IN_FLIGHT"] for row in table] == ["1", "32"]
    assert all(float(row["LOW"]) <= float(row["CALLS/S"]) <= float(row["HIGH"]) for row in table)
    assert any("round trips of 64 bytes a second" in line for line in heads)
    several = json.loads(
        bench("rate", "--quick", "--in-flight", "8", "-n", "20", "--workers", "2", "--blocks", "1", "--json")
    )
    assert (several["workers"], several["client_cpu"], several["raw_per_s"]) == (2, None, None)


def test_bandwidth_is_there_and_back_and_one_way(bench):
    _, table = rows(bench("bandwidth", "--quick", "--sizes", "64KiB,1MiB", "-n", "4"))
    assert [row["BYTES"] for row in table] == ["65536", "1048576"]
    for row in table:
        assert all(float(row[f"{way}_GB/S"]) > 0 for way in ("ECHO", "TO", "FROM", "RAW"))


def test_the_phases_of_a_cold_start_add_up(bench):
    starts = json.loads(bench("cold", "--quick", "--json"))["starts"]
    for start, names in (("first", ["interpreter", "import"]), ("again", [])):
        phases = {name: one["p50_ns"] for name, one in starts[start].items() if name not in ("total", "next")}
        assert list(phases) == [*names, "session", "lease", "template", "fork", "connect", "call"]
        assert sum(phases.values()) == starts[start]["total"]["p50_ns"]
    assert starts["first"]["next"]["p50_ns"] < starts["first"]["total"]["p50_ns"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["latency", "--raw-samples", "no/such/place.csv"], "there is no such directory"),
        (["latency", "--plot", "no/such/place.svg"], "there is no such directory"),
        (["latency", "--plot", "picture.docx"], "no kind of picture"),
        (["latency", "--raw-samples", ""], ". is a directory"),
        (["latency", "--sizes", ""], "--sizes='' is not a size"),
        (["rate", "--in-flight", ""], "--in-flight='' is no list of numbers"),
        (["latency", "--sizes", "8GiB"], "are more than a call takes: 4294967296"),
        (["latency", "--sizes", "4GiB"], "--sizes of "),
        (["bandwidth", "--sizes", "4GiB"], "--sizes of "),
        (["latency", "--client-cpu", "4096"], "--client-cpu=4096 is no CPU that this side may use"),
        (["rate", "--no-pin", "--worker-cpu", "0"], "leave one out"),
        (["rate", "--in-flight", "0,8"], "no list of numbers from 1"),
        (["cold", "--transport", "pigeon"], "transport='pigeon'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_can_t_be_measured_is_refused_before_anything_is(bench, monkeypatch, arguments, words):
    if "4GiB" in arguments:  # there are machines that have so much
        monkeypatch.setenv("PYTHONPATH", str(little_memory_module(bench.folder)))
    assert words in bench(*arguments, code=78)


def little_memory_module(folder):
    """A directory whose sitecustomize has rfaas believe that 8 GiB are available."""
    (folder / "sitecustomize.py").write_text(
        "from rfaas import host_memory\nhost_memory.offered_bytes = lambda line: 8 << 30\n"
    )
    return folder


def test_samples_that_can_t_be_written_cost_no_figure(bench):
    few = ("latency", "--quick", "--sizes", "1", "-n", "2", "--state", "hot", "--call", "invoke")
    done = bench.ran(*few, "--json", "--raw-samples", "/dev/full")
    assert (done.returncode, done.stderr) == (1, "rfaas: /dev/full was not written whole: No space left on device\n")
    assert json.loads(done.stdout)["rows"][0]["calls"]["n"] == 2


def test_a_reader_that_leaves_is_no_fault_of_the_link(bench):
    read, write = os.pipe()
    os.close(read)
    done = bench.ran("latency", "--quick", "--sizes", "1", "-n", "2", "--json", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_more_workers_than_cpus_are_said_to_be(bench):
    n = len(os.sched_getaffinity(0)) + 1
    heads, _ = rows(bench("rate", "--quick", "--in-flight", "4", "-n", "20", "--workers", str(n)))
    assert any(f"{n + 1} processes that want a CPU each have {n - 1}" in line for line in heads), heads
    assert any(f"workers served at the end, of {n} asked for" in line for line in heads), heads


@pytest.mark.parametrize("medium", ["shm", "tcp"])
def test_an_interrupt_in_the_middle_of_bare_round_trips_is_heard_and_leaves_the_worker_free(medium):
    def interrupt(*_):
        raise KeyboardInterrupt

    room = memoryview(statistics.samples(1_000_000))
    with rfaas.Executor(1, allocator="embedded", transport=medium) as ex:
        ex.invoke(served.nothing)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            with link.RawLink(ex, link.medium_of(ex), 1 << 16) as bare:
                signal.setitimer(signal.ITIMER_REAL, 0.5)
                with pytest.raises(KeyboardInterrupt):
                    bare.block(1 << 16, room, pause_s=0.01)
            began_s = time.monotonic()
            assert ex.submit(served.echo, 7).result(30) == 7
            assert_in_time(time.monotonic() - began_s, 3)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def test_a_worker_that_dies_in_bare_round_trips_is_a_worker_lost():
    with rfaas.Executor(1, allocator="embedded", transport="tcp") as ex:
        pid = ex.invoke(served.whereabouts)[2]
        with link.RawLink(ex, link.medium_of(ex), 64) as bare:
            killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
            killer.start()
            with pytest.raises(rfaas.WorkerLost):
                bare.block(64, memoryview(statistics.samples(100_000)), pause_s=0.001)
            killer.join()
            assert bare.block(64, memoryview(statistics.samples(10))) == 10


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(bench):
    said = bench("latency", "--plot", "a.svg", code=78, program=("-c", NO_MATPLOTLIB))
    assert "pictures need matplotlib" in said
    assert "pip install rfaas[bench]" in said


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HARNESS = """
import json, sys
sys.path[:0] = sys.argv[1:4]
import programs, run
plan = {**run.QUICK, "places": ["none"], "latency_n": 10, "burst_n": 10, "echo_bytes": [4096]}
print(json.dumps([run.run_peer(run.PEERS[name], plan) for name in ("pipe", "rfaas")]))
program = programs.build("pingpong", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-Werror")
print(program)
"""


def test_the_peers_harness_measures_and_the_bare_programs_run_clean():
    folders = [BENCHMARKS / "peers", BENCHMARKS / "raw", BENCHMARKS]
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, *map(str, folders)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found, program = done.stdout.splitlines()
    for peer in json.loads(found):
        assert "error" not in peer, peer
        assert peer["places"]["none"]["n"] == peer["burst"]["n"] == 10
        assert peer["cold_ns"] > peer["places"]["none"]["p50_ns"] > 0
        assert peer["echo"]["4096"]["n"] >= 1
    ends = (min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0)))
    for medium in ("raw-shm", "raw-futex", "raw-tcp", "raw-pipe-asleep", "shm", "tcp"):
        ran = subprocess.run(
            [program, medium, "70000", "20", *map(str, ends)], capture_output=True, text=True, timeout=60
        )
        assert (ran.returncode, ran.stderr) == (0, ""), (medium, ran.stderr)
        assert json.loads(ran.stdout)["iterations"] == 20
