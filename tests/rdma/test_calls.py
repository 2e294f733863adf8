"""Calls over RDMA: the same as over any medium, and what becomes of them when something of it fails."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import rfaas
from rfaas_transport import verbs
from support import functions as f
from support.deadlines import SLACK
from support.kernels import kernels
from support.over_rdma import TIMEOUT_S, address, explained
from support.rdma_limits import with_locked_memory, without_library
from support.soak import scaled, timeout_s
from support.verbs_objects import kernel_objects
from support.waiting import wait_until

pytestmark = pytest.mark.rdma
IN_GUEST = bool(os.environ.get("RFAAS_RDMA_GUEST"))
TIMES = 10 if IN_GUEST else SLACK  # emulated CPUs
ANSWER_S = 1.0  # the goal for what is told of a failure
GOAL = f"goal {ANSWER_S:g} s; asserted at {ANSWER_S * TIMES:g} s" + (": emulated CPUs" if IN_GUEST else "")
CALLS = scaled(5_000, 1_000_000)  # 200,000 and more on one channel: test_channel.py
ARRAY_BYTES = 1 << 20 if IN_GUEST else 64 << 20


@pytest.fixture(autouse=True)
def _no_event_log(monkeypatch):
    """It tells of each call, and a loan hides them."""
    monkeypatch.delenv("RFAAS_EVENT_LOG", raising=False)


@pytest.fixture
def ex(embedded):
    with rfaas.Executor(1, hot_for_s=0.05, allocator="embedded", transport="verbs") as executor:
        yield executor


def stop_agents(personal):
    """End those that run; their workers are gone then."""
    for agent in personal.agents:
        agent.send_signal(signal.SIGTERM)
        agent.wait(TIMEOUT_S)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "libkernels.so"
    path.write_bytes(kernels())
    return path


def ports(executor):
    return list(executor._engine._ports._by_token.values())


def media_of(executor):
    return {port.channel.medium for port in ports(executor)}


@rfaas.raw
def shout(inp, out):
    out[: len(inp)] = bytes(inp).upper()
    return len(inp)


# ---- as over any medium ----


def test_calls_results_exceptions_and_prints(ex, capfd):
    assert ex.submit(f.echo, 1, b=[2]).result(TIMEOUT_S) == ((1,), {"b": [2]})
    with pytest.raises(f.CustomError, match="seven") as raised:
        ex.submit(f.raise_custom).result(TIMEOUT_S)
    assert (raised.value.number, raised.value.text) == (7, "seven")
    ex.submit(print, "over the ring").result(TIMEOUT_S)
    assert "over the ring" in capfd.readouterr().out
    assert list(ex.map(f.add, range(50), range(50), timeout=TIMEOUT_S)) == [2 * n for n in range(50)]
    assert media_of(ex) == {"verbs"}


def test_large_arrays_there_and_back(ex):
    array = np.arange(ARRAY_BYTES // 8, dtype=np.int64)
    for given in array, array.reshape(2, -1)[:, ::2]:
        assert np.array_equal(ex.submit(np.negative, given).result(TIMEOUT_S), -given)


def test_arrays_of_rfaas_empty_go_there_and_back_by_one_registration(ex):
    array = rfaas.empty(1 << 18, np.int64)
    array[:] = np.arange(len(array))
    ex.submit(np.negative, array).result(TIMEOUT_S)
    before = kernel_objects()["mr"]
    for n in range(3):
        array[0] = n
        assert np.array_equal(ex.submit(np.negative, array).result(TIMEOUT_S), -array)
    assert kernel_objects()["mr"] <= before


def test_functions_over_bytes_of_all_sizes(ex, path):
    for function in shout, rfaas.native(path, "echo"):
        for size in 0, 1, 63, 128, 1024, 4097, 65_536, 200_000:
            given = (b"ABCDEFGH" * (size // 8 + 1))[:size]
            for _ in range(3):
                assert ex.submit(function, given).result(TIMEOUT_S) == given


def test_calls_on_loan_are_served_without_the_io_thread(ex, path):
    """Where the CPUs are taken away in the middle of a call a loan ends, and another begins."""
    function = rfaas.native(path, "echo")

    def answered():
        for n in range(50):
            assert ex.invoke(function, b"%d" % n) == b"%d" % n
        return ex._engine._lane.answered() > 100

    wait_until(answered, TIMEOUT_S, "a hundred calls on loan")


@pytest.mark.figures
@pytest.mark.timeout(timeout_s())
def test_calls_one_after_the_other_share_one_connection(embedded, path):
    """Each by the shortest way; as many as two emulated processors, which both poll, answer in time."""
    function = rfaas.native(path, "echo")
    with rfaas.Executor(1, hot_for_s=5.0, allocator="embedded", transport="verbs") as ex:
        ex.submit(function, b"").result(TIMEOUT_S)
        [port] = ports(ex)
        start_s = time.monotonic()
        for n in range(CALLS):
            given = b"%d" % n
            if ex.invoke(function, given) != given:
                pytest.fail(f"call {n} got another's answer")
        took_s = time.monotonic() - start_s
        assert ports(ex) == [port]
        counted = port.channel.statistics()
    print(f"{CALLS} calls on one connection, {took_s / CALLS * 1e6:.0f} us each")
    assert min(counted["frames_sent"], counted["frames_received"]) >= CALLS


@pytest.mark.figures
def test_a_second_program_is_served_beside_the_first(ex):
    with rfaas.Executor(1, allocator="embedded", transport="verbs") as other:
        other.submit(f.nothing).result(TIMEOUT_S)
        start_s = time.monotonic()
        futures = [executor.submit(f.add, n, 1) for n in range(20) for executor in (ex, other)]
        assert [future.result(TIMEOUT_S) for future in futures] == [n + 1 for n in range(20) for _ in range(2)]
        took_s = time.monotonic() - start_s
        assert (media_of(ex), media_of(other)) == ({"verbs"}, {"verbs"})
    print(f"two clients at once: 40 calls answered in {took_s:.2f} s ({GOAL})")
    assert took_s < ANSWER_S * TIMES


# ---- which medium ----


@pytest.mark.parametrize(
    ("transport", "security", "medium", "why"),
    [
        ("auto", "trusted", "verbs", "both ends have RDMA"),
        ("verbs", "trusted", "verbs", 'transport="verbs"'),
        ("tcp", "trusted", "tcp", 'transport="tcp"'),
        ("auto", "encrypt", "tls", "must be encrypted"),
    ],
)
def test_the_medium_to_another_host_is_the_best_one_and_explained(to_another_host, transport, security, medium, why):
    state_dir = to_another_host.state_dir
    with rfaas.Executor(1, allocator=state_dir, transport=transport, transport_security=security) as executor:
        assert executor.submit(pow, 2, 10).result(TIMEOUT_S) == 1024
        assert media_of(executor) == {medium}
        assert re.search(rf"go over {medium}: .*{why}", explained(to_another_host))


def test_too_little_locked_memory_is_said_with_the_remedy(to_another_host):
    program = (
        "import sys, rfaas\n"
        "with rfaas.Executor(1, allocator=sys.argv[1], transport='verbs') as executor:\n"
        "    error = executor.submit(pow, 2, 10).exception(60)\n"
        "    print(type(error).__name__, error.phase, error.may_have_run, error.hint)\n"
        "    raise error\n"
    )
    command = [*with_locked_memory(65536), sys.executable, "-c", program, str(to_another_host.state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert "ConfigError: RDMA to the workers on" in done.stderr
    assert "ulimit -l allows too little" in done.stderr
    assert done.stdout.startswith("ConfigError QUEUED False leave transport at")


def test_t44_what_ended_executes_nothing_more(to_another_host, tmp_path):
    """The old channel of a lease that ended with its agent, the one of the tests above: nothing sent there runs."""
    runs = tmp_path / "runs"
    with rfaas.Executor(1, allocator=to_another_host.state_dir, transport="verbs") as executor:
        executor.submit(f.witness, str(runs)).result(TIMEOUT_S)
        assert len(runs.read_text().splitlines()) == 1
        [port] = ports(executor)
        stop_agents(to_another_host)
        n_sent = 0
        for call_id in range(1000):
            try:
                port.channel.send(2, call_id=1000 + call_id, lease_seq=port.info.lease_seq, epoch=port.info.epoch)
                n_sent += 1
            except rfaas.RfaasError:
                pass
        assert n_sent < 1000
        assert len(runs.read_text().splitlines()) == 1


WITHOUT_LIBRARY = """
import time, rfaas
start_s = time.monotonic()
try:
    rfaas.Executor(1, transport="verbs")
