"""Nodes that agents left for their neighbours' sake."""

from rfaas.control.messages import Neighbours
from rfaas.control.rests import REMEMBERED_S, RestFile

LEFT = Neighbours("lmp", "leave", closed_for_s=120.0, words="lmp is slowed by 40.0%: the slice goes back")


def test_a_node_rests_as_long_as_it_was_told_and_how_often_is_remembered(tmp_path):
    rests = RestFile(tmp_path)
    assert (rests.all(0.0), rests.left("n1", 0.0)) == ({}, 0)
    rests.leave("n1", LEFT, 1000.0)
    assert rests.all(1119.0)["n1"].words == LEFT.words
    assert rests.all(1121.0) == {}
    assert RestFile(tmp_path).left("n1", 1121.0) == 1
    rests.leave("n1", LEFT, 2000.0)
    assert rests.left("n1", 2000.0) == 2
    assert rests.left("n1", 2120.0 + REMEMBERED_S) == 0
    assert rests.left("n2", 2000.0) == 0


def test_what_can_not_be_read_or_written_means_nothing(tmp_path, caplog):
    rests = RestFile(tmp_path)
    rests.leave("n1", LEFT, 0.0)
    (tmp_path / "rests" / "n1.json").write_text("{")
    assert rests.all(1.0) == {}
    (tmp_path / "file").write_text("")
    RestFile(tmp_path / "file").leave("n1", LEFT, 0.0)
    assert "rest not written" in caplog.text
