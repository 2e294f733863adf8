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
from support.kernels import kernels
from support.personal import Personal
from support.rdma_limits import with_locked_memory
from support.soak import SLACK, scaled
from support.waiting import wait_until

pytestmark = pytest.mark.rdma
IN_GUEST = bool(os.environ.get("RFAAS_RDMA_GUEST"))
TIMES = 10 if IN_GUEST else SLACK  # emulated CPUs
ANSWER_S = 1.0  # the goal for what is told of a failure
TIMEOUT_S = 120.0
CALLS = scaled(200_000, 1_000_000)
BURST = 500
ARRAY_BYTES = 1 << 20 if IN_GUEST else 64 << 20


@pytest.fixture(autouse=True)
def _no_event_log(monkeypatch):
    """It tells of each call, and a loan hides them."""
    monkeypatch.delenv("RFAAS_EVENT_LOG", raising=False)


@pytest.fixture
def ex():
    with rfaas.Executor(1, hot_for_s=0.05, allocator="embedded", transport="verbs") as executor:
        yield executor


@pytest.fixture
def personal(tmp_path):
    made = Personal(tmp_path, ttl_s=10.0, start_s=TIMEOUT_S)
    try:
        made.start_allocator()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "libkernels.so"
    path.write_bytes(kernels())
    return path


def address():
    """An address of this host that belongs to a device, as an agent listens on it."""
    shown = [at.shown() for at in verbs.addresses() if at.is_active and at.gid]
    return os.environ.get("RFAAS_RDMA_ADDRESS") or next((text for text in shown if "." in text), "127.0.0.1")


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


