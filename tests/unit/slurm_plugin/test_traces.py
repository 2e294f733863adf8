"""Records of the past: what sacct prints, series of idle nodes, and lines that make no sense."""

import pytest

from rfaas_slurm_plugin.report.traces import PastJob, Sample, read_idle_series, read_sacct
from rfaas_transport.errors import ConfigError

HEADER = "JobIDRaw|State|Start|End|AllocNodes|AllocCPUS|AllocTRES|NodeList|NTasks|MaxRSS"
GIB = 1 << 30
SACCT = f"""\
{HEADER}
17|COMPLETED|2026-03-01T10:00:00|2026-03-01T11:00:00|2|8|billing=8,cpu=8,mem=16G,node=2|n[1-2]||
17.batch|COMPLETED|2026-03-01T10:00:00|2026-03-01T11:00:00|1|4|cpu=4,mem=8G|n1|1|1000K
17.0|COMPLETED|2026-03-01T10:00:00|2026-03-01T11:00:00|2|8|cpu=8,mem=16G|n[1-2]|8|512M
18|CANCELLED by 0|Unknown|2026-03-01T10:30:00|0|0||None assigned||
19|RUNNING|2026-03-01T09:00:00|Unknown|1|2|cpu=2,mem=1.5G|n2||
"""


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()


def test_allocations_and_what_their_steps_used():
    first, second = read_sacct(SACCT.splitlines(), "x")
    assert first == PastJob("19", ("n2",), 1772355600.0, float("inf"), 2, 3 * GIB // 2, None)
    assert second == PastJob("17", ("n1", "n2"), 1772359200.0, 1772362800.0, 8, 16 * GIB, 8 * 512 << 20)


def test_columns_may_stand_in_any_order_beside_others():
    text = "NodeList|Elapsed|AllocCPUS|End|Start|JobIDRaw\nn1|1|4|20|10|3\n"
    assert read_sacct(text.splitlines(), "x") == [PastJob("3", ("n1",), 10.0, 20.0, 4, 0)]


@pytest.mark.parametrize(
    ("number", "line", "words"),
    [
        (2, "17|COMPLETED|soon|2026-03-01T11:00:00|1|8||n1||", "'soon' is no time"),
        (2, "17|COMPLETED|10|20|1|many||n1||", "many"),
        (2, "17|COMPLETED|10|20|1|8||n[1-||", "bracket"),
        (2, "17|COMPLETED|10|20|1|8|mem=much|n1||", "'much' is no size"),
        (2, f"17|COMPLETED|10|20|1|8|mem={'9' * 400}G|n1||", "is no size"),
        (2, "17|COMPLETED|20|10|1|8||n1||", "ends before it starts"),
        (2, "17|COMPLETED|20", "not as many cells"),
    ],
)
def test_a_line_of_sacct_that_makes_no_sense_is_named(number, line, words):
    with pytest.raises(ConfigError, match=f"file, line {number}: ") as caught:
        read_sacct([HEADER, line], "file")
    assert words in caught.value.message


def test_a_job_may_have_more_cpus_than_any_cluster_has_nodes():
    (job,) = read_sacct([HEADER, "17|COMPLETED|10|20|9000|1200000||n[1-9000]|1200000|1K"], "x")
    assert (job.cores, len(job.nodes)) == (1_200_000, 9000)


def test_a_series_from_a_spreadsheet_may_begin_with_a_byte_order_mark():
    assert read_idle_series(["\ufefftime,idle_nodes", "0,1", "9,2"], "x") == [Sample(0.0, 1), Sample(9.0, 2)]


@pytest.mark.parametrize(
    ("line", "words"),
    [("5,", "idle_nodes is empty"), ("5,3,2", "3 nodes are idle of 2"), (f"5,{'9' * 200_000}", "field larger")],
)
def test_an_idle_series_says_how_many_and_never_more_than_there_are(line, words):
    lines = ["time,idle_nodes,total_nodes" if line.count(",") == 2 else "time,idle_nodes", line, line]
    with pytest.raises(ConfigError, match=f"file, line 2: {words}"):
        read_idle_series(lines, "file")


def test_a_missing_column_and_the_command_that_prints_it():
    with pytest.raises(ConfigError, match="no column End, NodeList") as caught:
        read_sacct(["JobIDRaw|Start|AllocCPUS"], "file")
    assert caught.value.hint.startswith("sacct ")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["time,idle_nodes", "100,5", "50,7"], [Sample(50.0, 7), Sample(100.0, 5)]),
        ([",date,idle_nodes,total_nodes", "0,18-03-22 17:35:39,1,9", "1,18-03-22 17:35:40,2,9"], None),
        (["Timestamp,total_nodes,idle_nodes", "2022-03-18T17:35:39+00:00,9,1", "", "2022-03-18 17:35:40,9,2"], None),
    ],
)
def test_series(lines, expected):
    expected = expected or [Sample(1647624939.0, 1, 9), Sample(1647624940.0, 2, 9)]
    assert read_idle_series(lines, "x") == expected


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a,b", "1,2"], "line 1: no column time"),
        (["time,b", "1,2"], "line 1: no column idle_nodes"),
        (["time,idle_nodes", "1,2", "2,x"], "line 3: "),
        (["time,idle_nodes", "1,2", "2"], "line 3: it has not as many cells"),
        (["time,idle_nodes", "1,2", "2,-1"], "line 3: '-1' is no count"),
        (["time,idle_nodes", "1,2", "2,99999999999"], "line 3: '99999999999' is no count"),
        (["time,idle_nodes", "1,2", "nan,1"], "line 3: 'nan' is no time"),
        (["time,idle_nodes", "1,2", "1e300,1"], "line 3: '1e300' is no time"),
        (["time,idle_nodes", "1,2", "0001-01-01,1"], "line 3: '0001-01-01' is no time"),
        (["time,idle_nodes", "1,2"], "x has 1 samples"),
        ([], "line 1: no column"),
    ],
)
def test_a_series_that_makes_no_sense(lines, words):
    with pytest.raises(ConfigError, match=words):
        read_idle_series(lines, "x")
