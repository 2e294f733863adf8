"""Utilisation adds up right, and the timelines show what the records say."""

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from occupancy import Event, EventKind, Kind, Lifetime, Span, assign_cores, covered_s, utilisation
from timeline import COLOURS, Layout, tick_step_s, to_svg
from timeline_text import to_text

SVG = "{http://www.w3.org/2000/svg}"
CORES = {"a": 2, "b": 1}


def span(node, core, t0_s, t1_s, kind):
    return Span(node, core, t0_s, t1_s, kind)


def test_utilisation_counts_rigid_jobs_and_calls_but_not_waiting_or_draining():
    spans = [
        span("a", 0, 0.0, 5.0, Kind.RIGID),
        span("a", 1, 0.0, 10.0, Kind.IDLE),
        span("a", 1, 2.0, 4.0, Kind.CALL),
        span("b", 0, 0.0, 1.0, Kind.DRAIN),
    ]
    used = utilisation(spans, CORES, 0.0, 10.0)
    assert (used.available_core_s, used.rigid_core_s, used.call_core_s) == (30.0, 5.0, 2.0)
    assert used.without_harvest == pytest.approx(5 / 30)
    assert used.with_harvest == pytest.approx(7 / 30)


def test_a_moment_that_a_call_and_a_rigid_job_both_claim_is_the_rigid_jobs():
    spans = [span("a", 0, 0.0, 4.0, Kind.CALL), span("a", 0, 3.0, 10.0, Kind.RIGID)]
    used = utilisation(spans, CORES, 0.0, 10.0)
    assert (used.rigid_core_s, used.call_core_s) == (7.0, 3.0)


def test_spans_are_cut_to_the_window():
    used = utilisation([span("b", 0, -5.0, 100.0, Kind.RIGID), span("a", 0, 50.0, 60.0, Kind.CALL)], CORES, 0.0, 10.0)
    assert (used.rigid_core_s, used.call_core_s) == (10.0, 0.0)


def test_the_same_time_twice_counts_once():
    assert covered_s([(0.0, 2.0), (1.0, 3.0), (1.0, 3.0), (5.0, 6.0), (9.0, 8.0)]) == 4.0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))))
def test_covered_time_is_that_of_counting_every_second(intervals):
    seconds = {second for t0_s, t1_s in intervals for second in range(t0_s, t1_s)}
    assert covered_s([(float(t0_s), float(t1_s)) for t0_s, t1_s in intervals]) == len(seconds)


@pytest.mark.parametrize(
    ("spans", "cores", "t1_s"),
    [
        ([], CORES, 0.0),
        ([], {}, 1.0),
        ([span("a", 2, 0.0, 1.0, Kind.CALL)], CORES, 1.0),
        ([span("nowhere", 0, 0.0, 1.0, Kind.CALL)], CORES, 1.0),
    ],
)
def test_utilisation_refuses_what_it_cannot_count(spans, cores, t1_s):
    with pytest.raises(ValueError, match="core"):
        utilisation(spans, cores, 0.0, t1_s)


def test_workers_take_the_lowest_core_that_is_free_and_give_it_back():
    lives = [
        Lifetime("a", 11, 0.0, 5.0),
        Lifetime("a", 12, 0.5, 9.0),
        Lifetime("a", 13, 6.0, 9.0),
        Lifetime("b", 11, 0.0, 1.0),
    ]
    assert assign_cores(reversed(lives), CORES) == {("a", 11): 0, ("a", 12): 1, ("a", 13): 0, ("b", 11): 0}


def test_more_workers_than_cores_still_get_a_core_that_exists():
    lives = [Lifetime("a", who, 0.0, 10.0 - who) for who in range(3)] + [Lifetime("a", 3, 1.0, 2.0)]
    numbers = assign_cores(lives, CORES)
    assert set(numbers.values()) == {0, 1}


@pytest.mark.parametrize(("length_s", "step_s"), [(30.0, 5.0), (12.0, 1.0), (13.0, 2.0), (0.3, 0.05), (3600.0, 500.0)])
def test_ticks_are_round_and_few(length_s, step_s):
    assert math.isclose(tick_step_s(length_s), step_s)


SPANS = [
    span("a", 0, 100.0, 110.0, Kind.IDLE),
    span("a", 0, 101.0, 104.0, Kind.CALL),
    span("a", 1, 105.0, 110.0, Kind.RIGID),
    span("a", 1, 104.99, 105.0, Kind.DRAIN),
]
EVENTS = [
    Event(104.5, EventKind.NOTICE, "a"),
    Event(104.7, EventKind.REDISPATCH, "b"),
    Event(105.0, EventKind.JOB_START, None, "jacobi <starts> & runs"),
]


def picture():
    svg = to_svg(SPANS, EVENTS, CORES, 100.0, 110.0, title="A & B", subtitle="<test>")
    return ET.fromstring(svg)


def rectangles(root, fill):
    return [
        rect for rect in root.iter(f"{SVG}rect") if rect.get("fill") == fill and rect.find(f"{SVG}title") is not None
    ]


def test_svg_is_well_formed_and_shows_all_that_is_given_as_text():
    texts = {text.text for text in picture().iter(f"{SVG}text")}
    assert {"A & B", "<test>", "a", "b", "jacobi <starts> & runs", "16.7%", "26.7%"} <= texts
    assert {kind.value for kind in Kind} <= texts
    assert {"reclaim notice", "call re-dispatched", "rigid job starts"} <= texts
    assert "rigid job ends" not in texts  # the legend explains what is there


def test_svg_bars_stand_at_the_time_and_core_of_their_record():
    layout = Layout(CORES, 100.0, 110.0)
    (call, _utilisation_bar) = rectangles(picture(), COLOURS[Kind.CALL])
    assert float(call.get("x")) == pytest.approx(layout.x(101.0), abs=0.01)
    assert float(call.get("y")) == layout.row_top("a", 0)
    assert float(call.get("width")) == pytest.approx(layout.x(104.0) - layout.x(101.0) - 1, abs=0.01)


def test_svg_shows_a_drain_however_short():
    (drain,) = rectangles(picture(), "url(#drain)")
    assert float(drain.get("width")) >= 1.0


def test_svg_of_ten_thousand_calls_stays_small():
    calls = [span("a", 0, i * 0.01, i * 0.01 + 0.005, Kind.CALL) for i in range(10_000)]
    svg = to_svg(calls, [], CORES, 0.0, 100.0, title="many")
    assert "10000 short calls on a core 0" in svg
    assert len(svg) < 100_000


def test_text_timeline_draws_the_same_records():
    lines = to_text(
        SPANS, [*EVENTS, Event(104.8, EventKind.REDISPATCH, "b")], CORES, 100.0, 110.0, columns=10
    ).splitlines()
    assert lines[2] == "a  0 .===......"
    assert lines[3] == "   1     !#####"
    assert lines[4].rstrip() == "b  0"
    assert "    4.500 s  a  reclaim notice" in lines
    assert "    4.700 s  b  call re-dispatched x 2" in lines
    assert lines[-1] == "utilisation 16.7% without harvest, 26.7% with harvest"
