"""`rfaas slurm report` as it is typed."""

import json

import pytest
from click.testing import CliRunner

from rfaas_slurm_plugin.cli import slurm

from .test_traces import SACCT

SERIES = "time,idle_nodes,total_nodes\n" + "".join(f"{100 * i},{n},10\n" for i, n in enumerate([2, 4, 1, 3, 0]))


def ran(*arguments, stdin=None):
    result = CliRunner().invoke(slurm, ["report", *map(str, arguments)], input=stdin)
    return result.exit_code, result.output


@pytest.fixture
def series(tmp_path):
    path = tmp_path / "idle.csv"
    path.write_text(SERIES)
    return path


def test_a_series(series):
    status, text = ran("--trace", series, "--cores-per-node", 36, "--memory-per-node", "1GiB", "--json")
    assert status == 0, text
    said = json.loads(text)
    assert said["meta"]["schema"] == "rfaas/1"
    assert said["mean_idle_nodes"] == 2.5
    assert said["core_hours"] == {"all": 40.0, "of_idle_nodes": 10.0, "idle_of_shared_nodes": None}
    assert said["gib_hours"]["of_idle_nodes"] == pytest.approx(1000 / 3600, abs=1e-3)
    assert set(said["gaps"]) == {"jobs take the newest first", "jobs take the oldest first"}
    assert said["gaps"]["jobs take the oldest first"]["gaps"] == 6


def test_a_person_reads_a_table(series):
    status, text = ran("--trace", series, "--cores-per-node", 36)
    assert status == 0
    assert "idle, of shared nodes" in text
    assert "25.0 %" in text
    assert "OF NODE-HOURS" in text


def test_sacct_from_standard_input():
    status, text = ran("--from", "-", "--cores-per-node", 8, "--memory-per-node", "16GiB", "--json", stdin=SACCT)
    assert status == 0, text
    said = json.loads(text)
    assert (said["jobs"], said["nodes"]) == (2, 2)
    # n1 is idle for the first of two hours, then 4 of 8 cores are; n2 has 2 cores taken all the time and 4 more later
    assert said["core_hours"] == {"all": 32.0, "of_idle_nodes": 8.0, "idle_of_shared_nodes": 4.0 + 6.0 + 2.0}
    assert said["gib_hours"]["requested_and_unused"] == 12.0
    assert said["gaps"]["idle nodes"]["gaps"] == 1


def test_a_picture(series, tmp_path):
    status, text = ran("--trace", series, "--cores-per-node", 4, "--plot", tmp_path / "x.svg")
    assert status == 0, text
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    status, text = ran("--trace", series, "--cores-per-node", 4, "--plot", tmp_path / "no" / "x.svg")
    assert status == 78
    assert "can't be written" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trace", "{series}"], "--cores-per-node"),
        (["--trace", "{series}", "--from", "x"], "two records"),
        (["--plot", "x.svg"], "needs a record"),
        (["--trace", "/nowhere", "--cores-per-node", "1"], "/nowhere can't be read"),
        (["--from", "{series}", "--cores-per-node", "1"], "line 1: no column JobIDRaw"),
        (["--trace", "{series}", "--cores-per-node", "1", "--memory-per-node", "x"], "--memory-per-node"),
    ],
)
def test_what_is_wrong_is_said(series, arguments, words):
    status, text = ran(*(argument.format(series=series) for argument in arguments))
    assert status == 78
    assert words in text
    assert "remedy" in text


def test_without_slurm_it_says_what_else_there_is(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    status, text = ran("--json")
    assert status == 69
    assert "--trace FILE" in json.loads(text)["hint"]