def test_functions_over_bytes_of_all_sizes(ex, path):
    for function in shout, rfaas.native(path, "echo"):
        for size in 0, 1, 63, 128, 1024, 4097, 65_536, 200_000:
            given = (b"ABCDEFGH" * (size // 8 + 1))[:size]
            for _ in range(3):
                assert ex.submit(function, given).result(TIMEOUT_S) == given


def test_calls_on_loan_are_served_without_the_io_thread(ex, path):
    function = rfaas.native(path, "echo")

    def lent():
        ex.submit(function, b"warm").result(TIMEOUT_S)
        return ex._engine._lane.lent

    wait_until(lent, TIMEOUT_S)
    for n in range(500):
        assert ex.invoke(function, b"%d" % n) == b"%d" % n
    assert ex._engine._lane.answered() > 20


def test_more_calls_on_one_connection_than_sixteen_bits_count(ex, path):
    function = rfaas.native(path, "echo")
    ex.submit(function, b"").result(TIMEOUT_S)
    [before] = [port.info.number for port in ports(ex)]
    for first in range(0, CALLS, BURST):
        futures = [ex.submit(function, b"%d" % n) for n in range(first, first + BURST)]
        assert bytes(futures[-1].result(TIMEOUT_S)) == b"%d" % (first + BURST - 1)
        assert [int(bytes(future.result(TIMEOUT_S))) for future in futures[:: BURST // 5]] == list(
            range(first, first + BURST, BURST // 5)
        )
    assert [port.info.number for port in ports(ex)] == [before]


def test_a_second_program_is_served_beside_the_first(ex):
    with rfaas.Executor(1, allocator="embedded", transport="verbs") as other:
        futures = [executor.submit(f.add, n, 1) for n in range(20) for executor in (ex, other)]
        assert [future.result(TIMEOUT_S) for future in futures] == [n + 1 for n in range(20) for _ in range(2)]
        assert (media_of(ex), media_of(other)) == ({"verbs"}, {"verbs"})


# ---- which medium ----


def explain(personal, *subject):
    command = [sys.executable, "-m", "rfaas", "explain", *subject, "--state-dir", str(personal.state_dir)]
    return subprocess.check_output(command, text=True, timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("transport", "security", "medium", "why"),
    [
        ("auto", "trusted", "verbs", "both ends have RDMA"),
        ("verbs", "trusted", "verbs", 'transport="verbs"'),
        ("tcp", "trusted", "tcp", 'transport="tcp"'),
        ("auto", "encrypt", "tls", "must be encrypted"),
    ],
)
def test_the_medium_to_another_host_is_the_best_one_and_explained(personal, transport, security, medium, why):
    personal.start_agent(1, 5.0, "--listen", address())
    with rfaas.Executor(1, allocator=personal.state_dir, transport=transport, transport_security=security) as executor:
        assert executor.submit(pow, 2, 10).result(TIMEOUT_S) == 1024
        assert media_of(executor) == {medium}
        assert re.search(rf"go over {medium}: .*{why}", explain(personal))


def without_library():
    """The beginning of a command whose processes find no libibverbs."""
    found = subprocess.check_output(["/sbin/ldconfig", "-p"], text=True)
    library = os.path.realpath(re.search(r"libibverbs\.so\.1 .*=> (\S+)", found).group(1))
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    hide = f'mount --bind /dev/null {library} && exec "$@"'
    return [*namespace, "sh", "-c", hide, "sh"]


def test_a_program_without_the_library_is_told_at_once():
    program = "import rfaas; rfaas.Executor(1, transport='verbs')"
    done = subprocess.run(
        [*without_library(), sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 1
    assert "ConfigError: RDMA can't be used here: libibverbs can't be loaded" in done.stderr
    assert "remedy" in done.stderr


def test_workers_without_the_library_are_reached_over_tcp_or_refused_with_the_reason(personal):
    personal.python = [*without_library(), sys.executable]
    personal.start_agent(1, 5.0, "--listen", address())
    personal.python = [sys.executable]
    with rfaas.Executor(1, allocator=personal.state_dir) as executor:
        assert executor.submit(pow, 2, 10).result(TIMEOUT_S) == 1024
        assert media_of(executor) == {"tcp"}
        assert re.search("go over tcp: no RDMA: .*libibverbs can't be loaded", explain(personal))
    with rfaas.Executor(1, allocator=personal.state_dir, transport="verbs") as executor:
        for _ in range(2):  # the second finds the template there
            start_s = time.monotonic()
            with pytest.raises(rfaas.ConfigError, match="libibverbs can't be loaded") as raised:
                executor.submit(pow, 2, 10).result(TIMEOUT_S)
            took_s = time.monotonic() - start_s
        assert raised.value.phase == "QUEUED"
        assert not raised.value.may_have_run
        assert raised.value.hint
        assert took_s < ANSWER_S * TIMES


def test_too_little_locked_memory_is_said_with_the_remedy():
    program = (
        "import rfaas\n"
        "with rfaas.Executor(1, allocator='embedded', transport='verbs') as executor:\n"
        "    executor.submit(pow, 2, 10).result(60)\n"
    )
    done = subprocess.run(
        [*with_locked_memory(65536), sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 1
    assert "ConfigError: RDMA to the workers on" in done.stderr
    assert "ulimit -l allows too little" in done.stderr


# ---- failures ----


def test_a_worker_that_is_killed_in_a_call_is_known_at_once_and_replaced(ex):
    pid = ex.submit(f.pid).result(TIMEOUT_S)
    future = ex.submit(f.sleep, 60)
    wait_until(future.running, TIMEOUT_S)
    time_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(rfaas.WorkerLost) as raised:
        future.result(TIMEOUT_S)
    took_s = time.monotonic() - time_s
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


def test_a_forked_child_of_a_function_leaves_the_channel_to_its_parent(ex):
    def fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    for _ in range(5):
        assert ex.submit(fork).result(TIMEOUT_S) == 0
    assert media_of(ex) == {"verbs"}


def test_t44_what_ended_executes_nothing_more(personal, tmp_path):
    """The old channel of a lease that ended with its agent: nothing sent there runs."""
    runs = tmp_path / "runs"
    agent = personal.start_agent(1, 5.0, "--listen", address())
    with rfaas.Executor(1, allocator=personal.state_dir, transport="verbs") as executor:
        executor.submit(f.witness, str(runs)).result(TIMEOUT_S)
        assert len(runs.read_text().splitlines()) == 1
        [port] = ports(executor)
        agent.send_signal(signal.SIGTERM)
        agent.wait(TIMEOUT_S)
        n_sent = 0
        for call_id in range(1000):
            try:
                port.channel.send(2, call_id=1000 + call_id, lease_seq=port.info.lease_seq, epoch=port.info.epoch)
                n_sent += 1
            except rfaas.RfaasError:
                pass
        assert n_sent < 1000
        assert len(runs.read_text().splitlines()) == 1


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
