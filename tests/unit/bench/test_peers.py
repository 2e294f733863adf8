"""The peers' harness: what is made of results, and that it finds wrong answers."""

import csv
import io
import json

import driver
import goals
import pytest
import records
import run
import table
from adapters import PEERS


def peer_row(name, number, p50_us, burst=None, place="none"):
    place_of = {"p50_ns": p50_us * 1000, "p99_ns": None}
    slower = {"p50_ns": p50_us * 3000, "p99_ns": p50_us * 9000}
    places = {"none": slower, "split": slower, place: place_of}
    echo = {str(1 << 20): {"p50_ns": 1 << 21}}  # one byte a nanosecond
    made = {"round": number, "peer": name, "places": places, "echo": echo, "cold_ns": 2 * 10**9, "noise": []}
    return {**made, "burst": burst and {"n": 10, "per_s": burst}}


ROWS = [
    *(peer_row("raw_shm", n, 1) for n in (1, 2, 3)),
    *(peer_row("process_pool", n, 100 * n, burst=1000 * n) for n in (1, 2, 3)),
    *(peer_row("rfaas", n, 2 * n, burst=20_000 * n, place="split") for n in (1, 2)),
    {**peer_row("rfaas", 3, 6, place="split"), "noise": [{"what": "steal", "text": ""}]},
]


def test_ratios_are_made_within_a_round_and_the_best_place_is_taken():
    ours = next(line for line in table.lines(ROWS) if line.peer == "rfaas")
    assert (ours.place, ours.rounds, ours.noise) == ("split", 3, "steal")
    assert ours.us == (4, 2, 6, 3)
    assert ours.over_pool == (0.02, 0.02, 0.02, 3)  # though both are three times as slow in the last round
    assert ours.over_raw[:3] == (4, 2, 6)
    assert ours.burst_over_pool == (20, 20, 20, 2)  # of the rounds in which both have one
    assert ours.echo_gb_per_s[1 << 20].median == 1
    assert ours.cold_s.median == 2
    assert ours.p99_us is None


ABOUT = {
    **{"date": "2026-01-02", "command": "x", "memory_bytes": 1 << 33, "versions": {}},
    "machine": {"cpu": "C", "cpus": 2, "kernel": "6", "python": "3.11", "rfaas": "0"},
}


def test_every_form_holds_every_peer_fastest_first():
    made = table.lines(ROWS)
    assert [line.peer for line in made] == ["raw_shm", "rfaas", "process_pool"]
    text = table.markdown(made, ABOUT, PEERS)
    assert "| rfaas | 4 (2-6) | - |" in text
    assert "Not measured: " in text
    assert "ray" in text.partition("Not measured: ")[2]
    found = {row["peer"]: row for row in csv.DictReader(io.StringIO(table.as_csv(made)))}
    assert (found["rfaas"]["us_low"], found["raw_shm"]["burst_per_s_median"]) == ("2.0", "")


def test_what_was_cut_off_or_failed_is_measured_again(tmp_path):
    path = tmp_path / "peers.jsonl"
    said = []
    records.add(path, {"round": 1, "peer": "a", "took_s": 2}, said.append)
    records.add(path, {"round": 1, "peer": "b", "error": "no", "took_s": 2}, said.append)
    with path.open("a") as file:
        file.write(json.dumps({"round": 1, "peer": "c"})[:-4])
    assert said == ["2 s", "no"]
    assert set(records.load(path, "peer")) == {(1, "a")}
    assert records.load(tmp_path / "nothing", "peer") == {}


def test_a_round_has_each_once_in_an_order_of_its_own():
    names = [str(n) for n in range(20)]
    turns = list(run.turns(names, 3))
    assert turns == list(run.turns(names, 3))
    orders = [[name for number, name in turns if number == n] for n in (1, 2, 3)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len(set(map(tuple, orders))) == 3


class Liar:
    """Answers right, but for one call."""

    def __init__(self, wrong_call):
        self.calls, self.wrong_call = 0, wrong_call

    def call(self, _function, value):
        self.calls += 1
        return value if self.calls != self.wrong_call else value - 1 if isinstance(value, int) else value[:-1]

    def burst(self, function, values):
        return [self.call(function, value) for value in values]


@pytest.mark.parametrize("measure", [lambda a: driver.latency(a, 20, 9), lambda a: driver.burst(a, 50, 1)])
@pytest.mark.parametrize("wrong_call", [1, 45])
def test_one_wrong_answer_spoils_a_figure(measure, wrong_call):
    measure(Liar(0))
    with pytest.raises(driver.WrongAnswer):
        measure(Liar(wrong_call))


def test_an_echo_of_something_else_spoils_a_figure():
    assert len(driver.echo(Liar(0), 4096, 5, 9)) == 5
    with pytest.raises(driver.WrongAnswer):
        driver.echo(Liar(3), 4096, 5, 9)


def shm_round(added_ns, warm_ns):
    def row(state, call, p50, raw):
        how = {"size_bytes": 0, "state": state, "call": call, "function": "python"}
        return {**how, "calls": {"p50_ns": p50}, "raw": {"p50_ns": raw}, "added_ns": p50 - raw}

    rows = [row("hot", "invoke", 200 + added_ns, 200), row("hot", "submit", 3 * (200 + added_ns), 200)]
    return {"shm": {"rows": [*rows, row("warm", "invoke", warm_ns, 10_000)]}}


def test_a_goal_is_met_by_the_median_of_the_rounds_that_have_it():
    rounds = [shm_round(2000, 15_000), shm_round(2500, 15_000), shm_round(90_000, 15_000), {}]
    by_name = {goal.name: goals.judged(goal, rounds) for goal in goals.GOALS}
    added = by_name["Python no-op, invoke, shm, hot: added to raw"]
    assert added == ((2500, 2000, 90_000, 3), True)
    assert by_name["submit().result() over invoke, shm, hot"] == ((3, 3, 3, 3), False)
    assert by_name["Ray actor over the same"] == (None, None)
    warm = next(one for name, one in by_name.items() if name.startswith("warm"))
    assert warm[0].high == 15_000 / (13_000 + 2000)
    text = "\n".join(goals.lines(rounds))
    assert "| <= 2600 ns | 2,500 ns | 2,000 to 90,000 | 3 | yes |" in text
    assert "| <= 1.5 | 3 | 3 to 3 | 3 | NO |" in text
    assert "| >= 150 | - | - | 0 | not measured |" in text


def test_noise_that_differs_by_its_number_is_told_once():
    assert records.shortened(["took 9.5 % of CPU 1", "2 others", "took 0.1 % of CPU 1", "took 10 % of CPU 1"]) == [
        "2 others",
        "took 0.1 to 10 % of CPU 1 (3 times)",
    ]
    assert records.shortened(["a quota stopped it"]) == ["a quota stopped it"]
