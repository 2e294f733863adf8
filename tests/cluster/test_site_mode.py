"""Site mode on a real cluster whose Slurm runs our hooks: users' slices on a node, and the jobs that take it back."""

import contextlib
import json
import secrets
import signal
import subprocess
import time

import pytest

from cluster.delay import build_probe
from cluster.harvested import snapshot
from cluster.hook_rig import node_log
from cluster.rig import conf
from cluster.rig.settings import HEAD
from cluster.site_rig import NODE, WAIT_S, WATCH, daemon, up
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

# What a user's function tells of where it runs, and what it can do to somebody else's.
PROGRAM = """\
import json, sys
import rfaas

def where():
    import os, socket
    groups = [line.strip().split(":")[1:] for line in open("/proc/self/cgroup")]
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    agent = [int(p) for p in os.listdir("/proc") if p.isdigit() and os.stat(f"/proc/{p}").st_uid == os.getuid()]
    return {"uid": os.getuid(), "node": socket.gethostname(), "pid": os.getpid(), "groups": groups,
            "caps": status["CapBnd"].strip(), "no_new_privs": status["NoNewPrivs"].strip(),
            "cpus": sorted(os.sched_getaffinity(0)), "own": agent}

def attack(victims, paths):
    import os, signal
    got, tried = [], 0
    def attempt(name, act):
        nonlocal tried
        tried += 1
        try:
            act()
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            return
        got.append(name)
    seen = {int(p) for p in os.listdir("/proc") if p.isdigit()}
    for pid in victims:
        if pid in seen:
            got.append(f"sees {pid}")
        attempt(f"signals {pid}", lambda: os.kill(pid, signal.SIGKILL))
        for file in "environ", "mem", "maps", "cmdline":
            attempt(f"reads {file} of {pid}", lambda: open(f"/proc/{pid}/{file}", "rb").read(1))
        attempt(f"lists files of {pid}", lambda: os.listdir(f"/proc/{pid}/fd"))
    for path in paths:
        attempt(f"lists {path}", lambda: os.listdir(path))
        attempt(f"reads {path}/secret", lambda: open(f"{path}/secret", "rb").read())
    return {"got": got, "tried": tried}

def call(address, secret):
    import socket
    from rfaas_transport.handshake import Dialer, handshake_blocking
    kind, _, rest = address.partition(":")
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        sock = socket.create_connection((host, int(port)), 10)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect("\\0" + rest[1:])
    try:
        handshake_blocking(sock, Dialer(secret, "session", {}), 10.0)
    except Exception as error:
        return type(error).__name__
    return "let in"

given = json.loads(sys.argv[1])
with rfaas.Executor(max_workers=1, acquire_timeout_s=60) as ex:
    answer = {"where": ex.submit(where).result(60)}
    if "victims" in given:
        answer["attack"] = ex.submit(attack, given["victims"], given["paths"]).result(60)
        secret = open(given["own"] + "/secret", "rb").read()
        answer["called"] = [ex.submit(call, address, secret).result(60) for address in given["addresses"]]
print(json.dumps(answer))
"""


