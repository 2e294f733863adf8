"""Borrowed memory as a program sees it: one machine, then allocator and agents as real processes."""

import asyncio
import contextlib
import gc
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest

import rfaas
from rfaas_transport import tls
from support.deadlines import SLACK, assert_in_time
from support.leftovers import alive
from support.lenders import has_gone, holding, lenders
from support.personal import Personal
from support.residue import descriptors
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

MIB = 1 << 20
TIMEOUT_S = 60
BACK_GOAL_S = 0.1  # from the end of the grace until the machine has the memory again


@pytest.fixture
def memory():
    with rfaas.RemoteMemory("8MiB", allocator="embedded") as made:
        yield made


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    cluster.start_allocator()
    yield cluster
    cluster.stop()


def snapshot(personal, command, *arguments):
    run = subprocess.run(
        [sys.executable, "-m", "rfaas", command, *arguments, "--state-dir", str(personal.state_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return run.stdout


# --- one machine ----------------------------------------------------------------------------------------------


def test_bytes_come_back_from_where_they_were_written(memory):
    assert (len(memory), memory.stage, memory.medium) == (8 * MIB, "serving", "shm")
    assert memory.node
    assert memory.read(0, 100) == bytes(100)
    assert memory.write(8 * MIB - 5, b"hello") == 5
    assert memory.read(8 * MIB - 7, 7) == b"\0\0hello"
    floats = numpy.arange(1000.0).reshape(10, 100)
    memory.write(3, floats)
    again = numpy.empty_like(floats)
    assert memory.readinto(3, again) == floats.nbytes
    assert numpy.array_equal(again, floats)
    assert memory.writev([(0, b"ab"), (1, b"c")]) == 3
    one, two = bytearray(1), bytearray(2)
    assert memory.readv([(0, one), (1, two)]) == 3
    assert one + two[:1] == b"ac"
    assert memory.read(5, 0) == b""
    assert memory.write(8 * MIB, b"") == 0


def test_nobody_but_its_server_has_the_memory(memory):
    content = os.urandom(64)
    memory.write(0, content * (MIB // 64))
    [server] = lenders()
    private = [mapping for mapping in holding(server, content) if mapping == ("rw-p",)]
    assert len(private) == 1  # no file, no name: there is nothing that another process could map
    assert holding(memory._keeper._line.pid, content) == []


def test_what_is_wrong_is_said_and_changes_nothing(memory):
    memory.write(0, b"kept")
    for offset, size in ((-1, 1), (8 * MIB, 1), (8 * MIB - 1, 2), (0, -1)):
        with pytest.raises(ValueError, match="not inside"):
            memory.read(offset, size)
    with pytest.raises(ValueError, match="not inside"):
        memory.write(8 * MIB - 1, b"ab")
    with pytest.raises(TypeError, match="can't be read into"):
        memory.readinto(0, b"constant")
    with pytest.raises(TypeError):
        memory.write(0, "text")
    with pytest.raises(BufferError, match="contiguous"):
        memory.write(0, numpy.zeros((4, 4))[:, ::2])
    with pytest.raises(BufferError, match="contiguous"):
        memory.write(0, numpy.zeros((4, 4), "M8[s]")[:, ::2])
    with pytest.raises(BufferError, match="pickle"):
        memory.write(0, numpy.array([object()]))
    for offset in (1.5, math.nan, numpy.float64(1), "0", None):
        with pytest.raises(TypeError):
            memory.read(offset, 1)
        with pytest.raises(TypeError):
            memory.array(1, offset=offset)
        with pytest.raises(TypeError):
            memory.write_async(offset, b"a")
    with pytest.raises(TypeError):
        memory.read(0, 1.5)
    with pytest.raises(TypeError, match="pickled"):
        memory.__reduce__()
    assert memory.read(0, 5) == b"kept\0"
    for wrong in ({"size": "many"}, {"size": 0}, {"size": 2**51}, {"size": 1, "when_reclaimed": "keep"}):
        with pytest.raises(rfaas.ConfigError):
            rfaas.RemoteMemory(**wrong, allocator="embedded")
    with pytest.raises(rfaas.ConfigError, match="no directory"):
        rfaas.RemoteMemory(1, spill_dir="/does/not/exist", allocator="embedded")


def test_numbers_and_buffers_of_numpy_are_taken_as_they_are(memory):
    memory.write(numpy.uint8(250), bytes(range(10)) * 20)  # 450 is no number of that type
    assert memory.read(numpy.int64(250), numpy.uint8(200)) == bytes(range(10)) * 20
    late = memory.array(numpy.int16(100), "u1", offset=numpy.int16(32_700))
    late[:] = 7
    assert bytes(late[90:]) == memory.read(32_790, 10) == b"\7" * 10
    named = numpy.array([(1, 2.0)], [("Offset", "i4"), ("x", "f8")])  # no object, though its name begins like one
    memory.write(0, named)
    memory.write(100, numpy.array(numpy.datetime64(3, "s")))  # without a dimension
    again = numpy.zeros_like(named)
    memory.readinto(0, again)
    assert again == named
    assert memory.read(100, 8) == (3).to_bytes(8, "little")


def test_after_close_everything_says_so_and_nothing_is_left(memory):
    server = lenders()[0]
    pending = memory.write_async(0, b"x")
    pending.result(TIMEOUT_S)
    memory.close()
    memory.close()
    assert memory.stage == "closed"
    with pytest.raises(RuntimeError, match="closed"):
        memory.read(0, 1)
    with pytest.raises(RuntimeError, match="closed"):
        memory.write_async(0, b"x")
    wait_until(lambda: not alive(server), TIMEOUT_S)


def test_one_that_nobody_refers_to_gives_itself_back():
    memory = rfaas.RemoteMemory(MIB, allocator="embedded")
    server = lenders()[0]
    del memory
    gc.collect()
    wait_until(lambda: not alive(server), TIMEOUT_S, "the end of the server")


def test_asynchronous_operations(memory):
    futures = [memory.write_async(n * 1000, bytes([n]) * 1000) for n in range(200)]
    assert [future.result(TIMEOUT_S) for future in futures] == [1000] * 200
    reads = [memory.read_async(n * 1000, 1000) for n in range(200)]
    assert all(future.result(TIMEOUT_S) == bytes([n]) * 1000 for n, future in enumerate(reads))
    target = numpy.empty(10, "u1")
    assert memory.readinto_async(5000, target).result(TIMEOUT_S) == 10

    async def use():
        await memory.awrite(7, b"await")
        both = await asyncio.gather(memory.aread(7, 5), memory.areadinto(0, target))
        return both

    assert asyncio.run(use()) == [b"await", 10]
    with pytest.raises(ValueError, match="not inside"):
        memory.read_async(8 * MIB, 1)


def test_many_threads_share_it(memory):
    def work(n):
        rng = random.Random(n)
        for _ in range(20):
            data = rng.randbytes(rng.choice([1, 100, 50_000]))
            memory.write(n * MIB, data)
            assert memory.read(n * MIB, len(data)) == data
        return True

    results = []
    threads = [threading.Thread(target=lambda n=n: results.append(work(n))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert results == [True] * 6


def test_a_remote_array_selects_like_numpy(memory):
    remote = memory.array((6, 5, 4), "f4", offset=100)
    here = numpy.zeros((6, 5, 4), "f4")
    assert (remote.shape, remote.ndim, remote.size, remote.nbytes, len(remote)) == ((6, 5, 4), 3, 120, 480, 6)
    changes = [
        (..., 1.5),
        (2, numpy.arange(20).reshape(5, 4)),
        ((slice(None), 1), 7),
        ((slice(1, 5, 2), slice(None, None, -1), 3), [[1, 2, 3, 4, 5]] * 2),
        ((-1, -1, -1), 9),
    ]
    for key, value in changes:
        remote[key] = here[key] = value
    for key in [key for key, _ in changes] + [(slice(2, 4), ..., slice(1, 3)), slice(0, 0), (0, slice(None), 2)]:
        assert numpy.array_equal(remote[key], here[key])
    assert isinstance(remote[0, 0, 0], numpy.float32)
    assert numpy.array_equal(numpy.asarray(remote), here)
    out = numpy.empty((5, 4), "f4")
    remote.readinto(out, 2)
    assert numpy.array_equal(out, here[2])
    assert memory.read(96, 4) == bytes(4)
    for key, error in (([1, 2], TypeError), (6, IndexError), ((0, 0, 0, 0), IndexError), (here > 0, TypeError)):
        with pytest.raises(error):
            remote[key]
    with pytest.raises(ValueError, match="does not fit"):
        memory.array(MIB + 1, "f8")
    with pytest.raises(TypeError, match="objects"):
        memory.array(1, "O")
    with pytest.raises(TypeError, match="no size"):
        memory.array(1, str)
    dates = memory.array(3, "M8[s]", offset=4096)
    dates[:] = numpy.array(["2026-01-01", "2026-01-02", "2026-01-03"], "M8[s]")
    assert str(dates[1]) == "2026-01-02T00:00:00"


def test_a_program_whose_own_limits_leave_no_room_for_a_channel_is_told_which():
    """It waited for ever: each new connection could be used as little as the last."""
    program = (
        "import resource, rfaas; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "rfaas.RemoteMemory('8MiB', allocator='embedded')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert "ConfigError: no channel to a lender can be made in this process: OSError" in done.stderr
    assert "ulimit -a" in done.stderr


def test_a_forked_child_has_none_of_it(memory):
    memory.write(0, b"parent")
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                memory.read(0, 1)
            except RuntimeError:
                memory.close()
                status = 0
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert memory.read(0, 6) == b"parent"


def test_ctrl_c_ends_a_wait_for_a_silent_lender_and_what_went_before_stays(memory):
    """A SIGINT while the server sleeps: the transfer ends; awake again, the region serves as before."""
    memory.write(0, b"before")
    [server] = lenders()
    time.sleep(0.1)  # the agent has looked, and wakes what stands still at its next look, a second later
    os.kill(server, signal.SIGSTOP)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    waker = threading.Timer(0.6, os.kill, (server, signal.SIGCONT))
    waker.start()
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - on a busy machine it may come before the read
            timer.start()
            memory.read(0, 6)
    finally:
        waker.join()
    assert memory.read(0, 6) == b"before"


# --- allocator and agents -------------------------------------------------------------------------------------


def test_every_medium_between_two_processes_carries_large_arrays(personal):
    """A socket on this node, TCP in plain, TCP encrypted; over shared memory above."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    data = numpy.random.default_rng(seed).integers(0, 256, 9 * MIB + 77, "u1")

    def travel(medium, **options):
        with rfaas.RemoteMemory(10 * MIB, allocator=personal.state_dir, **options) as memory:
            assert memory.medium == medium
            memory.write(13, data)
            again = numpy.empty_like(data)
            memory.readinto(13, again)
            assert numpy.array_equal(again, data)

    personal.start_agent()
    travel("unix", transport="tcp")
    over_network = personal.start_agent(2, 5.0, "--listen", "127.0.0.1")
    personal.agents[0].send_signal(signal.SIGTERM)
    personal.agents[0].wait(20)
    travel("tcp")
    if tls.is_built():
        travel("tls", transport_security="encrypt")
    assert over_network.poll() is None


def test_memory_counts_like_that_of_slices_and_is_shown(personal):
    personal.start_agent(2, 5.0, "--memory-bytes", str(64 * MIB))
    options = {"allocator": personal.state_dir, "acquire_timeout_s": 20}
    with rfaas.RemoteMemory("40MiB", **options) as first:
        first.write(0, b"secret" * 1000)
        leases = snapshot(personal, "leases")
        assert "memory" in leases
        status = snapshot(personal, "status")
        assert " 24 " in status, status  # MiB that are free
        with pytest.raises(rfaas.AcquireTimeout, match="MiB free"):
            rfaas.RemoteMemory("40MiB", allocator=personal.state_dir, acquire_timeout_s=2)
        explained = []

        def explain():
            wait_until(lambda: "waiting" in snapshot(personal, "status"), TIMEOUT_S)
            explained.append(snapshot(personal, "explain"))
            first.close()

        thread = threading.Thread(target=explain)
        thread.start()
        with rfaas.RemoteMemory("40MiB", **options) as second:  # gets it when the first is given back
            thread.join()
            assert second.read(0, 6000) == bytes(6000)  # nothing of the first one's
    assert "40 MiB of memory (RemoteMemory)" in explained[0]
    with pytest.raises(rfaas.AcquireTimeout):
        rfaas.RemoteMemory("1GiB", allocator=personal.state_dir, acquire_timeout_s=2)
    accounts = snapshot(personal, "accounting", "--json")
    assert str(40 * MIB) in accounts


def test_a_quota_limits_it(tmp_path):
    cluster = Personal(tmp_path)
    cluster.start_allocator("--quota", "memory=32MiB")
    cluster.start_agent()
    try:
        with pytest.raises(rfaas.LeaseDenied) as denied:
            rfaas.RemoteMemory("33MiB", allocator=cluster.state_dir)
        assert denied.value.reason_code is rfaas.ReasonCode.QUOTA
        first = rfaas.RemoteMemory("32MiB", allocator=cluster.state_dir)
        with first, pytest.raises(rfaas.AcquireTimeout, match="quota"):
            rfaas.RemoteMemory("1MiB", allocator=cluster.state_dir, acquire_timeout_s=2)
    finally:
        cluster.stop()


def test_a_lost_session_process_and_a_restarted_allocator_lose_nothing(tmp_path):
    personal = Personal(tmp_path, ttl_s=20.0)  # the next session process may take long to start
    personal.start_allocator()
    personal.start_agent()
    try:
        lose_both(personal)
    finally:
        personal.stop()


def lose_both(personal):
    with rfaas.RemoteMemory(MIB, allocator=personal.state_dir) as memory:
        memory.write(0, b"content")
        [session] = personal.session_pids()
        os.kill(session, signal.SIGKILL)
        assert memory.read(0, 7) == b"content"
        wait_until(lambda: [pid for pid in personal.session_pids() if pid != session], TIMEOUT_S)
        personal.allocator.kill()
        personal.allocator.wait()
        personal.start_allocator()
        assert memory.read(0, 7) == b"content"
        wait_until(lambda: "memory" in snapshot(personal, "leases"), TIMEOUT_S)
        assert memory.stage == "serving"


# --- reclaim --------------------------------------------------------------------------------------------------


@pytest.mark.figures
@pytest.mark.serial
@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_after_a_reclaim_the_memory_is_back_at_once_though_the_borrower_hangs(personal, transport):
    size = 256 * MIB
    agent = personal.start_agent(2, 0.0)
    borrower = subprocess.Popen(
        [sys.executable, "-c", BORROWER, str(personal.state_dir), str(size), transport],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert borrower.stdout.readline() == "written\n"
    [server] = lenders()
    status = Path(f"/proc/{server}/status").read_text()
    assert int(status.partition("RssAnon:")[2].split()[0]) * 1024 >= size
    os.kill(borrower.pid, signal.SIGSTOP)  # alive, and deaf
    began_s = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    wait_until(lambda: has_gone(server), TIMEOUT_S)
    back_s = time.monotonic() - began_s
    print(f"\n256 MiB over {transport} were back {back_s * 1000:.0f} ms after the reclaim (grace 0)")
    assert_in_time(back_s, SLACK * BACK_GOAL_S)
    assert agent.wait(20) == 0
    os.kill(borrower.pid, signal.SIGCONT)
    assert borrower.communicate(timeout=TIMEOUT_S)[0] == "MemoryLost OWNER_RELEASE 0.0\n"


BORROWER = """
import sys, time, numpy, rfaas
memory = rfaas.RemoteMemory(int(sys.argv[2]), allocator=sys.argv[1], transport=sys.argv[3])
memory.write(0, numpy.ones(len(memory), "u1"))
print("written", flush=True)
try:
    while True:
        memory.read(0, 1)
        time.sleep(0.001)
except rfaas.MemoryLost as lost:
    print(type(lost).__name__, lost.reason_code.name, lost.grace_s)
"""


def test_with_a_grace_it_can_be_read_to_the_end_and_is_lost_then(personal):
    agent = personal.start_agent(2, 2.0)
    notices = []
    with rfaas.RemoteMemory(MIB, allocator=personal.state_dir) as memory:
        memory.on_reclaim(notices.append)
        memory.write(0, b"content")
        agent.send_signal(signal.SIGTERM)
        wait_until(lambda: notices, TIMEOUT_S)
        assert (memory.stage, notices[0].grace_s) == ("leaving", 2.0)
        assert notices[0].reason_code is rfaas.ReasonCode.OWNER_RELEASE
        assert memory.read(0, 7) == b"content"
        memory.write(7, b"!")
        with pytest.raises(rfaas.MemoryLost) as lost:
            wait_until(lambda: memory.read(0, 8) != b"content!", TIMEOUT_S)
        assert lost.value.reason_code is rfaas.ReasonCode.OWNER_RELEASE
        assert lost.value.lease_id == notices[0].lease_id
        assert "spill" in str(lost.value)
        assert memory.stage == "lost"
        with pytest.raises(rfaas.MemoryLost):
            memory.write_async(0, b"x")


def test_a_spill_keeps_every_byte_in_a_file_that_leaves_with_it(personal, tmp_path):
    agent = personal.start_agent(2, 5.0)
    directory = tmp_path / "spill"
    directory.mkdir()
    data = numpy.random.default_rng(1).integers(0, 256, 5 * MIB, "u1")
    options = {"when_reclaimed": "spill", "spill_dir": directory, "allocator": personal.state_dir}
    with rfaas.RemoteMemory("3GiB", **options) as memory:
        memory.write(300 * MIB + 1, data)
        memory.write(numpy.int32((1 << 31) - 1), b"zz")  # its end is no number of that type
        agent.send_signal(signal.SIGTERM)
        wait_until(lambda: memory.stage == "spilled", TIMEOUT_S)
        assert agent.wait(20) == 0
        assert (memory.medium, memory.node) == ("file", "")
        again = numpy.empty_like(data)
        memory.readinto(300 * MIB + 1, again)
        assert numpy.array_equal(again, data)
        assert memory.read(0, 10) == bytes(10)
        memory.write(5, b"goes on")
        assert memory.read((1 << 31) - 1, 2) + memory.read(5, 7) == b"zzgoes on"
        assert list(directory.iterdir()) == []  # it has no name
        [spill] = [fd for fd, target in descriptors().items() if str(directory) in target]
        assert os.fstat(spill).st_blocks * 512 < 20 * MIB  # what nobody wrote takes no room
    assert not any(str(directory) in target for target in descriptors().values())


def test_a_move_takes_everything_to_another_lender(personal):
    first = personal.start_agent(2, 10.0)
    data = numpy.random.default_rng(2).integers(0, 256, 5 * MIB, "u1")
    written = []
    with rfaas.RemoteMemory("64MiB", when_reclaimed="move", allocator=personal.state_dir) as memory:
        memory.write(17 * MIB, data)
        [old] = lenders()
        personal.start_agent(2, 10.0)
        stop = threading.Event()

        def write():
            """Goes on through the move."""
            while not stop.is_set():
                memory.write(len(written), b"w")
                written.append(1)
                stop.wait(0.001)

        thread = threading.Thread(target=write)
        thread.start()
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
        count = len(written)
        wait_until(lambda: len(written) > count + 20, TIMEOUT_S)
        stop.set()
        thread.join()
        assert memory.stage == "serving"
        assert old not in lenders()
        again = numpy.empty_like(data)
        memory.readinto(17 * MIB, again)
        assert numpy.array_equal(again, data)
        assert memory.read(0, len(written) + 1) == b"w" * len(written) + b"\0"
