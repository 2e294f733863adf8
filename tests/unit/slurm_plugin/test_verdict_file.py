"""Verdicts on their way from the harvester to `rfaas explain`."""

import json

from rfaas.cli import slurm_words
from rfaas_slurm_plugin.harvest.verdict_file import VERDICTS, VerdictFile
from rfaas_slurm_plugin.policy.rules import Verdict, Why


def test_what_the_harvester_writes_explain_reads(tmp_path, monkeypatch):
    VerdictFile(tmp_path / VERDICTS).write({"n1": Verdict(Why.OPTED_OUT, "17")}, 1000.0)
    monkeypatch.setattr(slurm_words.time, "time", lambda: 1010.0)
    (reason,) = slurm_words.verdict(tmp_path, "n1")
    assert reason.text == "harvester: job 17 runs there and asked not to have company (--comment=rfaas=off)"
    monkeypatch.setattr(slurm_words.time, "time", lambda: 1400.0)
    (reason,) = slurm_words.verdict(tmp_path, "n1")
    assert "(400 s ago: does the harvester run?" in reason.text
    assert slurm_words.verdict(tmp_path, "n2") == []


def test_a_file_that_is_missing_or_broken_says_nothing(tmp_path):
    assert slurm_words.verdict(tmp_path, "n1") == []
    for text in ("", "[]", '{"nodes": {"n1": 3}, "at_unix_s": 1}'):
        (tmp_path / VERDICTS).write_text(text)
        assert slurm_words.verdict(tmp_path, "n1") == []


def test_it_is_written_when_something_changed_or_a_minute_has_passed(tmp_path):
    path = tmp_path / VERDICTS
    file = VerdictFile(path)
    verdicts = {"n1": Verdict(Why.ALLOCATED)}

    def written_at():
        return json.loads(path.read_text())["at_unix_s"]

    file.write(verdicts, 1000.0)
    file.write(dict(verdicts), 1010.0)
    assert written_at() == 1000
    file.write(verdicts, 1060.0)
    assert written_at() == 1060
    file.write({**verdicts, "n2": Verdict(Why.CAP)}, 1061.0)
    assert written_at() == 1061
