"""Functions on a real agent, template and worker, over tcp and unix sockets; the test is all that is around them."""

import json
import os
import pickle
import subprocess
import sys
import venv
from pathlib import Path

import msgpack
import numpy as np
import pytest

from rfaas_transport.frame import Kind, Status
from support.agent_rig import AgentRig, environment
from support.waiting import wait_until


@pytest.fixture(params=["unix", "tcp"])
def rig(request):
    with AgentRig(tcp=request.param == "tcp") as rig:
        yield rig


@pytest.fixture
def unix_rig():
    with AgentRig() as rig:
        yield rig


@pytest.fixture
def client(unix_rig):
    _, [client] = unix_rig.session().start()
    return client


def failed(client, status=Status.EXCEPTION):
    frame = client.receive()
    assert (frame.kind, frame.status) == (Kind.RESULT, status)
    assert frame.credits == 1
    return msgpack.unpackb(frame.segments[0]), bytes(frame.segments[1])


def test_a_function_runs_in_the_clients_interpreter_and_directory(rig):
    _, [client] = rig.session().start()
    pid, executable, cwd, total = client.run(lambda *n: (os.getpid(), sys.executable, os.getcwd(), sum(n)), 1, 2, 3)
    assert (executable, cwd, total) == (sys.executable, os.getcwd(), 6)
    assert pid in rig.family()


def test_arrays_travel_out_of_band_and_arrive_writable_both_ways(rig):
    _, [client] = rig.session().start()

    def double(array):
        array *= 2  # a view over the frame's own buffer
        return array

    sent = np.arange(1 << 20, dtype=np.float64)
    client.call(double, sent)
    frame = client.receive()
    assert len(frame.segments) == 2
    got = pickle.loads(frame.segments[0], buffers=frame.segments[1:])
    assert np.array_equal(got, np.arange(1 << 20) * 2.0)
    got[0] = 7.0


def test_workers_of_one_lease_are_different_processes_without_the_launchers_variables(unix_rig):
    _, clients = unix_rig.session().start(workers=3)
    pids = {client.run(os.getpid) for client in clients}
    assert len(pids) == 3
    variables = clients[0].run(lambda: dict(os.environ))
    assert variables["OMP_NUM_THREADS"] == "1"
    assert not [name for name in variables if name.startswith(("SLURM", "PMI", "OMPI"))]


def test_forked_workers_draw_different_random_numbers(unix_rig):
    _, clients = unix_rig.session().start(workers=2, env=environment(preload=["numpy"]))

    def draw():
        import random

        import numpy

        return random.random(), float(numpy.random.rand())

    first, second = (client.run(draw) for client in clients)
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_a_function_without_its_blob_is_fetched_once(client):
    def f(x):
        return x + 1

    for n in range(3):
        client.call(f, n, along=False)
        frame = client.receive()
        if n == 0:
            assert frame.kind == Kind.FETCH
            import cloudpickle

            client.channel.send(Kind.BLOB, segments=[cloudpickle.dumps(f)])
            frame = client.receive()
        assert pickle.loads(frame.segments[0]) == n + 1


def test_a_function_whose_code_is_nowhere_is_a_bad_function(client):
    client.call(lambda: 1, along=False)
    assert client.receive().kind == Kind.FETCH
    client.channel.send(Kind.BLOB, status=Status.NOT_FOUND)
    said, _ = failed(client, Status.BAD_FUNCTION)
    assert "no code" in said["message"]


def test_an_exception_comes_as_itself_with_its_notes_cause_and_a_traceback_of_user_code_alone(client):
    class Strange(Exception):
        pass

    def outer():
        try:
            raise KeyError("inner")
        except KeyError as error:
            strange = Strange("what", 3)
            strange.add_note("look here")
            raise strange from error

    client.call(outer)
    said, pickled = failed(client)
    assert said["type"].endswith("Strange")
    assert "look here" in said["traceback"]
    assert "KeyError: 'inner'" in said["traceback"]
    assert "rfaas_executors" not in said["traceback"]
    error = pickle.loads(pickled)
    assert error.args == ("what", 3)
    assert error.__notes__ == ["look here"]


