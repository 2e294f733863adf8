"""The embedded session process with its real agent and allocator: one program on one machine, nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from rfaas.config import Embedded
from rfaas.session import names, packets
from rfaas.session.connection import SessionEnded
from rfaas_transport.errors import AuthenticationFailed
from support.leftovers import abstract_sockets, alive, children, maps, open_files, sockets_of
from support.raw_client import RawClient
from support.waiting import wait_until

TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def client():
    made = RawClient(Embedded())
    yield made
    made.close()
    wait_until(lambda: not alive(made.connection.pid), 10, "the session process's end")


def run(program, *arguments, timeout_s=60, **settings):
    """Run a program that may import the tests' support."""
    prelude = f"import sys; sys.path.insert(0, {TESTS!r})\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(program), *arguments]
    return subprocess.run(command, timeout=timeout_s, text=True, capture_output=True, **settings)


def start(program, **settings):
    prelude = f"import sys; sys.path.insert(0, {TESTS!r})\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(program)]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **settings)


def family(session_pid):
    """The session process and all below it."""
    return [session_pid, *children(session_pid)]


# --- serving --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_program_without_standard_descriptors_gets_workers(closed, tmp_path):
    program = """
        import rfaas
        def work():
            import os, subprocess, sys
            print("printed")
            os.write(1, b"written")
            os.write(2, b"written")
            return os.read(0, 1), subprocess.run([sys.executable, "-c", "print(1)"]).returncode
        with rfaas.Executor(1, acquire_timeout_s=45) as ex:
            got = ex.submit(work).result()
        open(sys.argv[1], "w").write(repr(got))
    """
    program = f"import sys; sys.path.insert(0, {TESTS!r})\n" + textwrap.dedent(program)
    redirections = " ".join(f"{descriptor}>&-" for descriptor in closed)
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", program, str(tmp_path / "got")]
    assert subprocess.run(command, timeout=90, check=False, stdin=subprocess.DEVNULL).returncode == 0
    assert (tmp_path / "got").read_text() == repr((b"", 0))


def test_a_program_joins_gets_channels_and_calls(client):
    first, second = client.acquire(2)
    assert client.call(first, lambda a, b: a + b, 2, 3) == 5
    assert client.call(second, os.getpid) in family(client.connection.pid)
    messages = {number: message for number, (_, message) in client.channels.items()}
    assert {message["medium"] for message in messages.values()} == {"shm"}
    assert messages[first]["slot"] != messages[second]["slot"]
    assert client.connection.mode == "embedded"


def test_functions_run_in_the_working_directory_and_path_of_the_program(client, tmp_path, monkeypatch):
    [number] = client.acquire()
    assert client.call(number, os.getcwd) == os.getcwd()
    assert client.call(number, lambda: __import__("sys").path[1:]) == sys.path[1:]


def test_two_executors_of_a_program_never_wait_for_each_other(client):
    client.acquire(8, executor=1)
    client.acquire(8, executor=2)
    assert client.said("queued") == []


def test_a_worker_that_dies_is_told_and_replaced(client):
    [number] = client.acquire()
    pid = client.call(number, os.getpid)
    os.kill(pid, signal.SIGKILL)
    [farewell] = client.wait_for("farewell", timeout_s=1.0)
    assert (farewell["channel"], farewell["reason_code"], farewell["signal"]) == (number, 14, 9)
    client.wait_for("channel", 2, timeout_s=2.0)
    assert client.call(list(client.channels)[-1], lambda: "again") == "again"


def test_a_target_of_zero_gives_the_workers_back(client):
    [number] = client.acquire()
    pid = client.call(number, os.getpid)
    client.want(0)
    [ended] = client.wait_for("ended")
    assert ended["reason"] == "released"
    assert [m["channel"] for m in client.said("farewell")] == [number]
    assert not alive(pid)


def test_the_session_process_loads_no_grpc_and_no_protobuf(client):
    client.acquire()
    assert not maps(client.connection.pid, "cygrpc")
    assert not maps(client.connection.pid, "google/_upb")


# --- starting -------------------------------------------------------------------------------------------------