# A program that starts nothing but itself: its function writes down how long it lived, and loses its node to a job.
ALONE = """\
import os, sys, time
import rfaas

def beat(path):
    import mmap, struct, time
    with open(path, "w+b") as file:
        file.truncate(4096)
        page = mmap.mmap(file.fileno(), 4096)
        while True:
            page[:8] = struct.pack("=q", time.clock_gettime_ns(time.CLOCK_BOOTTIME))

def where():
    import socket
    return socket.gethostname()

begun_s = time.monotonic()
with rfaas.Executor(max_workers=1, acquire_timeout_s=60) as ex:
    print("first on", ex.submit(where).result(60), f"{time.monotonic() - begun_s:.2f}", flush=True)
    if len(sys.argv) > 1:
        try:
            ex.submit(beat, sys.argv[1]).result(90)
        except rfaas.RfaasError as error:
            print("lost", type(error).__name__, error.phase, flush=True)
        print("again on", ex.submit(where).result(60), flush=True)
"""
# A program whose node is evicted again and again: a call that may run once, one that may run twice, one that waits.
EVICTED = """\
import json, sys, time
import rfaas

def run_on():
    if (attempt := rfaas.current().attempt) == 0:
        while True:
            pass
    return attempt

def short():
    return "ran"

with rfaas.Executor(max_workers=2, acquire_timeout_s=60) as ex:
    for _ in range(int(sys.argv[1])):
        once, twice = ex.submit(run_on), ex.options(idempotent=True).submit(run_on)
        waits = ex.submit(short)
        while not (once.running() and twice.running()):
            time.sleep(0.01)
        time.sleep(1.5)  # both have begun, and the site's allocator has heard of the slice
        print("running", flush=True)
        error = once.exception(60)
        told = {"error": type(error).__name__, "phase": error.phase, "grace_s": error.grace_s}
        print(json.dumps({**told, "at_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME)}), flush=True)
        print(json.dumps({"attempt": twice.result(60), "waited": waits.result(60)}), flush=True)
"""


@pytest.fixture
def cluster(site_ground):
    return site_ground


