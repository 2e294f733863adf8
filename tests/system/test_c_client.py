"""Programs in C, compiled and run as their authors would: what comes back, what goes wrong, what is killed under them.

Each runs with the library under the address and undefined-behaviour sanitizers, which also see what it leaves.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient
from rfaas.librfaas import building
from rfaas_transport import verbs
from support import residue
from support.c_build import VALGRIND
from support.c_client import (
    INCLUDES,
    ROOT,
    SANITIZED,
    STRICT,
    TIMEOUT_S,
    Running,
    compile_c,
    compile_kernels,
    compile_program,
    ended_after,
    in_a_long_call,
    program_sources,
)
from support.leftovers import alive, children
from support.personal import Personal
from support.session_of_c import SessionOfC, echo_until_the_end
from support.soak import SOAK
from support.waiting import wait_until

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    return compile_kernels(tmp_path_factory.mktemp("kernels") / "libkernels.so")


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The test program with all of the client in it, sanitized."""
    return compile_program(tmp_path_factory.mktemp("c_client") / "program", SANITIZED)


@pytest.fixture(scope="session")
def plain_program(tmp_path_factory):
    """The same without sanitizers."""
    return compile_program(tmp_path_factory.mktemp("c_client") / "plain", ["-O1", "-g", "-pthread"])


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("RFAAS_PYTHON", sys.executable)


@pytest.fixture
def start(program, kernels, environment):
    with ended_after() as keep:
        yield lambda *words: keep(Running(program, kernels, *words))


@pytest.fixture
def start_long(start, tmp_path):
    """Have a call run that takes so long; returns the program, and its worker's pid."""

    def begin(ms, command="long"):
        witness = tmp_path / f"runs-{command}-{ms}"
        return in_a_long_call(start(command, ms, witness), witness)

    return begin


@pytest.fixture
def personal(tmp_path, monkeypatch):
    cluster = Personal(tmp_path)
    cluster.start_allocator()
    cluster.start_agent(cores=2, grace_s=0.3)
    monkeypatch.setenv("RFAAS_ALLOCATOR", str(cluster.state_dir))
    yield cluster
    cluster.stop()


@pytest.fixture
def nothing_stays(event_log):
    """An embedded session process leaves with its program."""
    yield
    wait_until(lambda: not session_processes(event_log), 10, "the end of session processes")


def session_processes(events):
    return [pid for pid in residue.marked_processes(events) if "rfaas.session" in residue.command(pid)]


# --- on this machine alone ----------------------------------------------------------------------------------------


def test_a_thousand_calls_one_after_the_other(start, nothing_stays):
    start("invoke", 100_000 if SOAK else 1000).finish()


@pytest.mark.serial  # with sanitizers, 66,000 times
def test_more_calls_on_one_channel_than_16_bits_number(start, nothing_stays):
    start("invoke-on-one", 66_000).finish()


