"""What people get wrong, as they meet it: each is an error that names cause and remedy, and costs nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig

import pytest

from support.allocator import AllocatorProcess
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

LOCKS_FAIL = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

/* A file system without locks, as NFS whose lock daemon does not run: every lock is refused. */
static int refuse_locks(const char *name, int fd, int command, void *argument) {
    int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    if (command == F_SETLK || command == F_SETLKW) {
        errno = ENOLCK;
        return -1;
    }
    return next(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return refuse_locks("fcntl", fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return refuse_locks("fcntl64", fd, command, argument);
}
"""


@pytest.fixture
def state_dir(tmp_path):
    directory = tmp_path / "state"
    yield directory
    if (directory / "daemons.json").exists():
        rfaas("down", "--purge", state_dir=directory)


def rfaas(*arguments, state_dir, **environ):
    command = [sys.executable, "-W", "error", "-m", "rfaas", *map(str, arguments)]
    env = {**os.environ, "RFAAS_STATE_DIR": str(state_dir), **environ}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=env, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def call(state_dir, **arguments):
    """What a program says that makes one call with the allocator of this directory."""
    program = (
        "import rfaas, sys\n"
        "try:\n"
        f"    print(rfaas.Executor(allocator={str(state_dir)!r}, **{arguments!r}).submit(pow, 2, 10).result(60))\n"
        "except rfaas.RfaasError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RFAAS_STATE")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, env=env)
    return done.stdout


# --- allocator ------------------------------------------------------------------------------------------------------


def test_an_allocator_that_was_killed_is_named(state_dir):
    with AllocatorProcess(state_dir) as allocator:
        allocator.start()
        allocator.kill()
        code, _, said = rfaas("status", state_dir=state_dir)
        assert (code, "does not answer" in said, "remedy" in said) == (69, True, True), said
        told = call(state_dir, acquire_timeout_s=6)  # a program on a busy machine is some seconds in starting
    assert told.startswith(("AcquireTimeout", "AllocatorUnavailable")), told
    assert "allocator" in told
    assert "remedy" in told


OF_THE_FUTURE = """
import sys
import rfaas.control.wire as wire
wire.PROTOCOL_VERSION += 5
from rfaas_allocator.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_allocator_of_another_version_is_named_with_both_versions(state_dir, tmp_path):
    command = [sys.executable, "-c", OF_THE_FUTURE, "--state-dir", str(state_dir)]
    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as allocator:
        try:
            wait_until((state_dir / "allocator.json").exists, 30, "the allocator")
            code, out, said = rfaas("status", "--json", state_dir=state_dir)
            answer = json.loads(out)
            assert (code, answer["code"], said) == (69, "version-mismatch", "")
            assert "6" in answer["error"]
            assert "install versions" in answer["hint"]
            code, out, _ = rfaas("doctor", "--json", state_dir=state_dir)
            found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
            assert (code, found["allocator"]["severity"]) == (1, "error")
        finally:
            allocator.terminate()


def test_a_port_that_is_taken_is_named(state_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, said = rfaas("up", "--cores", 1, "--listen", f"127.0.0.1:{port}", state_dir=state_dir)
    assert (code, str(port) in said, "--listen" in said) == (78, True, True), said
    assert not (state_dir / "daemons.json").exists()


# --- state directory ------------------------------------------------------------------------------------------------


def test_what_killed_daemons_left_is_no_hindrance(state_dir):
    assert rfaas("up", "--cores", 1, state_dir=state_dir)[0] == 0
    for daemon in json.loads((state_dir / "daemons.json").read_text())["daemons"]:
        os.kill(daemon["pid"], signal.SIGKILL)
    code, _, said = rfaas("up", "--cores", 1, state_dir=state_dir)
    assert code == 0, said
    assert call(state_dir) == "1024\n"


def test_a_state_directory_in_use_on_another_host_is_named(state_dir):
    with AllocatorProcess(state_dir) as allocator:
        allocator.start()
        path = state_dir / "allocator.json"
        about = json.loads(path.read_text())
        path.write_text(json.dumps({**about, "host": "elsewhere"}))
        code, _, said = rfaas("status", state_dir=state_dir)
        assert (code, "runs on elsewhere" in said, "--listen" in said) == (78, True, True), said
        (state_dir / "daemons.json").write_text(json.dumps({"host": "elsewhere", "daemons": [], "settings": {}}))
        (state_dir / "log").mkdir(exist_ok=True, mode=0o700)
        for command in ("up", "down"):
            code, _, said = rfaas(command, state_dir=state_dir)
            assert (code, "run this command on elsewhere" in said) == (78, True), said
        (state_dir / "daemons.json").unlink()


def test_a_state_directory_of_another_user_is_named(state_dir):
    if os.geteuid() != 0:
        pytest.fail("needs root, to give a directory away")
    state_dir.mkdir(mode=0o700)
    os.chown(state_dir, 65534, 65534)
    code, _, said = rfaas("up", state_dir=state_dir)
    assert (code, "belongs to uid 65534" in said, "remedy" in said) == (78, True, True), said
    code, out, _ = rfaas("doctor", "--json", state_dir=state_dir)
    assert code == 1
    assert any("belongs to uid 65534" in f["text"] and f["remedy"] for f in json.loads(out)["findings"])


@pytest.fixture(scope="module")
def locks_fail(tmp_path_factory):
    """A library that makes every lock fail as on a file system without locks."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    compiler = shutil.which(compiler) or shutil.which("cc")
    directory = tmp_path_factory.mktemp("locks")
    (directory / "locks.c").write_text(LOCKS_FAIL)
    library = directory / "locks.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(directory / "locks.c"), "-ldl"], check=True, timeout=60
    )
    return library