finally:
    print(time.monotonic() - start_s)
"""


@pytest.mark.figures
def test_a_program_without_the_library_is_told_at_once():
    command = [*without_library(), sys.executable, "-c", WITHOUT_LIBRARY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    print(f"program without libibverbs: told of in {float(done.stdout):.2f} s ({GOAL})")
    assert "ConfigError: RDMA can't be used here: libibverbs can't be loaded" in done.stderr
    assert "remedy" in done.stderr
    assert float(done.stdout) < ANSWER_S * TIMES


@pytest.mark.figures
def test_workers_without_the_library_are_reached_over_tcp_or_refused_with_the_reason(personal):
    stop_agents(personal)
    personal.python = [*without_library(), sys.executable]
    personal.start_agent(1, 5.0, "--listen", address())
    personal.python = [sys.executable]
    with rfaas.Executor(1, allocator=personal.state_dir) as executor:
        assert executor.submit(pow, 2, 10).result(TIMEOUT_S) == 1024
        assert media_of(executor) == {"tcp"}
        assert re.search("go over tcp: no RDMA: .*libibverbs can't be loaded", explained(personal))
    with rfaas.Executor(1, allocator=personal.state_dir, transport="verbs") as executor:
        for _ in range(2):  # the second finds the template there
            start_s = time.monotonic()
            with pytest.raises(rfaas.ConfigError, match="libibverbs can't be loaded") as raised:
                executor.submit(pow, 2, 10).result(TIMEOUT_S)
            took_s = time.monotonic() - start_s
        print(f"workers without libibverbs: told of in {took_s:.2f} s ({GOAL}): {raised.value}")
        assert raised.value.phase == "QUEUED"
        assert not raised.value.may_have_run
        assert raised.value.hint
        assert took_s < ANSWER_S * TIMES


# ---- failures ----


@pytest.mark.figures
def test_a_worker_that_is_killed_in_a_call_is_known_at_once_and_replaced(ex, tmp_path):
    pid, begun = ex.submit(f.pid).result(TIMEOUT_S), tmp_path / "begun"
    future = ex.submit(f.witness_then_wait, str(begun), str(tmp_path / "gate"))
    wait_until(begun.exists, TIMEOUT_S)  # one that was sent and has not begun would run on another worker
    time_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(rfaas.WorkerLost) as raised:
        future.result(TIMEOUT_S)
    took_s = time.monotonic() - time_s
    print(f"killed worker: told of in {took_s:.2f} s ({GOAL}): {raised.value}")
    assert (raised.value.phase, raised.value.may_have_run) == ("STARTED", True)
    assert took_s < ANSWER_S * TIMES
    assert ex.submit(f.pid).result(TIMEOUT_S) != pid
    assert media_of(ex) == {"verbs"}


def test_a_crash_and_an_exit_end_their_call_and_no_other(ex):
    for function, error in ((os.abort, rfaas.WorkerLost), (os._exit, rfaas.WorkerLost)):
        bad = ex.submit(function, *([3] if function is os._exit else []))
        good = [ex.submit(f.add, n, n) for n in range(10)]
        with pytest.raises(error):
            bad.result(TIMEOUT_S)
        assert [future.result(TIMEOUT_S) for future in good] == [2 * n for n in range(10)]


def test_a_function_that_closes_every_descriptor_ends_its_worker_and_no_foreign_file(ex, tmp_path):
    target = tmp_path / "file"

    def close_all():
        os.closerange(3, 1024)
        descriptors = [os.open(target, os.O_RDWR | os.O_CREAT) for _ in range(64)]  # in their places
        return len(descriptors)

    with pytest.raises(rfaas.WorkerLost, match="closed or replaced descriptors"):
        ex.submit(close_all).result(TIMEOUT_S)
    assert target.read_bytes() == b""
    assert ex.submit(f.add, 1, 1).result(TIMEOUT_S) == 2


def test_a_function_that_does_so_when_it_was_called_often_has_no_file_of_its_own_written_to_either(ex, tmp_path):
    target = tmp_path / "file"

    def close_all(now):  # answers to calls one upon the other go out before descriptors are compared
        if now:
            os.closerange(3, 1024)
            return [os.open(target, os.O_RDWR | os.O_CREAT) for _ in range(64)] and None
        return None

    for _ in range(50):
        ex.invoke(close_all, False)
    with pytest.raises(rfaas.WorkerLost):
        ex.invoke(close_all, True)
    assert target.read_bytes() == b""
    assert ex.submit(f.add, 1, 1).result(TIMEOUT_S) == 2


def test_a_forked_child_of_a_function_leaves_the_channel_to_its_parent(ex):
    def fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    for _ in range(5):
        assert ex.submit(fork).result(TIMEOUT_S) == 0
    assert media_of(ex) == {"verbs"}


if IN_GUEST:  # not elsewhere: a port goes down

    @pytest.fixture
    def link():
        """The network device below the soft-RoCE device, up again afterwards."""

        def turn(state):
            subprocess.run([shutil.which("ip"), "link", "set", "veth0", state], check=True)

        yield turn
        turn("up")
        wait_until(lambda: not verbs.why_no_port(), TIMEOUT_S)

    def test_a_port_that_is_down_is_named_when_a_program_asks_for_rdma(link):
        link("down")
        wait_until(verbs.why_no_port, TIMEOUT_S)
        with pytest.raises(rfaas.ConfigError, match="no port of an RDMA device is up"):
            rfaas.Executor(1, transport="verbs")