def test_a_thousand_calls_at_a_time_are_answered_once_each(start, nothing_stays):
    start("submit", 20_000 if SOAK else 1000).finish()


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("words", [("invoke", 200), ("submit", 100)], ids=lambda words: words[0])
def test_valgrind_finds_nothing_in_a_program(plain_program, kernels, environment, monkeypatch, transport, words):
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind: see tools/apt-packages.txt")
    monkeypatch.setenv("RFAAS_EXECUTOR_TRANSPORT", transport)
    command = [*VALGRIND, plain_program, kernels, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_payloads_of_all_sizes(start, monkeypatch, transport):
    monkeypatch.setenv("RFAAS_EXECUTOR_TRANSPORT", transport)
    start("sizes").finish()


def test_wrong_calls_get_clear_errors_and_lose_nothing(start):
    output = start("wrong").finish()
    for words in (
        r"code=bad-function .*has no symbol 'no_such'",
        r"code=function-error .*value=-42 .*the function returned -42",
        r"code=payload-too-large .*the output would have 9 bytes, there is room for 4",
        r"code=payload-too-large .*may_have_run=0 .*the input has 1099511627776 bytes, a call takes 4294967296",
        r"code=config .*/no/such.so can't be used as a library of functions: No such file or directory",
        r"code=config .*/etc/passwd can't be used .*it is no ELF file",
        r"code=config .*/proc/self can't be used .*: Is a directory",
        r"code=config .*/tmp/rfaas-empty-\w+ can't be used .*: it is no ELF file",
        r"code=config .*the interpreter /no/such/python can't be started: No such file or directory",
        r"code=allocator-unavailable .*ended without an answer",
        r"code=config .*transport='pigeon'",
        *(
            rf"code=config .*load={load}.* memory"
            for load in ("'heavy'", "''", "'--help'", r"'\\udcff'", "'memory,io'")
        ),
        r"code=argument .*the options say more than this library knows",
        r"code=argument .*retries need an idempotent call",
    ):
        assert re.search(words, output), (words, output)


def test_a_function_that_crashes_its_worker(start):
    output = start("crash", "crash").finish()
    assert "code=worker-lost reason=14 may_have_run=1 phase=4" in output
    assert "retriable=1" in output


def test_time_outs_and_cancelling(start, nothing_stays):
    output = start("time-outs").finish()
    assert re.search(r"code=deadline-exceeded reason=17 may_have_run=1 phase=4 .*call_timeout_s=0.3 passed", output)
    assert re.search(r"code=cancelled reason=18 may_have_run=1", output)


def test_a_forked_child_is_refused_and_its_parent_goes_on(start):
    assert "code=forked" in start("fork").finish()


def test_threads_share_a_client(start):
    start("threads").finish()


def test_signals_of_the_program_disturb_nothing(start):
    start("signals").finish()


def test_durations_that_no_clock_counts_and_options_that_nobody_began(start):
    assert re.search(r"code=argument .*these are no rfaas_call_options of any version", start("durations").finish())


def test_a_program_whose_numbers_have_a_decimal_comma(start, tmp_path, monkeypatch):
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"], capture_output=True)
    if made.returncode != 0:
        pytest.skip("no definitions of locales: see tools/apt-packages.txt")
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    start("comma", "de_DE.UTF-8").finish()


def test_output_that_nobody_reads_ends_no_program(start):
    running = start("unread")
    running.process.stdout.close()
    assert (running.process.wait(TIMEOUT_S), running.process.stderr.read()) == (0, b"")


def test_the_embedded_session_process_is_killed_in_a_call(start_long):
    running, worker = start_long(60_000)
    session = session_of(running.process.pid)
    os.kill(session, signal.SIGKILL)
    text = running.line()
    assert text.startswith("code=agent-lost reason=16 may_have_run=1"), text
    assert "sessions_lost=1" in running.finish()
    wait_until(lambda: not alive(worker), 10, "the end of the worker")


def session_of(pid):
    """The embedded session process of a program."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            named = words.index(b"--client-pid") + 1 if b"--client-pid" in words else 0
            if b"rfaas.session" in words and named and words[named] == str(pid).encode():
                return int(entry)
    raise AssertionError("it has none")


def test_a_program_of_the_header_before_load_is_served(start):
    start("of-first-version").finish()


# --- with an allocator --------------------------------------------------------------------------------------------


def test_a_killed_worker_fails_a_call_typed_or_costs_a_retry(start_long, personal):
    running, worker = start_long(60_000)
    os.kill(worker, signal.SIGKILL)
    assert running.line().startswith("code=worker-lost reason=14 may_have_run=1 phase=4")
    running.finish()

    running, worker = start_long(60_000, "long-idempotent")
    os.kill(worker, signal.SIGKILL)
    assert running.line().startswith("code=success")
    assert "retried=1 failed=0" in running.finish()


def test_a_killed_agent_fails_a_call_typed_and_the_next_goes_elsewhere(start_long, personal):
    running, _ = start_long(60_000)
    personal.start_agent(cores=1)
    personal.agents[0].kill()
    assert re.match(r"code=agent-lost reason=16 may_have_run=1 phase=2 .*the agent on \S+ died", running.line())
    running.finish()


def test_a_reclaim_fails_a_call_typed_or_costs_it_nothing(start_long, personal):
    personal.start_agent(1, 0.3)
    for command, means in (("long", "code=reclaimed reason=6"), ("long-idempotent", "code=success")):
        running, worker = start_long(60_000, command)
        (its,) = (agent for agent in personal.agents if worker in children(agent.pid))
        its.terminate()
        personal.start_agent(1, 0.3)
        text = running.line()
        assert text.startswith(means), text
        assert "may_have_run=1 phase=4" in text or command != "long"
        assert "retried=0 failed=" in running.finish()


def test_calls_do_not_notice_the_death_of_the_session_process(start_long, personal):
    running, _ = start_long(2000)
    for pid in personal.session_pids():
        os.kill(pid, signal.SIGKILL)
    assert running.line().startswith("code=success")
    assert "sessions_lost=1 retried=0 failed=0" in running.finish()


def test_a_program_that_computes_for_longer_than_a_ttl_keeps_its_worker(start, personal):
    start("away", int(1.5 * personal.ttl_s)).finish()


def test_without_workers_a_call_fails_in_time(start, personal):
    personal.agents[0].terminate()
    personal.agents[0].wait(20)
    assert re.search(
        r"code=acquire-timeout .*no worker came within acquire_timeout_s=0.5", start("no-workers").finish()
    )


def loads_wanted(personal):
    """Loads of the functions that wait, as the allocator has them."""

    async def ask():
        async with AdminClient(AllocatorAddress.load(personal.state_dir)) as admin:
            return [want.load for want in (await admin.snapshot()).wants]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("named", "configured", "told"), [("memory", "io", "memory"), ("0", "io", "io"), ("unknown", "io", "")]
)
def test_the_allocator_knows_the_load_and_the_program_why_it_waits(
    start, personal, monkeypatch, named, configured, told
):
    personal.agents[0].terminate()
    personal.agents[0].wait(20)
    monkeypatch.setenv("RFAAS_EXECUTOR_LOAD", configured)
    running = start("why-waiting", named)
    assert re.match("why=.+: 1 more asked for", running.line())
    assert loads_wanted(personal) == [told]
    for pid in personal.session_pids():  # the next one is told again
        os.kill(pid, signal.SIGKILL)
    personal.start_agent(cores=1)
    running.finish()


def test_a_client_that_is_killed_leaves_nothing(start_long, personal):
    running, worker = start_long(60_000)
    running.process.kill()
    wait_until(lambda: not alive(worker), 10, "the end of its worker")


# --- by a session process that is the test's -----------------------------------------------------------------------


@pytest.fixture
def session(tmp_path, monkeypatch):
    made = SessionOfC(tmp_path)
    monkeypatch.setenv("RFAAS_PYTHON", str(made.helper))
    yield made
    made.close()


@pytest.fixture
def call_failing(session, program, kernels):
    """The program, joined, which says how its call failed."""
    running = Running(program, kernels, "say-failure")
    session.welcome()
    yield running
    running.process.kill()
    running.process.communicate()


NO_RDMA = "no RDMA device is here|rfaas was built without rdma-core"


def test_a_program_that_cannot_use_rdma_says_why_and_is_told_that_nothing_else_was_wanted(session, call_failing):
    why = session.hear("want")["no_verbs"]
    assert re.search(NO_RDMA, why)
    hint = f"RDMA to the workers on n1 can't be had: {why}"
    session.say({"m": "denied", "executor": 1, "code": "verbs-unavailable", "hint": hint})
    assert re.search(rf"code=config .*may_have_run=0 .*{re.escape(hint)}", call_failing.line())
    assert "rfaas doctor" in call_failing.line()


def test_a_channel_over_rdma_that_cannot_be_made_is_given_back_and_the_next_one_serves(session, call_failing):
    with session.open(1, "verbs") as refused:
        assert re.search(NO_RDMA, session.hear("unusable")["why"])
        assert refused.recv(192) == b""
    echo_until_the_end(session.open(2, "tcp"))
    assert call_failing.line().startswith("code=success")


@pytest.mark.parametrize("load", ["", "network"])
def test_a_load_is_told_with_the_want_as_the_helper_says_it(tmp_path, monkeypatch, program, kernels, load):
    session = SessionOfC(tmp_path, load=load)
    monkeypatch.setenv("RFAAS_PYTHON", str(session.helper))
    running = Running(program, kernels, "say-failure")
    try:
        session.welcome()
        assert session.hear("want")["load"] == load
    finally:
        running.process.kill()
        running.process.communicate()
        session.close()


# --- as it is installed -------------------------------------------------------------------------------------------


def test_the_installed_library_is_found_by_compilers(tmp_path, kernels, monkeypatch):
    monkeypatch.delenv("RFAAS_PYTHON", raising=False)  # it knows the interpreter that it was installed with
    words = building.words(cflags=True, libs=True)
    place = compile_c(tmp_path / "program", *STRICT, "-Wpedantic", "-O2", *program_sources(), "-pthread", *words)
    done = subprocess.run([place, kernels, "invoke", "100"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_library_exports_what_its_header_declares_and_nothing_else():
    declared = set(re.findall(r"RFAAS_API [^;]*?(rfaas_\w+)\(", (ROOT / "transport/include/rfaas.h").read_text()))
    library = building.place("lib/librfaas.so")
    names = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in names.splitlines()} == declared


def test_the_library_needs_no_libibverbs_and_what_does_exports_one_name():
    library = building.place("lib/librfaas.so")
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed
    assert "ibverbs" not in needed
    if verbs.is_built():
        module = library.with_name("librfaas_verbs.so")
        names = subprocess.run(
            ["nm", "-D", "--defined-only", module], capture_output=True, text=True, check=True
        ).stdout
        assert [line.split()[-1] for line in names.splitlines()] == ["rfaas_verbs_module_of_c"]


def test_the_header_is_valid_cpp(tmp_path):
    source = tmp_path / "program.cpp"
    source.write_text("#include <rfaas.h>\nint main() { rfaas_error error = RFAAS_ERROR_INIT; return error.code; }\n")
    compile_c(tmp_path / "program", "-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", INCLUDES[0], source, "-c")


def test_a_program_that_asks_for_encryption_is_not_served_in_plain(program, kernels, environment, monkeypatch):
    monkeypatch.setenv("RFAAS_EXECUTOR_TRANSPORT_SECURITY", "encrypt")
    done = subprocess.run([program, kernels, "invoke", "1"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (3, "")
    assert "code=config" in done.stdout
    assert "can't encrypt" in done.stdout