def test_a_state_directory_where_locks_fail_is_refused(state_dir, locks_fail):
    code, _, said = rfaas("up", "--cores", 1, state_dir=state_dir, LD_PRELOAD=str(locks_fail))
    assert (code, "can't lock" in said, "local disk" in said) == (78, True, True), said
    assert not (state_dir / "daemons.json").exists()
    code, out, _ = rfaas("doctor", "--json", state_dir=state_dir, LD_PRELOAD=str(locks_fail))
    found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert (code, found["locks"]["severity"]) == (1, "error"), found["locks"]
    assert "local disk" in found["locks"]["remedy"]


# --- Slurm ----------------------------------------------------------------------------------------------------------


def test_without_slurm_it_is_said(state_dir, tmp_path):
    (tmp_path / "bin").mkdir()
    code, _, said = rfaas("up", "--slurm", state_dir=state_dir, PATH=str(tmp_path / "bin"))
    assert (code, "remedy" in said, "Slurm's commands in PATH" in said) == (78, True, True), said
    code, out, _ = rfaas("doctor", "--json", state_dir=state_dir, PATH=str(tmp_path / "bin"))
    found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert (code, found["Slurm"]["severity"]) == (0, "info"), found["Slurm"]


FAILING = """#!/bin/sh
echo "slurm_load_partitions: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""


def test_a_slurmctld_that_is_down_is_named(state_dir, tmp_path):
    """Stand-ins for Slurm's commands say it at once; tests/cluster asks real ones, which wait for a while before."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sinfo", "squeue", "scontrol"):
        (directory / name).write_text(FAILING)
        (directory / name).chmod(0o755)
    path = f"{directory}:{os.environ['PATH']}"
    code, _, said = rfaas("up", "--slurm", state_dir=state_dir, PATH=path)
    assert (code, "Unable to contact slurm controller" in said, "remedy" in said) == (78, True, True), said
    assert not (state_dir / "daemons.json").exists()
    (tmp_path / "slurm.conf").touch()
    environ = {"PATH": path, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    code, out, _ = rfaas("doctor", "--json", state_dir=state_dir, **environ)
    found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert (code, found["Slurm"]["severity"]) == (1, "error"), found["Slurm"]


# --- written wrongly ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "--cores", "many"), "--cores='many' is not possible"),
        (("up", "--cores", "0"), "whole number from 1"),
        (("up", "--cycle-s", "soon"), "--cycle-s='soon' is not a duration"),
        (("up", "--slurm", "--nodes", "n[1-"), "--nodes: hostlist 'n[1-': a bracket is not closed"),
        (("up", "--slurm", "--nodes", "n[3-1]"), "runs backwards"),
        (("up", "--slurm", "--nodes", "n[a-b]"), "not a number or a range"),
        (("up", "--listen", "0.0.0.0"), "means every interface"),
        (("up", "--listen", "no.such.host.invalid"), "--listen no.such.host.invalid can't be used"),
        (("run", "--set", "executor.memory=lots", "--", "true"), "RFAAS_EXECUTOR_MEMORY='lots' is not a size"),
        (("run", "--set", "leases.ttl_s=10ms", "--", "true"), "RFAAS_LEASES_TTL_S='10ms' is too short"),
        (("bench", "latency", "--sizes", "1,x"), "--sizes='x' is not a size"),
        (("bench", "latency", "--call", "invoke,shout"), "--call='shout' is not known here"),
        (("bench", "latency", "--plot", "/nowhere/at/all.svg"), "there is no such directory"),
        (("bench", "latency", "--plot", "latency.xyz"), "no kind of picture"),
        (("bench", "latency", "--no-pin", "--worker-cpu", "0"), "--no-pin and a CPU to pin to"),
        (("bench", "rate", "--in-flight", "0"), "--in-flight='0' is no list of numbers from 1"),
        (("bench", "bandwidth", "--sizes", "1"), "1 bytes are no array"),
        (("bench", "cold", "--transport", "pigeon"), "pigeon"),
    ],
)
def test_what_is_written_wrongly_is_named_with_a_remedy(state_dir, arguments, said):
    code, _, told = rfaas(*arguments, state_dir=state_dir)
    assert code == 78, told
    assert said in told
    assert "remedy: " in told
    assert not (state_dir / "daemons.json").exists()
