"""A program in C on a cluster whose site lends: nothing is started before it, and the session process dies under it."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from cluster.rig import conf
from cluster.rig.settings import HEAD
from cluster.site_rig import NODE, SITE_PORT, WAIT_S, up
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/system/c_client/program"
CALL_MS = 6000


@pytest.fixture
def cluster(site_ground):
    return site_ground


@pytest.fixture
def program(alice):
    """The client's test program, built as alice would, and its functions; called with a command of it."""
    sources = [*PROGRAM.glob("*.[ch]"), PROGRAM.parent / "functions.c", ROOT / "tests/support/kernels/kernels.c"]
    for source in sources:
        alice.put(f"c/{source.parent.name}/{source.name}", source.read_text())
    folder = f"{alice.account.home}/c"
    compile_ = "cc -D_GNU_SOURCE -pthread $(rfaas config --cflags)"
    build = f"{compile_} -o test-program program/*.c $(rfaas config --libs)"
    build += f" && {compile_} -fPIC -shared -o libkernels.so kernels/kernels.c c_client/functions.c"
    alice.run(HEAD, ["sh", "-c", f"cd {folder} && {build}"], WAIT_S)
    return lambda *words: [f"{folder}/test-program", f"{folder}/libkernels.so", *map(str, words)]


def sessions_of(user):
    """Session processes of the user."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == user.account.uid:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found += [int(entry.name)] if b"rfaas.session" in words else []
        except OSError:
            continue
    return found


def nothing_runs(user):
    """Whether the user's allocator and session process are gone, which nobody stopped."""
    return not (user.home / ".local/state/rfaas/allocator.json").exists() and not sessions_of(user)


@pytest.mark.timeout(300)
def test_a_program_in_c_is_lent_a_node_and_its_session_process_is_killed(site, alice, page, program):
    assert nothing_runs(alice)
    begun_s = time.monotonic()
    with alice.popen(HEAD, program("long", CALL_MS, page), env=site.environment) as running:
        worker = running.process.stdout.readline()
        print(f"\nfirst answer after {time.monotonic() - begun_s:.2f} s")
        assert worker.startswith("worker="), running.process.stderr.read()
        (lent,) = up(alice)
        assert NODE in str(lent["node"])
        wait_until(page.exists, WAIT_S, "the call to run")
        (session,) = sessions_of(alice)
        os.kill(session, signal.SIGKILL)
        out, err = running.process.communicate(timeout=WAIT_S)
        print(out)
        assert running.process.returncode == 0, err
        assert re.match(r"code=success .*\nsessions_lost=1 retried=0 failed=0\n$", out), (out, err)
    wait_until(lambda: nothing_runs(alice), WAIT_S, "the end of what the program started")
    wait_until(lambda: "slices=0 jobs=0" in site.hook("rfaas-hook/1 status"), WAIT_S, "the end of what was lent")


@pytest.mark.timeout(300)
def test_a_program_in_c_is_told_what_is_wrong_and_what_helps(site, alice, program):
    def says(command="say-failure", **environment):
        given = {**site.environment, "RFAAS_EXECUTOR_ACQUIRE_TIMEOUT_S": "3", **environment}
        done = alice.run(HEAD, program(command), WAIT_S, env=given, check=False)
        print(done.stdout, done.stderr)
        return done.stdout

    no_munge = says(RFAAS_SITE_MUNGE_SOCKET="/run/rig/none.socket")
    assert no_munge.startswith("code=allocator-unavailable ")
    assert "may_have_run=0" in no_munge
    assert "see that munged runs on this host" in no_munge
    away = says(RFAAS_SITE_ALLOCATOR=f"{conf.address(HEAD)}:7499")
    assert away.startswith("code=acquire-timeout ")
    assert "see that it runs there" in away
    assert says(RFAAS_SITE_ALLOCATOR="nonsense").startswith("code=")
    large = says(RFAAS_EXECUTOR_CORES="64")
    assert large.startswith("code=lease-denied ")
    assert "too-large" in large
    wait_until(lambda: nothing_runs(alice), WAIT_S, "the end of what the programs started")


@pytest.mark.timeout(300)
def test_a_program_in_c_that_waits_without_a_limit_knows_why(site, alice, program):
    away = {**site.environment, "RFAAS_SITE_ALLOCATOR": f"{conf.address(HEAD)}:{SITE_PORT + 50}"}
    words = program("why-waiting", "memory")
    with alice.popen(HEAD, words, env=away) as running:
        reasons = iter(running.process.stdout.readline, "")
        why = next(
            (line for line in reasons if line.startswith("why=the site lends nothing now")), "nothing of the site"
        )
        print(why)
        assert "see that it runs there" in why
    wait_until(lambda: nothing_runs(alice), WAIT_S, "the end of what the program started")
