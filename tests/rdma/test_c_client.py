"""Programs in C whose calls go over RDMA: what comes back, what goes wrong, which medium it is, and what is left.

The same program as in tests/system/test_c_client.py, the client and what speaks to devices under the sanitizers.
"""

import os
import re
import shutil
import signal
import time

import pytest

from rfaas_transport import verbs
from support import c_client
from support.deadlines import SLACK
from support.leftovers import children
from support.over_rdma import TIMEOUT_S, address, explained
from support.rdma_limits import with_locked_memory, without_library
from support.session_of_c import SessionOfC, answer_of_helper, echo_until_the_end, helper_that_answers
from support.soak import scaled
from support.verbs_objects import kernel_objects

pytestmark = pytest.mark.rdma
IN_GUEST = bool(os.environ.get("RFAAS_RDMA_GUEST"))
TIMES = 10 if IN_GUEST else SLACK  # emulated CPUs
ANSWER_S = 1.0  # the goal for what is told of a failure
SET_UP_S = 5.0  # a worker's first frame, docs/spec/004-session.md section 7
LARGEST_BYTES = 1 << 20 if IN_GUEST else 0


@pytest.fixture(autouse=True)
def _no_event_log(monkeypatch):
    monkeypatch.delenv("RFAAS_EVENT_LOG", raising=False)


@pytest.fixture(scope="module")
def programs():
    return c_client.over_rdma()


@pytest.fixture(scope="module")
def answer(to_another_host):
    """What their helper tells programs, asked once: to start an interpreter for each takes seconds in the guest."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RFAAS_ALLOCATOR", str(to_another_host.state_dir))
        return answer_of_helper()


@pytest.fixture
def start(programs, answer, tmp_path, monkeypatch):
    """Starts the program in a command; RDMA or nothing, unless a test says otherwise.

    What else it asks for is in the answer of a real helper, which has it from the program: so it is given here.
    """

    def begin(*words, program=programs[0], before=(), transport="verbs", **settings):
        told = answer | {"transport": transport, "workers": 2} | settings
        helper = helper_that_answers(tmp_path / transport, told)
        monkeypatch.setenv("RFAAS_PYTHON", str(helper))
        return keep(c_client.Running(*before, program, programs[1], *words, timeout_s=TIMEOUT_S))

    with c_client.ended_after() as keep:
        yield begin


@pytest.fixture
def start_long(start, tmp_path):
    """Have a call run for a minute; returns the program, and its worker's pid."""

    def begin(command="long", **settings):
        witness = tmp_path / f"runs-{command}"
        return c_client.in_a_long_call(start(command, 60_000, witness, **settings), witness, TIMEOUT_S)

    return begin


# ---- as over any medium ----


def test_many_calls_one_after_the_other_share_one_connection(start):
    start("invoke-on-one", scaled(2000, 200_000)).finish()


def test_many_calls_at_a_time_are_answered_once_each(start):
    start("submit", scaled(300, 20_000)).finish()


def test_payloads_of_all_sizes_in_the_ring_and_by_rendezvous(start):
    start("sizes", LARGEST_BYTES).finish()


def test_threads_share_a_client(start):
    start("threads").finish()


def test_time_outs_and_cancelling(start):
    output = start("time-outs", workers=1).finish()
    assert re.search(r"code=deadline-exceeded reason=17 may_have_run=1 phase=4 .*call_timeout_s=0.3 passed", output)
    assert re.search(r"code=cancelled reason=18 may_have_run=1", output)


def test_a_forked_child_is_refused_and_its_parent_goes_on(start):
    assert "code=forked" in start("fork").finish()


def test_a_client_that_leaves_leaves_nothing_in_the_kernel(start):
    running = start("come-and-go", 3)
    for _ in range(3):
        assert running.line() == "connected"
        held = kernel_objects(running.process.pid)
        assert held["qp"] == 1, held
        running.go_on()
        assert running.line() == "left"
        held = kernel_objects(running.process.pid)
        assert not any(held.values()), held
        running.go_on()
    running.finish()


# ---- failures ----


def test_a_worker_that_is_killed_fails_its_call_typed_at_once(start_long):
    running, worker = start_long()
    begin_s = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    text = running.line()
    took_s = time.monotonic() - begin_s
    assert text.startswith("code=worker-lost reason=14 may_have_run=1 phase=4"), text
    assert took_s < ANSWER_S * TIMES
    running.finish()  # the next call is answered by its replacement


def test_an_idempotent_call_runs_again_elsewhere(start_long):
    running, worker = start_long("long-idempotent", idempotent=True, retries=3)
    os.kill(worker, signal.SIGKILL)
    assert running.line().startswith("code=success")
    assert "retried=1 failed=0" in running.finish()


