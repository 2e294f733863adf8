"""What functions print, at their caller: prefixed, complete before the result, bounded, and never in anybody's way."""

import io
import os
import re
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import rfaas
from support import functions as f
from support.waiting import wait_until

TIMEOUT_S = 60
MIB = 1 << 20

PRINTS = """
    import ctypes, os, sys

    def speak(n):
        print("python", n)
        print("error", n, file=sys.stderr)
        os.system(f"echo child {n}")
        ctypes.CDLL(None).puts(b"libc %d" % n)
        os.write(1, b"no end of line %d" % n)
        return n
"""


def run_program(source, *, env=None, cwd=None):
    """A program of a user's; returns (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "RFAAS_ALLOCATOR": "embedded", **(env or {})},
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_prints_of_python_c_and_children_are_at_the_caller_before_the_result():
    out, err = run_program(
        PRINTS
        + """
    import rfaas
    with rfaas.Executor(2) as ex:
        for n in range(3):
            print("result", ex.submit(speak, n).result())
    """
    )
    lines = out.splitlines()
    results = [lines.index(f"result {n}") for n in range(3)]
    for n, begin, end in zip(range(3), [-1, *results], results, strict=False):
        said = lines[begin + 1 : end]
        assert all(re.fullmatch(r"\[\S+/\d+ #\d+\] .*", line) for line in said), said
        bare = sorted(line.partition("] ")[2] for line in said)
        assert bare == sorted([f"python {n}", f"child {n}", f"libc {n}", f"no end of line {n}"]) or bare == sorted(
            [f"python {n}", f"child {n}", f"no end of line {n}libc {n}"]
        ), said
    assert [line.partition("] ")[2] for line in err.splitlines()] == [f"error {n}" for n in range(3)]


def test_output_goes_where_sys_stdout_leads_at_that_time(monkeypatch):
    """As in a notebook, where a cell's output is no descriptor."""
    cell = io.StringIO()
    monkeypatch.setattr("sys.stdout", cell)
    with rfaas.Executor(1, allocator="embedded", output_prefix="none") as ex:
        assert ex.submit(print, "to the cell").result(TIMEOUT_S) is None
        assert cell.getvalue() == "to the cell\n"