def test_an_exception_that_cannot_be_pickled_comes_as_text(client):
    def bad():
        error = ValueError("with a lock")
        import threading

        error.lock = threading.Lock()
        raise error

    client.call(bad)
    said, pickled = failed(client)
    assert (said["type"], said["message"], pickled) == ("ValueError", "with a lock", b"")


def test_what_cannot_be_unpickled_or_pickled_has_its_own_status(client):
    class Bomb:
        def __reduce__(self):
            return (eval, ("1/0",))

    class Shy:
        def __reduce__(self):
            raise TypeError("not me")

    client.call(lambda x: x, Bomb())
    assert "ZeroDivisionError" in failed(client, Status.BAD_ARGUMENTS)[0]["traceback"]
    client.call(Bomb())
    assert "ZeroDivisionError" in failed(client, Status.BAD_FUNCTION)[0]["traceback"]

    def make():
        class Local:
            def __reduce__(self):
                raise TypeError("not me")

        return Local()

    client.call(make)
    assert "not me" in failed(client, Status.BAD_RESULT)[0]["message"]


def test_a_keyboard_interrupt_that_the_function_raises_is_its_exception(client):
    def stop():
        raise KeyboardInterrupt("mine")

    client.call(stop)
    assert failed(client)[0]["type"] == "KeyboardInterrupt"


def test_a_call_of_another_lease_or_epoch_is_given_back_as_not_started(client):
    client.call(os.getpid, epoch=99)
    frame = client.receive()
    assert (frame.kind, frame.status, frame.credits) == (Kind.RESULT, Status.STALE, 1)
    assert client.run(os.getpid)


def test_a_result_larger_than_asked_for_is_too_large(client):
    client.run(len, b"")
    client.channel.send(
        Kind.CALL,
        call_id=50,
        function=0,
        lease_seq=client.terms.lease_seq,
        epoch=1,
        out_size=1,
        segments=[pickle.dumps(((b"x",), {}))],
    )
    frame = client.receive()
    assert (frame.status, frame.segments) == (Status.TOO_LARGE, ())
    assert frame.out_size > 1


def test_frames_that_make_no_sense_are_answered_and_the_channel_stays(client):
    client.channel.send(Kind.DEFINE, function=1, segments=[b"no manifest"])
    frame = client.receive()
    assert (frame.kind, frame.status) == (Kind.ERROR, Status.BAD_FRAME)
    client.channel.send(Kind.FETCH, call_id=9, segments=[b"x" * 32])
    frame = client.receive()
    assert (frame.kind, frame.status, frame.call_id) == (Kind.ERROR, Status.BAD_FRAME, 9)
    assert client.run(os.getpid)


def test_a_function_that_forks_and_returns_in_the_child_answers_once(client):
    def forks():
        return os.fork() == 0

    client.call(forks)
    assert client.result() is False
    assert client.run(os.getpid) > 0


def test_prints_of_a_function_are_out_before_its_result(unix_rig, tmp_path):
    _, [client] = unix_rig.session().start()
    path = tmp_path / "out"

    def talk(path):
        import sys

        sys.stdout = open(path, "w", buffering=1 << 16)  # noqa: SIM115
        print("hello")

    client.run(talk, str(path))
    assert path.read_text() == "hello\n"


def test_several_channels_of_one_worker_serve_in_turn_and_end_alone(unix_rig):
    session = unix_rig.session()
    terms, [first] = session.start()
    second = session.dial(terms, session.workers(1)[0])
    assert first.run(os.getpid) == second.run(os.getpid)
    first.close()
    assert second.run(os.getpid)