def test_a_function_that_crashes_its_worker(start):
    assert "code=worker-lost reason=14 may_have_run=1 phase=4" in start("crash", "crash").finish()


def test_a_reclaim_fails_a_call_typed(start_long, personal):
    running, worker = start_long()
    (its,) = (agent for agent in personal.agents if agent.poll() is None and worker in children(agent.pid))
    its.terminate()
    text = running.line()
    assert text.startswith("code=reclaimed reason=6"), text
    assert "may_have_run=1 phase=4" in text
    personal.start_agent(3, 0.3, "--listen", address())
    assert "retried=0 failed=" in running.finish()


# ---- which medium ----


@pytest.mark.parametrize(
    ("transport", "medium", "why"),
    [
        ("auto", "verbs", "both ends have RDMA"),
        ("verbs", "verbs", 'transport="verbs"'),
        ("tcp", "tcp", 'transport="tcp"'),
    ],
)
def test_the_medium_is_the_best_one_and_explained(start, personal, transport, medium, why):
    running = start("come-and-go", 1, transport=transport)
    assert running.line() == "connected"
    assert re.search(rf"go over {medium}: .*{why}", explained(personal))
    held = kernel_objects(running.process.pid)["qp"]
    assert held == (medium == "verbs")
    running.go_on()
    running.line()
    running.go_on()
    running.finish()


def test_a_program_without_what_speaks_to_devices_is_served_over_tcp(start, personal, programs, tmp_path):
    alone = shutil.copy(programs[0], tmp_path / "program")  # librfaas_verbs.so is not beside it
    running = start("come-and-go", 1, program=alone, transport="auto")
    assert running.line() == "connected"
    assert "go over tcp: no RDMA: rfaas was built without rdma-core" in explained(personal)
    running.go_on()
    running.line()
    running.go_on()
    running.finish()
    text = start("say-failure", program=alone).finish()
    assert re.search(r"code=config .*may_have_run=0 phase=1 .*built without rdma-core", text), text
    assert "rfaas doctor" in text


def test_a_program_whose_libibverbs_is_missing_is_told_with_the_remedy(start):
    text = start("say-failure", before=without_library()).finish()
    assert re.search(r"code=config .*may_have_run=0 phase=1 .*libibverbs can't be loaded", text), text
    assert "rfaas doctor" in text


def test_too_little_locked_memory_is_said_with_the_remedy(start):
    text = start("say-failure", before=with_locked_memory(65536)).finish()
    assert re.search(r"code=config .*phase=1 .*ulimit -l allows too little", text), text


# ---- a medium that is tried, and fails: the session process is the test's ----


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Yields a function that starts the program, joined."""
    made = SessionOfC(tmp_path)
    monkeypatch.setenv("RFAAS_PYTHON", str(made.helper))
    yield made
    made.close()


@pytest.fixture
def calls_once(session, programs):
    running = c_client.Running(*programs, "invoke", 1, timeout_s=TIMEOUT_S)
    session.welcome()
    assert session.hear("want")["no_verbs"] == ""
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.communicate()


def served_over_tcp(session, running):
    session.farewell(1)
    echo_until_the_end(session.open(2, "tcp"))
    session.close()
    running.finish()


def test_a_worker_that_refuses_is_named_and_the_call_goes_over_another_medium(session, calls_once):
    with session.open(1, "verbs") as worker:
        verbs.refuse(worker.fileno(), "this one has none")
        assert re.search("the peer has no RDMA: this one has none", session.hear("unusable")["why"])
        assert worker.recv(192).startswith(b"rfaas007\1")  # its own address came before
        assert worker.recv(192) == b""
    served_over_tcp(session, calls_once)


def test_a_worker_that_is_not_heard_over_rdma_is_given_up(session, calls_once):
    with session.open(1, "verbs") as worker:
        begin_s = time.monotonic()
        why = session.hear("unusable")["why"]
        took_s = time.monotonic() - begin_s
        assert "the two devices may be on two fabrics" in why
        assert SET_UP_S - 0.5 < took_s < SET_UP_S + TIMES
        assert len(worker.recv(192)) == 192
        assert worker.recv(192) == b""
    served_over_tcp(session, calls_once)


def test_a_program_that_computes_meanwhile_has_not_waited(session, programs):
    """Longer than a worker is waited for: that one has answered, and nobody was there to go on with the set-up."""
    running = c_client.Running(*programs, "pause-between", int(SET_UP_S) + 2, timeout_s=TIMEOUT_S)
    try:
        session.welcome()
        worker = session.open(1, "verbs")
        assert running.line() == "away"
        echo_until_the_end(worker, verbs.adopt)
        session.close()
        running.finish()
    finally:
        running.process.kill()
        running.process.communicate()