def test_every_call_s_output_is_there_when_its_result_is(monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", said)
    with rfaas.Executor(2, allocator="embedded", output_prefix="{call}:") as ex:
        futures = [ex.submit(print, f"<{n}>") for n in range(200)]
        for n, future in enumerate(futures):
            future.result(TIMEOUT_S)
            assert f"<{n}>\n" in said.getvalue()
    assert len(said.getvalue().splitlines()) == 200


def test_a_long_call_can_be_followed_while_it_runs(monkeypatch, tmp_path):
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", said)

    def tell_then_wait(gate):
        print("begun")
        while not os.path.exists(gate):
            time.sleep(0.005)

    with rfaas.Executor(1, allocator="embedded") as ex:
        future = ex.submit(tell_then_wait, str(tmp_path / "gate"))
        wait_until(lambda: "begun" in said.getvalue(), TIMEOUT_S)
        assert not future.done()
        (tmp_path / "gate").touch()
        future.result(TIMEOUT_S)


def test_the_last_words_of_a_worker_that_crashes_arrive(monkeypatch):
    said, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stdout", said)
    monkeypatch.setattr("sys.stderr", errors)

    def crash():
        os.write(1, b"last words")
        os.kill(os.getpid(), 11)

    with rfaas.Executor(1, allocator="embedded") as ex:
        with pytest.raises(rfaas.WorkerLost):
            ex.submit(crash).result(TIMEOUT_S)
        assert "last words\n" in said.getvalue()
        assert "Segmentation fault" in errors.getvalue()  # with the Python stack, by faulthandler
        assert "in crash" in errors.getvalue()


def test_what_sys_exit_says_arrives(monkeypatch):
    errors = io.StringIO()
    monkeypatch.setattr("sys.stderr", errors)
    with rfaas.Executor(1, allocator="embedded") as ex:
        with pytest.raises(rfaas.WorkerLost):
            ex.submit(sys.exit, "out of fuel").result(TIMEOUT_S)
        assert "out of fuel\n" in errors.getvalue()


def flood(n_bytes):
    block = b"x" * 65535 + b"\n"
    for _ in range(n_bytes // len(block)):
        os.write(1, block)
    os.write(2, b"to the other stream\n")
    return n_bytes


@pytest.mark.figures
def test_a_flood_is_cut_with_a_word_and_stalls_nobody(monkeypatch):
    n_bytes = (1024 if os.environ.get("RFAAS_SOAK") else 256) * MIB
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", said)
    with rfaas.Executor(2, allocator="embedded", output_limit_bytes="64KiB", output_prefix="none") as ex:
        list(ex.map(f.sleep, [0.1, 0.1]))
        session, before_kib = ex._engine.session_pid, peak_kib(ex._engine.session_pid)
        begun_s = time.monotonic()
        flooding = ex.submit(flood, n_bytes)
        n_beside = 0
        while not flooding.done():
            assert ex.submit(f.add, n_beside).result(TIMEOUT_S) == n_beside
            n_beside += 1
        flooding.result(TIMEOUT_S)
        took_s = time.monotonic() - begun_s
        grown_kib = peak_kib(session) - before_kib
        ex.submit(print, "the next call prints as ever").result(TIMEOUT_S)
    text = said.getvalue()
    sys.__stdout__.write(f"{n_bytes // MIB} MiB in {took_s:.2f} s beside {n_beside} calls, agent +{grown_kib} KiB\n")
    assert n_beside >= 1
    assert grown_kib < 16 * 1024
    assert len(text.partition("\n")[0]) == 65535
    cut = re.search(r"^rfaas: (\d+) bytes of this call's output were cut$", text, re.MULTILINE)
    # What the agent had not taken yet when this worker began its next call counts as that one's: a pipe full at most.
    assert 0 <= n_bytes // 65536 * 65536 - 64 * 1024 - int(cut[1]) <= MIB
    assert "output_limit_bytes=65536 is reached" in text
    assert text.endswith("the next call prints as ever\n")


def peak_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def test_discarded_output_is_nowhere():
    out, err = run_program(
        PRINTS
        + """
    import rfaas
    with rfaas.Executor(1, output="discard") as ex:
        print("result", ex.submit(speak, 1).result())
    """
    )
    assert (out, err) == ("result 1\n", "")


def test_files_hold_the_output_of_each_worker(tmp_path):
    out, err = run_program(
        PRINTS
        + """
    import rfaas
    with rfaas.Executor(1, output="files", output_prefix="#{call} ") as ex:
        print(ex.submit(speak, 1).result(), ex.submit(speak, 2).result())
    """,
        cwd=tmp_path,
    )
    assert (out, err) == ("1 2\n", "")
    (out_file,) = (tmp_path / "rfaas-output").glob("*-0-*.out")
    (err_file,) = (tmp_path / "rfaas-output").glob("*-0-*.err")
    assert err_file.read_text() == "#1 error 1\n#2 error 2\n"
    assert {"#1 python 1", "#2 child 2"} <= set(out_file.read_text().splitlines())


def test_settings_come_from_the_environment_too_and_wrong_ones_say_what_is_right():
    out, _ = run_program(
        "import rfaas\nwith rfaas.Executor(1) as ex: ex.submit(print, 'bare').result()",
        env={"RFAAS_EXECUTOR_OUTPUT_PREFIX": "none"},
    )
    assert out == "bare\n"
    with pytest.raises(rfaas.ConfigError, match="output='terminal'"):
        rfaas.Executor(1, output="terminal")
    with pytest.raises(rfaas.ConfigError, match=re.escape("it may name {node}, {worker}, {call}")):
        rfaas.Executor(1, output_prefix="{pid}")
    with pytest.raises(rfaas.ConfigError, match="output_limit_bytes"):
        rfaas.Executor(1, output_limit_bytes="many")


def test_a_spawned_worker_s_output_arrives_too(tmp_path, monkeypatch):
    """The template has threads, so its workers are spawned."""
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", said)
    module = tmp_path / "numpy.py"  # a name that is preloaded if the program has it
    module.write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "numpy", threading)
    with rfaas.Executor(1, allocator="embedded") as ex:
        ex.submit(print, "from a spawned worker").result(TIMEOUT_S)
        assert "from a spawned worker\n" in said.getvalue()
