"""The checker finds what is planted, and nothing where nothing is (docs/spec/005-event-log.md section 3)."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rfaas.control import eventlog
from rfaas.control.invariants import CHECKS, check, check_directory

SPEC = Path(__file__).parents[3] / "docs" / "spec" / "005-event-log.md"


class Story:
    """Writes events as the processes of a run would, one nanosecond after the other."""

    def __init__(self):
        self.events = []
        self.t_boot_ns = 0

    def add(self, role, ev, *, pid=1, **fields):
        self.t_boot_ns += 1
        event = {"t_boot_ns": self.t_boot_ns, "host": "h", "pid": pid, "role": role, "ev": ev, **fields}
        self.events.append(event)
        return event

    def agent(self, slice_="s1", epoch=1, alloc="a"):
        self.add("allocator", "epoch", alloc=alloc, slice=slice_, node="n1", node_epoch=epoch)
        self.add("agent", "epoch", slice=slice_, node="n1", node_epoch=epoch)

    def lease(self, lease, seq, cores=(0,), slice_="s1", epoch=1, alloc="a"):
        common = {"lease": lease, "lease_seq": seq, "slice": slice_, "node": "n1", "node_epoch": epoch}
        self.add("allocator", "grant_proposed", alloc=alloc, client="c", alloc_epoch=1, workers=1, **common)
        self.add("agent", "grant_accepted", cores=list(cores), mem=1, **common)
        self.add("allocator", "grant_accepted", alloc=alloc, client="c", cores=list(cores), mem=1, **common)
        self.add("allocator", "grant_acked", alloc=alloc, client="c", lsn=1, **common)

    def end(self, lease, slice_="s1"):
        self.add("agent", "fence", lease=lease, slice=slice_)
        self.add("agent", "proof_of_death", lease=lease, slice=slice_)
        self.add("agent", "free", lease=lease, slice=slice_, lease_seq=1, reason="released")
        self.add("allocator", "free", lease=lease, slice=slice_, lease_seq=1, reason="released")

    def submit(self, inv, pid=7, **settings):
        settings = {"idempotent": False, "retries": 0} | settings
        self.add("client", "submit", pid=pid, client="c", inv=inv, **settings)

    def run(self, inv, call_id, lease="l1", channel=1):
        self.add("client", "sent", client="c", inv=inv, attempt=0, call_id=call_id, channel=channel, lease=lease)
        about = {"client": "c", "channel": channel, "call_id": call_id, "attempt": 0, "lease": lease}
        self.add("worker", "started", **about)
        self.add("worker", "done", **about)

    def resolve(self, inv, outcome="result", may_have_run=True, code=""):
        self.add("client", "resolved", client="c", inv=inv, outcome=outcome, may_have_run=may_have_run, code=code)

    def found(self):
        return [(violation.invariant, violation.text) for violation in check(self.events)]


@pytest.fixture
def story():
    story = Story()
    story.add("allocator", "restart", alloc="a", alloc_epoch=1, leases=0, slices=0)
    story.agent()
    return story


def test_a_run_without_faults_breaks_nothing(story):
    story.lease("l1", 1, cores=(0, 1))
    for inv in range(1, 5):
        story.submit(inv)
        story.run(inv, call_id=inv)
        story.resolve(inv)
    story.end("l1")
    story.lease("l2", 2, cores=(1,))
    story.submit(9)
    story.resolve(9, "cancelled", may_have_run=False)
    story.end("l2")
    assert story.found() == []


def test_no_events_break_nothing():
    assert check([]) == []


# --- I1 ------------------------------------------------------------------------------------------


def test_a_core_given_to_a_second_lease_is_found(story):
    story.lease("l1", 1, cores=(0, 1))
    story.lease("l2", 2, cores=(1, 2))
    assert story.found() == [("I1", "core 1 of slice s1 was given to a second lease while the first held it")]


def test_a_core_given_again_just_before_it_was_free_is_found(story):
    story.lease("l1", 1)
    story.add("agent", "proof_of_death", lease="l1", slice="s1")
    story.lease("l2", 2)
    story.add("agent", "free", lease="l1", slice="s1", lease_seq=1, reason="released")
    assert [invariant for invariant, _ in story.found()] == ["I1"]


def test_the_same_core_number_of_another_slice_is_another_core(story):
    story.agent("s2", epoch=2)
    story.lease("l1", 1)
    story.lease("l2", 2, slice_="s2", epoch=2)
    assert story.found() == []


def test_what_a_dead_agent_held_is_free_when_the_allocator_says_so(story):
    story.lease("l1", 1)
    story.add("allocator", "proof_of_death", lease="l1", slice="s1", by="job FAILED")
    story.add("allocator", "free", lease="l1", slice="s1", lease_seq=1, reason="lost")
    story.lease("l2", 2)
    assert story.found() == []


@pytest.mark.parametrize(("clean", "found"), [(True, []), (False, ["I1"])])
def test_what_a_dead_agent_had_accepted_unheard_ends_with_its_clean_successor(story, clean, found):
    accepted = {"slice": "s1", "node": "n1", "node_epoch": 1, "cores": [0], "mem": 1}
    story.add("agent", "grant_accepted", lease="l1", lease_seq=1, **accepted)
    story.add("agent", "epoch", pid=2, slice="s1", node="n1", node_epoch=2, clean=clean)
    story.add("agent", "grant_accepted", pid=2, lease="l2", lease_seq=2, **accepted | {"node_epoch": 2})
    assert [invariant for invariant, _ in story.found()] == found


# --- I2 ------------------------------------------------------------------------------------------


def memory_story(story, size):
    story.add("agent", "epoch", slice="s2", node="n1", node_epoch=1, clean=True, cores=8, mem=size)


def hold(story, lease, mem, core, pid=1):
    story.add(
        "agent", "grant_accepted", pid=pid, lease=lease, lease_seq=1, slice="s2", node="n1", node_epoch=1,
        cores=[core], mem=mem,
    )  # fmt: skip


@pytest.mark.parametrize(("size", "found"), [(9, ["I2"]), (10, [])])
def test_memory_given_out_beyond_the_slice_is_found(story, size, found):
    memory_story(story, size)
    hold(story, "m1", 4, 0)
    hold(story, "m2", 6, 1)
    assert [violation[0] for violation in story.found()] == found


def test_memory_that_was_freed_may_be_given_again(story):
    memory_story(story, 10)
    hold(story, "m1", 9, 0)
    story.end("m1", slice_="s2")
    hold(story, "m2", 10, 0)
    assert story.found() == []


def test_memory_of_a_dead_agents_leases_is_free_with_its_clean_successor(story):
    memory_story(story, 10)
    hold(story, "m1", 9, 0)
    story.add("agent", "epoch", pid=2, slice="s2", node="n1", node_epoch=2, clean=True, cores=8, mem=10)
    hold(story, "m2", 10, 0, pid=2)
    assert story.found() == []


# --- I15 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("billed_s", "found"), [(20.0, []), (20.25, []), (19.75, []), (20.4, ["I15"]), (0.0, ["I15"])])
def test_what_is_billed_beside_what_was_held_is_found(story, billed_s, found):
    story.lease("l1", 1, cores=(0, 1))
    story.t_boot_ns += 10_000_000_000
    story.add("agent", "proof_of_death", lease="l1", slice="s1")
    story.add("agent", "free", lease="l1", slice="s1", lease_seq=1, reason="released")
    bill = {"billed_core_ns": round(billed_s * 1e9)}
    story.add("allocator", "free", lease="l1", slice="s1", lease_seq=1, reason="released", **bill)
    assert [violation[0] for violation in story.found()] == found


def test_an_acceptance_that_was_logged_twice_is_one_lease(story):
    story.lease("l1", 1)
    story.events.append(dict(story.events[4]) | {"t_boot_ns": 99})
    assert story.found() == []


# --- I5 ------------------------------------------------------------------------------------------


def test_a_call_that_is_never_resolved_is_found(story):
    story.submit(1)
    assert story.found() == [("I5", "call 1 of client c was never resolved")]


def test_a_call_of_a_killed_client_may_stay_unresolved(story):
    story.submit(1, pid=7)
    story.submit(2, pid=8)
    story.add("test", "fault_start", what="kill", target_pid=7)
    assert story.found() == [("I5", "call 2 of client c was never resolved")]


def test_a_call_resolved_twice_is_found(story):
    story.submit(1)
    story.resolve(1)
    story.resolve(1, "error")
    assert story.found() == [("I5", "call 1 of client c was resolved 2 times")]


def test_a_call_that_nobody_submitted_is_found(story):
    story.resolve(1)
    assert story.found() == [("I5", "call 1 of client c was resolved but never submitted")]


def test_a_number_used_for_two_calls_is_found(story):
    story.submit(1)
    story.submit(1)
    story.resolve(1)
    assert story.found() == [("I5", "call 1 of client c was submitted 2 times")]


# --- I6 ------------------------------------------------------------------------------------------


def test_a_call_that_ran_twice_is_found(story):
    story.submit(1)
    story.run(1, call_id=1)
    story.run(1, call_id=2)
    story.resolve(1)
    assert story.found() == [("I6", "call 1 of client c ran 2 times, 1 are allowed")]


def test_a_dispatch_that_a_worker_started_twice_is_found(story):
    story.submit(1)
    story.run(1, call_id=1)
    story.events.append(dict(story.events[-2]) | {"t_boot_ns": 98})
    story.resolve(1)
    assert story.found() == [("I6", "call 1 of client c ran 2 times, 1 are allowed")]


def test_equal_call_ids_on_two_channels_are_two_calls(story):
    for inv, channel in ((1, 1), (2, 2)):
        story.submit(inv)
        story.run(inv, call_id=1, channel=channel)
        story.resolve(inv)
    assert story.found() == []


@pytest.mark.parametrize(("runs", "broken"), [(13, False), (14, True)])
def test_an_idempotent_call_may_run_for_its_retries_and_reclaims(story, runs, broken):
    story.submit(1, idempotent=True, retries=2)
    for call_id in range(runs):
        story.run(1, call_id)
    story.resolve(1)
    assert [invariant for invariant, _ in story.found()] == ["I6"] * broken


def test_retries_without_idempotent_allow_nothing(story):
    story.submit(1, retries=5)
    story.run(1, 1)
    story.run(1, 2)
    story.resolve(1)
    assert [invariant for invariant, _ in story.found()] == ["I6"]


@pytest.mark.parametrize("outcome", ["error", "cancelled"])
def test_a_call_said_not_to_have_started_that_did_is_found(story, outcome):
    story.submit(1)
    story.run(1, 1)
    story.resolve(1, outcome, may_have_run=False)
    text = f"call 1 of client c is said not to have started ({outcome}), but it has"
    assert story.found() == [("I6", text)]


def test_a_call_that_was_sent_and_never_started_may_be_said_so(story):
    story.submit(1)
    story.add("client", "sent", client="c", inv=1, attempt=0, call_id=1, channel=1, lease="l1")
    story.resolve(1, "error", may_have_run=False)
    assert story.found() == []


def test_the_functions_own_witness_counts_too(story):
    story.submit(1)
    story.run(1, 1)
    story.add("test", "started", client="c", inv=1)
    story.resolve(1)
    assert story.found() == []
    story.add("test", "started", client="c", inv=1)
    assert [invariant for invariant, _ in story.found()] == ["I6"]


def test_the_work_of_a_client_that_writes_no_log_is_left_alone(story):
    story.add("worker", "started", client="other", channel=1, call_id=1, lease="l1")
    assert story.found() == []


# --- I14 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [1, 0])
def test_a_life_of_the_allocator_with_an_old_number_is_found(story, second):
    story.add("allocator", "restart", alloc="a", alloc_epoch=second)
    assert story.found() == [("I14", f"alloc_epoch went from 1 to {second}")]


def test_another_allocator_counts_for_itself(story):
    story.add("allocator", "restart", alloc="b", alloc_epoch=1)
    story.agent("s9", epoch=1, alloc="b")
    story.lease("l9", 1, slice_="s9", alloc="b")
    assert story.found() == []


def test_a_lease_seq_that_falls_is_found(story):
    story.lease("l1", 5)
    story.lease("l2", 4, cores=(1,))
    assert story.found() == [("I14", "lease_seq went from 5 to 4")]


def test_a_lease_seq_used_twice_is_found(story):
    story.lease("l1", 5)
    story.lease("l2", 5, cores=(1,))
    assert story.found() == [
        ("I14", "lease_seq went from 5 to 5"),
        ("I14", "lease_seq 5 was used for two leases"),
    ]


def test_an_epoch_given_twice_is_found(story):
    story.add("allocator", "epoch", alloc="a", slice="s1", node="n1", node_epoch=1)
    assert story.found() == [("I14", "node_epoch went from 1 to 1")]


def test_an_agent_that_falls_back_to_an_old_epoch_is_found(story):
    story.agent(epoch=3)
    story.lease("l1", 1, epoch=3)
    story.lease("l2", 2, cores=(1,), epoch=2)
    assert story.found() == [("I14", "node_epoch went from 3 to 2")]


# --- I17 -----------------------------------------------------------------------------------------


def test_a_lease_freed_without_proof_is_found(story):
    story.lease("l1", 1)
    story.add("agent", "free", lease="l1", slice="s1", lease_seq=1, reason="released")
    assert story.found() == [("I17", "lease l1 was freed without proof of death")]


def test_a_proof_that_comes_after_the_freedom_is_found(story):
    story.lease("l1", 1)
    story.add("agent", "free", lease="l1", slice="s1", lease_seq=1, reason="released")
    story.add("agent", "proof_of_death", lease="l1", slice="s1")
    assert story.found() == [("I17", "lease l1 was freed without proof of death")]


def test_a_proof_of_another_lease_is_none(story):
    story.lease("l1", 1)
    story.add("agent", "proof_of_death", lease="l2", slice="s1")
    story.add("agent", "free", lease="l1", slice="s1", lease_seq=1, reason="released")
    assert [invariant for invariant, _ in story.found()] == ["I17"]


def test_a_call_that_starts_after_the_proof_is_found(story):
    story.lease("l1", 1)
    story.submit(1)
    story.end("l1")
    story.run(1, 1, lease="l1")
    story.resolve(1)
    assert story.found() == [("I17", "a call started on lease l1 after its workers were proven dead")]


# --- files and speed -----------------------------------------------------------------------------


def test_what_the_event_log_writes_is_read_back_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("RFAAS_EVENT_LOG", str(tmp_path))
    log = eventlog.EventLog.from_environment("client")
    log.write("submit", client=b"\x01\x02", inv=1, idempotent=False, retries=0)
    (violation,) = check_directory(tmp_path)
    assert violation.text == "call 1 of client 0102 was never resolved"
    log.write("resolved", client=b"\x01\x02", inv=1, outcome="result", may_have_run=True, code="")
    assert check_directory(tmp_path) == []


@pytest.mark.parametrize("line", ['{"t_boot_ns": 1', "[]", "{}", '"text"', ""])
def test_a_line_that_is_no_event_is_found(tmp_path, line):
    (tmp_path / "agent-h-1.jsonl").write_text(line + "\n")
    (violation,) = check_directory(tmp_path)
    assert violation.invariant == "log"
    assert "agent-h-1.jsonl:1" in violation.text


def test_the_command_says_what_is_broken_and_how_it_ended(tmp_path, story):
    story.submit(1)
    lines = "".join(json.dumps(event) + "\n" for event in story.events)
    (tmp_path / "all-h-1.jsonl").write_text(lines)

    def run(*arguments):
        command = [sys.executable, "-m", "rfaas.control.invariants", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    code, said, _ = run(tmp_path)
    assert code == 1
    assert said.startswith("I5: call 1 of client c was never resolved\n    {")
    assert said.endswith("4 events, 1 violations\n")
    with (tmp_path / "all-h-1.jsonl").open("a") as log:
        story.resolve(1)
        log.write(json.dumps(story.events[-1]) + "\n")
    assert run(tmp_path)[0] == 0
    assert run()[0] == run(tmp_path / "nowhere")[0] == 2


def test_the_spec_names_every_event_and_every_invariant():
    text = SPEC.read_text()
    named = set(re.findall(r"[a-z_]+", "".join(line.split("|")[1] for line in text.splitlines() if "| " in line)))
    assert named >= eventlog.EVENTS
    assert all(f"| {invariant} |" in text for invariant in ("I1", "I2", "I5", "I6", "I14", "I15", "I17", "log"))
    assert len(CHECKS) == 7
