"""Tables, phases and CPUs: what is printed of figures that are known."""

import json

import pytest

from rfaas.bench import cold, kinds, report
from rfaas.bench.latency import Plan, Report, Row
from rfaas.bench.noise import Noise
from rfaas.bench.pinning import Pins, Wish, choose
from rfaas.bench.statistics import summary
from rfaas_transport.errors import ConfigError

CALLS, RAW = [[2000, 3000, 4000], [5000]], [[400, 500]]
ROW = Row(64, "hot", "python", "invoke", 64, summary(CALLS), summary(RAW), CALLS, RAW)
FOUND = Report("shm", "n1", Pins(0, 1), [ROW], [Noise("load", "load 3.00")], 1.5, Plan(sizes=[64]))


def test_columns_line_up_under_their_heads():
    lines = report.columns(("BYTES", "P50"), [(1, "2.00"), (65536, "-")])
    assert lines == ["# BYTES   P50", "      1  2.00", "  65536     -"]
    wide = report.columns(("BYTES", "N"), [(1 << 26, 1)])
    assert wide == ["#  BYTES  N", "67108864  1"]  # the head begins with its mark, however wide the figures
    words = report.columns(("N", "WHAT"), [(1, "so"), (2, "and so on")], words_last=True)
    assert words == ["# N  WHAT", "  1  so", "  2  and so on"]


def test_a_latency_line_holds_the_calls_the_bare_link_and_what_is_between():
    head, line = report.latency_lines(FOUND)
    cells = dict(zip(head.removeprefix("# ").split(), line.split(), strict=True))
    assert cells["BYTES"] == "64"
    assert (cells["MIN"], cells["P50"], cells["P99"], cells["MAX"]) == ("2.00", "3.00", "-", "5.00")
    assert (cells["P50_LOW"], cells["P50_HIGH"]) == ("3.00", "5.00")
    assert (cells["RAW_P50"], cells["ADDED"], cells["X"]) == ("0.40", "2.60", "7.50")


def test_json_and_samples_hold_all_of_it():
    told = json.loads(json.dumps(report.latency_dict(FOUND)))
    assert (told["medium"], told["noise"]) == ("shm", [{"what": "load", "text": "load 3.00"}])
    assert told["rows"][0]["calls"]["p50_ns"] == 3000
    lines = list(report.sample_lines(FOUND))
    assert lines[1] == "64,hot,python,invoke,call,0,0,2000"
    assert len(lines) == 1 + 4 + 2
    assert lines[-1] == "64,hot,python,invoke,raw,0,1,500"


def test_noise_is_said_and_its_absence_too():
    assert report.noise_lines([Noise("x", "y")], 2.0) == ["# noise: y"]
    assert report.noise_lines([], 2.0) == ["# noise: none seen in 2.0 s"]


def test_a_plan_shares_its_round_trips_among_its_blocks():
    assert Plan(sizes=[1], iterations=7, blocks=3).shares() == [3, 2, 2]
    assert Plan(sizes=[1], iterations=1, blocks=3).shares() == [1, 1, 1]


MARKS = {
    **{"exec": 0, "started": 10, "imported": 30, "request": 100, "granted": 110, "template_ready": 200},
    **{"forked": 205, "sent": 215, "answered": 220},
}


def test_the_phases_of_a_start_add_up_to_all_of_it():
    found = cold.phases(MARKS)
    assert list(found) == [name for name, _ in cold.PHASES]
    assert (found["template"], sum(found.values())) == (90, 220)


def test_a_phase_that_nobody_told_of_joins_the_next():
    without = {name: at for name, at in MARKS.items() if name not in ("request", "granted", "template_ready")}
    found = cold.phases(without)
    assert found["session+lease+template+fork"] == 205 - 30
    assert sum(found.values()) == 220


def test_a_template_that_was_there_already_costs_nothing():
    found = cold.phases({**MARKS, "template_ready": 105})
    assert (found["template"], found["fork"], sum(found.values())) == (0, 95, 220)
    again = cold.phases({name: at for name, at in MARKS.items() if name != "exec"} | {"begun": 40})
    assert next(iter(again)) == "session"
    assert sum(again.values()) == 180


def test_marks_are_the_first_of_their_kind_within_the_start():
    events = [
        {"ev": "sent", "t_boot_ns": 9},
        {"ev": "sent", "t_boot_ns": 7},
        {"ev": "forked", "t_boot_ns": 5, "template_started_ns": 2, "template_ready_ns": 4},
        {"ev": "request", "t_boot_ns": 1},
        {"ev": "done", "t_boot_ns": 8},
    ]
    assert cold.marks_of(events, 2, 10) == {"template_ready": 4, "forked": 5, "sent": 7}


TWO_CORES = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
ALL = frozenset(range(4))


@pytest.mark.parametrize(
    ("ours", "theirs", "pins"),
    [
        (ALL, ALL, (0, 1)),  # another core, not the other thread of this one
        (frozenset({0, 2}), frozenset({0, 2}), (0, 2)),  # if need be that
        (frozenset({0}), frozenset({0}), (0, 0)),  # and if need be the same CPU, which is reported
        (frozenset({2, 3}), ALL, (2, 1)),
    ],
)
def test_each_side_gets_a_core_if_there_are_two(ours, theirs, pins):
    assert choose(Wish(), ours, theirs, TWO_CORES, here=True) == pins


def test_what_was_asked_for_is_what_is_pinned():
    assert choose(Wish(client_cpu=3, worker_cpu=2), ALL, ALL, TWO_CORES, here=True) == (3, 2)
    assert choose(Wish(worker_cpu=0), ALL, ALL, TWO_CORES, here=True) == (1, 0)
    assert choose(Wish(pin=False), ALL, ALL, TWO_CORES, here=True) == (None, None)
    assert choose(Wish(), ALL, ALL, {}, here=False) == (0, 0)  # CPU 0 of another node
    with pytest.raises(ConfigError, match="--worker-cpu=9"):
        choose(Wish(worker_cpu=9), ALL, ALL, TWO_CORES, here=True)


@pytest.mark.parametrize("kind", kinds.FUNCTIONS)
@pytest.mark.parametrize("size_bytes", [1, 15, 16, 17, 64, 70_000, 1 << 20])
def test_arguments_alternate_so_that_an_old_answer_is_seen(kind, size_bytes):
    made = kinds.FUNCTIONS[kind](size_bytes)
    (first,), (second,) = made.arguments
    assert len(first) == len(second) == size_bytes
    assert made.same(bytes(first), (first,))
    if size_bytes >= kinds.EDGE_BYTES:
        assert not made.same(second, (first,))
    assert not made.same(first[:-1], (first,))
    if kind != "python":
        assert made.same(made.function(first), (first,))  # functions over bytes run here too