def test_a_package_that_only_the_clients_virtual_environment_has_is_found(unix_rig, tmp_path):
    home = tmp_path / "venv"
    venv.create(home, symlinks=True, with_pip=False)
    [site] = (home / "lib").glob("python*/site-packages")
    here = Path(msgpack.__file__).parents[1]
    (site / "deps.pth").write_text(f"import site; site.addsitedir({str(here)!r})\n")
    (site / "onlyhere").mkdir()
    (site / "onlyhere" / "__init__.py").write_text("ANSWER = 42\n")
    with pytest.raises(ModuleNotFoundError):
        __import__("onlyhere")
    python = home / "bin" / "python"
    path = subprocess.run(
        [python, "-c", "import sys, json; print(json.dumps(sys.path))"], capture_output=True, text=True
    )
    env = environment(
        python=str(python), path=[entry or str(tmp_path) for entry in json.loads(path.stdout)], cwd=str(tmp_path)
    )
    _, [client] = unix_rig.session().start(env=env)

    def answer():
        import sys

        import onlyhere

        return onlyhere.ANSWER, sys.prefix, os.getcwd()

    assert client.run(answer) == (42, str(home), str(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"python": "/no/such/python"}, "No such file"),
        ({"path": []}, "ModuleNotFoundError"),
        ({"cwd": "/no/such/directory"}, "/no/such/directory"),
        ({"version": [3, 9, 0]}, "is Python 3"),
        ({"implementation": "pypy"}, "pypy"),
    ],
)
def test_an_environment_that_does_not_work_is_refused_with_what_its_interpreter_said(unix_rig, change, says):
    session = unix_rig.session()
    terms = unix_rig.propose(workers=2)
    unix_rig.wait_for(type(unix_rig.said[-1]))
    wait_until(lambda: any(getattr(m, "lease_id", b"") == terms.lease_id for m in unix_rig.hear(0.01)), 5)
    session.attach(terms, environment(**change))
    refused = session.wait_for("refused")
    assert refused["code"] == "environment-failed"
    assert says in refused["hint"]
    assert session.wait_for("ended")["reason"] == "released"
    wait_until(lambda: unix_rig.freed(terms), 5)


def test_modules_that_start_threads_make_workers_spawn_and_the_state_says_why(unix_rig, tmp_path):
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    env = environment(preload=["threaded"])
    env["path"].insert(0, str(tmp_path))
    _, [client] = unix_rig.session().start(env=env)
    assert client.run(lambda: "threaded" in sys.modules) is True


def test_workers_are_guests_pinned_idle_first_to_go_and_without_daemons_modules(monkeypatch):
    monkeypatch.delenv("RFAAS_EVENT_LOG", raising=False)  # workers load `rfaas` to write it
    n_cpus = len(os.sched_getaffinity(0))
    with AgentRig(cores=n_cpus, sched="idle") as rig:
        _, clients = rig.session().start(workers=n_cpus)

        def describe():
            import os
            import sys

            with open("/proc/self/oom_score_adj") as adjustment:
                score = int(adjustment.read())
            daemons = {"grpc", "google.protobuf", "rfaas", "rfaas_allocator", "asyncio"} & set(sys.modules)
            with open("/proc/self/comm") as comm:
                assert comm.read() == "rfaas-worker\n"
            return os.sched_getaffinity(0), os.sched_getscheduler(0), score, daemons, os.getpgid(0) == os.getpid()

        described = [client.run(describe) for client in clients]
        assert sorted(min(cpus) for cpus, *_ in described) == sorted(os.sched_getaffinity(0))
        for cpus, scheduler, score, daemons, leads_group in described:
            assert (len(cpus), scheduler, score, daemons, leads_group) == (1, os.SCHED_IDLE, 1000, set(), True)


def test_agent_and_worker_write_what_they_did_to_the_event_log(tmp_path):
    with AgentRig(event_log=tmp_path) as rig:
        session = rig.session()
        terms, [client] = session.start()
        call_id = client.call(os.getpid)
        client.result()
        session.send({"m": "release", "lease": terms.lease_id, "reason_code": 6})
        session.wait_for("ended")
    lines = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    by_role = {role: [line for line in lines if line["role"] == role] for role in ("agent", "worker")}
    assert [line["ev"] for line in by_role["agent"]] == [
        *("epoch", "grant_accepted", "forked", "fence", "proof_of_death", "free", "reclaim_sig"),
    ]
    assert [(line["ev"], line["call_id"]) for line in by_role["worker"]] == [("started", call_id), ("done", call_id)]
    lease = terms.lease_id.hex()
    assert {line["lease"] for line in lines if "lease" in line} == {lease}
    assert by_role["worker"][0]["client"] == terms.holder.hex()
    granted = by_role["agent"][1]
    assert (granted["cores"], granted["node_epoch"], granted["lease_seq"]) == ([0], 1, terms.lease_seq)