def test_the_program_itself_loads_neither_grpc_nor_asyncio():
    done = run("""
        import sys, secrets
        from rfaas.config import Embedded
        from rfaas.session import environment
        from rfaas.session.start import connect
        connection = connect(Embedded(), client_id=secrets.token_bytes(16), env=environment.current())
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"grpc", "google", "asyncio", "numpy"}))
    """)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_many_threads_that_start_at_once_share_one_session_process():
    clients = []
    threads = [threading.Thread(target=lambda: clients.append(RawClient(Embedded()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({client.connection.pid for client in clients}) == 1
    assert len(clients) == 8
    for client in clients:
        client.close()
    wait_until(lambda: not alive(clients[0].connection.pid), 10)


def test_it_starts_in_a_program_without_standard_streams(tmp_path):
    answer = tmp_path / "answer"
    program = """
        import os, sys
        for number in range(3):
            os.close(number)
        from rfaas.config import Embedded
        from support.raw_client import RawClient
        client = RawClient(Embedded())
        [number] = client.acquire()
        with open(os.environ["ANSWER"], "w") as file:
            file.write(str(client.call(number, lambda: 42)))
        client.close()
    """
    run(program, env={**os.environ, "ANSWER": str(answer)})
    assert answer.read_text() == "42"


def test_it_starts_inside_a_rank_and_workers_do_not_believe_to_be_that_rank():
    done = run(
        """
        import os
        from rfaas.config import Embedded
        from support.raw_client import RawClient
        client = RawClient(Embedded())
        [number] = client.acquire()
        print(client.call(number, lambda: sorted(__import__("os").environ)))
        print(open(f"/proc/{client.connection.pid}/environ").read())
        client.close()
        """,
        env={**os.environ, "PMI_RANK": "3", "OMPI_COMM_WORLD_RANK": "3", "SLURM_PROCID": "3"},
    )
    assert done.returncode == 0, done.stderr
    assert not any(name in done.stdout for name in ("PMI_RANK", "OMPI_COMM", "SLURM_PROCID"))


def test_prints_of_functions_show_where_the_program_prints():
    done = run("""
        from rfaas.config import Embedded
        from support.raw_client import RawClient
        client = RawClient(Embedded())
        [number] = client.acquire()
        client.call(number, print, "from the function")
        client.close()
    """)
    assert (done.stdout, done.stderr) == ("from the function\n", "")


def test_a_module_in_the_working_directory_does_not_break_the_daemon(tmp_path):
    for name in ("asyncio", "msgpack", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not for daemons')")
    done = run(
        """
        import sys
        sys.path.remove("")
        from rfaas.config import Embedded
        from rfaas.session import environment
        from rfaas.session.start import connect
        print(connect(Embedded(), client_id=b"c" * 16, env=environment.current()).mode)
        """,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("embedded\n", "")


def test_a_session_process_that_loses_the_race_ends_quietly(client):
    start_ticks = names.process_start(os.getpid())
    arguments = ["--embedded", "--client-pid", str(os.getpid()), "--client-start", str(start_ticks)]
    done = subprocess.run(
        [sys.executable, "-m", "rfaas.session", *arguments], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert alive(client.connection.pid)


def test_a_session_process_for_a_program_that_is_gone_ends():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "rfaas.session",
            "--foreground",
            "--embedded",
            "--client-pid",
            "1",
            "--client-start",
            "7",
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_no_client_is_turned_away(client):
    recycled = {
        "m": "join",
        "client": b"c" * 16,
        "version": 1,
        "start": names.process_start(os.getpid()) + 1,
        "env": {},
    }
    for first in (b"\xc1", packets.pack({"m": "want"}), packets.pack(recycled)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(own_name())
            sock.settimeout(5)
            sock.send(first)
            assert sock.recv(100) == b""
    assert alive(client.connection.pid)


def own_name():
    """Name of the socket of this process's session process."""
    return names.socket_name(os.getuid(), names.embedded_key(os.getpid(), names.process_start(os.getpid())))


def as_nobody(work):
    """Fork a child of another uid that does `work(say, wait)`; returns its pid and both ends of the talk."""
    heard, said = os.pipe()
    waited, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(heard)
            os.close(let_go)
            os.setuid(65534)
            work(lambda text: os.write(said, text.encode()), lambda: os.read(waited, 1))
        finally:
            os._exit(0)
    os.close(said)
    os.close(waited)
    return pid, heard, let_go


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can play two users")


@needs_root
def test_a_session_process_refuses_other_users(client):
    name = own_name()

    def connect_to_it(say, _wait):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(5)
            sock.connect(name)
            say(packets.receive(sock)[0]["code"])

    pid, heard, let_go = as_nobody(connect_to_it)
    assert os.read(heard, 100) == b"authentication-failed"
    os.waitpid(pid, 0)
    for descriptor in (heard, let_go):
        os.close(descriptor)


@needs_root
def test_a_client_does_not_believe_another_user_at_its_address():
    name = own_name()

    def sit_there(say, wait):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(name)
            sock.listen(8)
            say("sits")
            wait()

    pid, heard, let_go = as_nobody(sit_there)
    assert os.read(heard, 100) == b"sits"
    with pytest.raises(AuthenticationFailed, match="65534"):
        RawClient(Embedded())
    os.close(let_go)
    os.waitpid(pid, 0)
    os.close(heard)


# --- ending ---------------------------------------------------------------------------------------------------

KILLED = """
    import os, sys, time
    from rfaas.config import Embedded
    from support.raw_client import RawClient
    client = RawClient(Embedded())
    [number, other] = client.acquire(2)
    client.submit(other, lambda: __import__("time").sleep(100))
    if "fork" in os.environ.get("WAY", "") and os.fork() == 0:
        os.close(1)
        time.sleep(1000)
    client.call(number, int)
    print(client.connection.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["exit", "kill", "kill with a fork"])
def test_after_the_program_s_end_nothing_is_left(way, tmp_path):
    with start(KILLED, env={**os.environ, "WAY": way, "TMPDIR": str(tmp_path)}) as program:
        session_pid = int(program.stdout.readline())
        processes = family(session_pid)
        sockets = sockets_of(session_pid)
        files = {name for pid in processes for name in open_files(pid)}
        forked = [pid for pid in children(program.pid) if pid not in processes]
        assert bool(forked) == ("fork" in way)
        if way == "exit":
            program.stdin.close()
        else:
            program.kill()
        program.wait(30)
    wait_until(lambda: not any(alive(pid) for pid in processes), 5, "the end of all processes")
    assert len(processes) >= 4  # session, template, two workers
    assert len([name for name in sockets if "rfaas" in name]) == 2  # of session and agent
    assert not sockets & abstract_sockets()
    assert not any(name.startswith("/dev/shm/") for name in files)
    assert os.listdir(tmp_path) == []
    assert all(alive(pid) for pid in forked)
    for pid in forked:
        os.kill(pid, signal.SIGKILL)


def test_a_killed_session_process_takes_its_workers_along_and_another_serves(client):
    [number] = client.acquire()
    worker = client.call(number, os.getpid)
    processes = family(client.connection.pid)
    os.kill(client.connection.pid, signal.SIGKILL)
    with pytest.raises(SessionEnded):
        wait_until(lambda: client.pump(), 1)
    wait_until(lambda: not any(alive(pid) for pid in processes), 1, "the end of template and workers")
    again = RawClient(Embedded())
    [number] = again.acquire()
    assert again.call(number, os.getpid) != worker
    again.close()
    wait_until(lambda: not alive(again.connection.pid), 10)


def test_sigterm_ends_it_with_farewells(client):
    client.acquire()
    processes = family(client.connection.pid)
    os.kill(client.connection.pid, signal.SIGTERM)
    with pytest.raises(SessionEnded):
        wait_until(lambda: client.pump(), 5)
    assert [m["m"] for m in client.messages][-2:] == ["farewell", "ended"]
    wait_until(lambda: not any(alive(pid) for pid in processes), 5)


def test_it_inherits_no_descriptor_of_the_program():
    done = run("""
        import os
        from rfaas.config import Embedded
        from support.raw_client import RawClient
        mine = os.open("/etc/hostname", os.O_RDONLY)
        os.set_inheritable(mine, True)
        client = RawClient(Embedded())
        [number] = client.acquire()
        pids = [client.connection.pid, client.call(number, os.getpid)]
        for pid in pids:
            print(any("hostname" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")))
        print(os.readlink(f"/proc/{pids[0]}/cwd"), os.readlink(f"/proc/{pids[0]}/fd/0"))
        print(os.getsid(pids[0]) == os.getsid(0))
        client.close()
    """)
    assert (done.stdout, done.stderr) == ("False\nFalse\n/ /dev/null\nFalse\n", "")
