"""Nodes that are drained for the harvester, hostlists of names, and what `rfaas slurm status` makes of a view."""

import dataclasses
import os
import stat

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rfaas_slurm_plugin.cli.drain import drain
from rfaas_slurm_plugin.cli.status import summarise
from rfaas_slurm_plugin.harvest.drains import FILE, Drain, DrainFile
from rfaas_slurm_plugin.views.hostlist import compress, expand
from rfaas_slurm_plugin.views.view import ClusterView, Job, Node
from rfaas_transport.errors import ConfigError

NODE = Node("n1", "n1", frozenset(["IDLE"]), ("harvest",), 4, 0, 8000, 0, 0)
JOB = Job(1, "rfaas-slice", "alice", "harvest", "RUNNING", "", ("n1",), ("n1",), 4, 4000, "rfaas:abc:7", 50, 60, 0)
WHY = Drain("firmware", "root", 1000)


def view(*jobs, nodes=("n1", "n2")):
    return ClusterView(0.0, tuple(dataclasses.replace(NODE, name=name) for name in nodes), jobs)


def test_a_drained_node_is_leaving_and_unusable_and_others_are_not(tmp_path):
    file = DrainFile(tmp_path)
    assert file.applied_to(view()) == view()
    file.change({"n1": WHY, "n9": WHY})
    first, second = DrainFile(tmp_path).applied_to(view()).nodes  # by another harvester
    assert (first.usable, first.leaving, second.usable, second.leaving) == (False, True, True, False)
    assert file.change({}, frozenset(["n1"])) == {"n9": WHY}
    assert all(node.usable for node in file.applied_to(view()).nodes)
    assert stat.S_ISREG((tmp_path / FILE).stat().st_mode)


@pytest.mark.parametrize("text", ["", "[]", '{"nodes": []}', '{"nodes": {"n1": {"reason": 1}}}', "\xff"])
def test_a_file_that_is_spoiled_is_refused_and_the_harvester_goes_on_with_what_it_knew(tmp_path, text):
    file = DrainFile(tmp_path)
    file.change({"n1": WHY})
    file.applied_to(view())
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"drains\.json"):
        file.read()
    with pytest.raises(ConfigError):
        file.change({"n2": WHY})
    assert [node.usable for node in file.applied_to(view()).nodes] == [False, True]


def test_a_state_directory_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        DrainFile(tmp_path / "gone").change({"n1": WHY})


def test_no_link_that_a_user_laid_leads_the_writer_elsewhere(tmp_path):
    state, elsewhere = tmp_path / "state", tmp_path / "precious"
    state.mkdir()
    elsewhere.write_text("as it was")
    new, lock = (state / FILE).with_suffix(".new"), (state / FILE).with_suffix(".lock")
    new.symlink_to(elsewhere)
    DrainFile(state).change({"n1": WHY})
    assert (elsewhere.read_text(), DrainFile(state).read()) == ("as it was", {"n1": WHY})
    lock.unlink()
    lock.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"drains\.lock"):
        DrainFile(state).change({"n2": WHY})
    assert (elsewhere.read_text(), DrainFile(state).read()) == ("as it was", {"n1": WHY})


def test_a_writer_that_was_killed_is_no_hindrance_and_the_owner_of_the_directory_owns_the_files(tmp_path):
    (tmp_path / FILE).with_suffix(".new").write_text('{"nodes": {"n')
    DrainFile(tmp_path).change({"n1": WHY})
    owner = tmp_path.stat().st_uid
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {owner}
    assert {path.name for path in tmp_path.iterdir()} == {FILE, "drains.lock"}
    if os.geteuid() == 0:  # an administrator drains nodes of a user's harvester
        other = tmp_path / "of-a-user"
        other.mkdir()
        os.chown(other, 12345, 12345)
        DrainFile(other).change({"n1": WHY})
        assert {path.stat().st_uid for path in other.iterdir()} == {12345}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["", "--reason", "x"], "no node is named"),
        ([",", "--reason", "x"], "no node is named"),
        (["n[1", "--reason", "x"], "NODES: hostlist 'n[1': a bracket is not closed"),
        (["n1", "--reason", " "], "--reason is empty"),
        (["n1", "--reason", "x", "--wait", "nan"], "no number of seconds"),
    ],
)
def test_words_that_mean_nothing_are_refused_before_anything_is_asked(words, said):
    done = CliRunner().invoke(drain, words)
    assert (done.exit_code in (2, 78), said in done.output) == (True, True), done.output


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["n1", "n2", "n3", "n7"], "n[1-3,7]"),
        (["n09", "n10", "n1"], "n1,n[09-10]"),
        (["login", "n4"], "login,n4"),
        (["r1c2", "r1c3", "r2c2"], "r1c[2-3],r2c2"),
        ([], ""),
    ],
)
def test_names_become_a_hostlist(names, text):
    assert compress(names) == text


@given(st.lists(st.from_regex(r"[a-z]{0,2}[0-9a-z-]{0,3}[0-9]{0,3}", fullmatch=True).filter(bool), unique=True))
def test_a_hostlist_has_the_names_that_it_was_made_of(names):
    assert sorted(expand(compress(names))) == sorted(names)


def test_slices_of_all_users_are_shown_and_only_what_was_taken_back_today_is_counted():
    ended = dataclasses.replace(JOB, job_id=2, state="PREEMPTED", end_time_s=500)
    jobs = (
        JOB,
        ended,
        dataclasses.replace(ended, job_id=3, end_time_s=90),  # yesterday
        dataclasses.replace(ended, job_id=4, state="COMPLETED", preempt_time_s=499),  # left within its grace
        dataclasses.replace(ended, job_id=5, state="COMPLETED"),  # left by itself
        dataclasses.replace(ended, job_id=6, comment="other"),
        dataclasses.replace(JOB, job_id=7, user="bob", state="PENDING", nodes=(), required_nodes=("n2",)),
        dataclasses.replace(JOB, job_id=8, comment=""),
    )
    found = summarise(view(*jobs), midnight_s=100)
    shown = [(one.node, one.user, one.job_id, one.since_s, one.allocator) for one in found.slices]
    assert shown == [("n1", "alice", 1, 60, "abc"), ("n2", "bob", 7, 50, "abc")]
    assert (found.preempted_today, found.usable_nodes, found.cores) == (2, 2, 8)
    assert [one.job_id for one in summarise(view(*jobs), 100, {"n2"}).slices] == [7]