@contextlib.contextmanager
def allocator_of(user):
    """The user's own allocator on the head, without any capacity."""
    state_dir = f"{user.account.home}/.local/state/rfaas"
    words = ["python", "-m", "rfaas_allocator", "--state-dir", state_dir, "--listen", conf.address(HEAD)]
    with user.popen(HEAD, words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        wait_until(lambda: (user.home / ".local/state/rfaas/allocator.json").exists(), WAIT_S, "the allocator")
        yield state_dir
        running.signal(signal.SIGTERM)
        running.wait(WAIT_S)


def run(user, program, **given):
    answer = user.run(HEAD, ["python", program, json.dumps(given)], WAIT_S)
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.timeout(400)
def test_two_users_on_one_node_reach_nothing_of_each_other_and_go_when_a_job_comes(cluster, site, alice, bob):
    programs = {user: user.put("program.py", PROGRAM) for user in (alice, bob)}
    with allocator_of(alice) as of_alice, allocator_of(bob) as of_bob:
        for user in alice, bob:
            started = site.lend(user)
            assert started.returncode == 0, started.stderr
            wait_until(lambda user=user: len(up(user)) == 1, WAIT_S, f"the slice of {user.name}")
        places = {user: run(user, programs[user])["where"] for user in (alice, bob)}
        for user, place in places.items():
            assert (place["uid"], place["node"]) == (user.account.uid, NODE)
            assert (int(place["caps"], 16), place["no_new_privs"]) == (0, "1")
            assert any(site.cgroup in path for _, path in place["groups"])
        assert not set(places[alice]["cpus"]) & set(places[bob]["cpus"])
        addresses = [entry["address"] for entry in snapshot(bob)["slices"] if entry.get("address")]
        attack = run(
            alice,
            programs[alice],
            victims=places[bob]["own"],
            paths=[of_bob, bob.account.home],
            own=of_alice,
            addresses=addresses,
        )
        print(f"\n{attack['attack']['tried']} tries, calls: {attack['called']}")
        assert attack["attack"]["got"] == []
        assert attack["attack"]["tried"] > 10
        assert set(attack["called"]) <= {"AuthenticationFailed", "ChannelBroken"}
        # nor by commands: another's state is no business of hers
        seen = alice.run(HEAD, ["rfaas", "status", "--state-dir", of_bob], WAIT_S, check=False)
        assert seen.returncode != 0
        assert len(up(bob)) == 1
        refused = site.lend(alice)  # both cores are lent
        assert refused.returncode != 0
        assert "no-room" in refused.stderr
        answer = site.hook("rfaas-hook/1 evict job=77 uid=0 node=n1")
        print(answer)
        assert answer.startswith("rfaas-hook/1 done evicted=2 ms=")
        for user in alice, bob:
            wait_until(lambda user=user: up(user) == [], WAIT_S, f"the end of {user.name}'s slice")
        assert site.hook("rfaas-hook/1 status").startswith("rfaas-hook/1 done slices=0 jobs=1 ")
        site.hook("rfaas-hook/1 free job=77")


def last_ns(page):
    """When the function last ran (CLOCK_BOOTTIME); 0 if it never did."""
    return int.from_bytes(page.read_bytes()[:8], "little") if page.exists() else 0


@contextlib.contextmanager
def program(cluster, user, site, *, page=None):
    """The program that starts nothing but itself; running its function, if it has a page for that, when this begins."""
    path = user.put("alone.py", ALONE)
    words = ["python", path, *([str(page)] if page else [])]
    with user.popen(HEAD, words, env=site.environment) as running:
        if page:
            wait_until(lambda: last_ns(page) > 0, WAIT_S, "the function")
        yield running
    state = user.home / ".local/state/rfaas"
    wait_until(lambda: not (state / "allocator.json").exists(), WAIT_S, "the end of the user's allocator")


@pytest.mark.timeout(300)
def test_a_program_alone_is_lent_the_node_loses_it_to_a_job_in_time_and_gets_it_back(cluster, site, alice, bob, page):
    probe = build_probe(cluster)
    with program(cluster, alice, site, page=page) as running:
        start = probe.rigid_start(bob, ["-N2", "--exclusive"], WAIT_S)  # the other node has no node agent
        (began_ns,) = [task.began_ns for task in start.tasks if task.node == NODE]
        lost_ns = last_ns(page)
        ahead_ms = (began_ns - lost_ns) / 1e6
        print(
            f"\nlast instruction of the function at {lost_ns} ns, first of the job at {began_ns} ns: {ahead_ms:.1f} ms"
        )
        print(f"srun to its first instruction: {start.delay_s:.3f} s on {start.nodes}")
        assert 0 < lost_ns < began_ns
        assert [node_log(cluster, name) for name in ("n1", "n2")] == [[], []]  # no hook had to do anything itself
        out, err = running.process.communicate(timeout=WAIT_S)
        print(out)
        lines = out.splitlines()
        assert lines[0].startswith(f"first on {NODE} "), err
        assert lines[1] == "lost Reclaimed STARTED", err  # within the 50 ms that the agent had
        assert lines[2] == f"again on {NODE}", err
    wait_until(lambda: "slices=0 jobs=0" in site.hook("rfaas-hook/1 status"), WAIT_S, "the end of what was lent")


@pytest.mark.timeout(300)
def test_an_eviction_tells_callers_before_the_agent_is_killed(cluster, site, alice):
    rounds, job = 5, 77
    path = alice.put("evicted.py", EVICTED)
    told_ms = []
    with alice.popen(HEAD, ["python", path, str(rounds)], env=site.environment) as running:
        for _ in range(rounds):
            assert running.process.stdout.readline() == "running\n", running.process.stderr.read()
            begun_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            answer = site.hook(f"rfaas-hook/1 evict job={job} uid=0 node=n1")
            assert answer.startswith("rfaas-hook/1 done evicted=")
            once = json.loads(running.process.stdout.readline())
            site.hook(f"rfaas-hook/1 free job={job}")
            others = json.loads(running.process.stdout.readline())
            told_ms.append(round((once["at_ns"] - begun_ns) / 1e6))
            print(answer, once, others)
            assert once["error"] == "Reclaimed"
            if int(answer.rpartition("=")[2]) < 50:  # the agent was done in its time; else its notice was its last word
                assert (once["phase"], once["grace_s"]) == ("STARTED", 0)
            assert others["attempt"] > 0  # run again, of itself
            assert others["waited"] == "ran"
    print(f"from the hook's start to the error in the program: {told_ms} ms")


@pytest.mark.timeout(300)
def test_a_node_agent_that_is_killed_or_absent_holds_no_job_up(cluster, site, alice, bob, page):
    probe = build_probe(cluster)
    with program(cluster, alice, site, page=page):
        site.kill_node_agent()  # and its slices with it; what they left is the hook's to end
        start = probe.rigid_start(bob, ["-N2", "--exclusive"], WAIT_S)
        (began_ns,) = [task.began_ns for task in start.tasks if task.node == NODE]
        assert 0 < last_ns(page) < began_ns
        print(f"\nnode agent killed: {(began_ns - last_ns(page)) / 1e6:.1f} ms ahead, srun {start.delay_s:.3f} s")
        assert any("nobody listens there" in line for line in node_log(cluster, NODE))
    cluster.node(NODE).run_as_root("rm", "-rf", "/run/rfaas")
    delays = [probe.rigid_start(bob, ["-N2", "--exclusive"], WAIT_S).delay_s for _ in range(3)]
    print(f"absent: srun to first instruction {', '.join(f'{delay:.3f}' for delay in delays)} s")


@pytest.mark.timeout(300)
def test_a_user_is_told_what_is_wrong_and_what_helps(cluster, site, alice):
    def says(**environment):
        path = alice.put("alone.py", ALONE.replace("acquire_timeout_s=60", "acquire_timeout_s=3"))
        done = alice.run(HEAD, ["python", path], WAIT_S, env={**site.environment, **environment}, check=False)
        assert done.returncode != 0
        print(done.stderr.splitlines()[-2:])
        return done.stderr

    assert "see that munged runs on this host" in says(RFAAS_SITE_MUNGE_SOCKET="/run/rig/none.socket")
    away = says(RFAAS_SITE_ALLOCATOR=f"{conf.address(HEAD)}:7499")
    assert "does not answer" in away
    assert "see that it runs there" in away
    assert "too-large" in says(RFAAS_EXECUTOR_CORES="64")


@pytest.mark.timeout(300)
def test_a_job_s_warning_comes_as_a_notice_and_a_drained_node_is_lent_to_nobody(cluster, site, alice, bob, page):
    probe = build_probe(cluster)
    python, log = cluster.layout.venv / "bin/python", site.folder / f"watch-{secrets.token_hex(4)}.log"
    slurm_uid = cluster.layout.run.stat().st_uid
    watch = [python, "-m", "rfaas_slurm_plugin", "site-watch", "--every-s", "0.5", "--hooks-socket", WATCH]
    environment = [f"{name}={value}" for name, value in site.environment.items()]
    command = ["/usr/bin/env", *environment, *watch, "--slurm-uid", slurm_uid]
    with daemon(cluster.head, command, log, "told nodes="), program(cluster, alice, site, page=page) as running:
        start = probe.rigid_start(bob, ["-N2", "--exclusive"], WAIT_S)
        (began_ns,) = [task.began_ns for task in start.tasks if task.node == NODE]
        print(f"\nwith a warning: {(began_ns - last_ns(page)) / 1e6:.1f} ms ahead, srun {start.delay_s:.3f} s")
        assert 0 < last_ns(page) < began_ns
        assert wait_until(lambda: running.process.stdout.readline().startswith("lost "), WAIT_S)
        cluster.head.run_as_root("scontrol", "update", f"nodename={NODE}", "state=drain", "reason=of the test")
        try:
            wait_until(lambda: "left_alone=1" in log.read_text(), WAIT_S, "Slurm's word")
            path = bob.put("alone.py", ALONE.replace("acquire_timeout_s=60", "acquire_timeout_s=3"))
            done = bob.run(HEAD, ["python", path], WAIT_S, env=site.environment, check=False)
            print(done.stderr.splitlines()[-2:])
            assert "DRAIN" in done.stderr
        finally:
            cluster.head.run_as_root("scontrol", "update", f"nodename={NODE}", "state=resume")
