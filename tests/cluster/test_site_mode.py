"""Site mode on a real cluster whose Slurm runs our hooks: users' slices on a node, and the jobs that take it back.

The head has the site's allocator, one node root's node agent; the other node has none, as rfaas is not everywhere.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.delay import build_probe
from cluster.fixtures import checked
from cluster.harvested import snapshot
from cluster.hook_rig import CONF, LOG, build_hook, node_log, unwell_nodes
from cluster.rig import Settings, commands, conf
from cluster.rig.settings import HEAD
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

NODE = "n1"
WAIT_S = 90.0
SITE_PORT, NODE_PORT = 7411, 7410
WATCH = "@site-watch"  # who hears PrologSlurmctld, if anybody does

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
HOOKS = """\
Prolog={hook}
Epilog={hook}
PrologSlurmctld={hook}
PrologFlags=Alloc
"""


@pytest.fixture(scope="module")
def site_cluster(start_cluster):
    """Two nodes whose Slurm runs the hooks, and an environment with the wheel."""
    folder = Path(f"/var/tmp/rfaas-site-hooks-{os.getpid()}")
    folder.mkdir()
    folder.chmod(0o755)
    hook = build_hook(folder / "rfaas-hook", CONF)
    yield start_cluster(Settings(nodes=2, cpus=2, extra_conf=HOOKS.format(hook=hook)))
    shutil.rmtree(folder)


@pytest.fixture
def cluster(site_cluster):
    hooks_conf = site_cluster.layout.etc / Path(CONF).name
    hooks_conf.write_text(
        f"log_file = {LOG}\ncgroup = rfaas-{site_cluster.layout.instance}\nallocator_socket = {WATCH}\n"
    )
    hooks_conf.chmod(0o644)
    with checked(site_cluster) as clean:
        yield clean
        assert unwell_nodes(clean) == ""  # no hook drained a node, whatever it met


@dataclass(frozen=True)
class Site:
    """The site's allocator on the head and root's agent on one node."""

    cluster: object
    folder: Path
    cgroup: str
    node_agent: subprocess.Popen

    @property
    def environment(self):
        """What a site says to its users in /etc/rfaas/rfaas.toml."""
        return {
            "RFAAS_SITE_ALLOCATOR": f"{conf.address(HEAD)}:{SITE_PORT}",
            "RFAAS_SITE_MUNGE_SOCKET": conf.MUNGE_SOCKET,
            "RFAAS_SITE_KEEP_S": "1",
            "RFAAS_SESSION_LINGER_S": "0.5",
        }

    def kill_node_agent(self):
        commands.kill_group(self.node_agent.pid)
        self.node_agent.wait(20)

    def lend(self, user, **changes):
        """Have an agent of the user's started, as the user would."""
        options = {"cores": "1", "memory": "1GiB", "for": "10m", **changes}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        where = ["--allocator", f"{conf.address(HEAD)}:{SITE_PORT}", "--munge-socket", conf.MUNGE_SOCKET]
        return user.run(HEAD, ["rfaas", "site", "start", *where, *words], WAIT_S, check=False)

    def hook(self, packet):
        """What root's hook hears on the node."""
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
            "s.connect('/run/rfaas/node.sock'); s.send(sys.argv[1].encode()); print(s.recv(4096).decode())"
        )
        return self.cluster.node(NODE).run_as_root("/usr/bin/python3", "-c", code, packet).strip()


@contextlib.contextmanager
def daemon(node, argv, log, ready):
    """A daemon of root's on a node, from when its log says that it is ready."""
    with log.open("ab") as out:
        process = commands.start([*node.way_in, *map(str, argv)], stdout=out, stderr=out)
    try:
        wait_until(lambda: ready in log.read_text() or process.poll() is not None, WAIT_S, ready)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            commands.kill_group(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            commands.kill_group(process.pid)
            process.wait(20)


@pytest.fixture
def site(cluster):
    folder = cluster.layout.root / "site"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    python, node = cluster.layout.venv / "bin/python", cluster.node(NODE)
    key = folder / f"key-{secrets.token_hex(4)}"
    public = cluster.head.run_as_root(str(cluster.layout.venv / "bin/rfaas"), "site", "key", str(key)).strip()
    (agent,) = cluster.layout.venv.glob("lib/python3*/site-packages/rfaas_slurm_plugin/bin/rfaas-node-agent")
    cgroup = f"rfaas-{cluster.layout.instance}"
    settings = {
        "node": NODE,
        "listen": f"{conf.address(NODE)}:{NODE_PORT}",
        "allocator_key": public,
        "python": python,
        "cpus": "0-1",
        "memory": "2G",
        "munge_socket": conf.MUNGE_SOCKET,
        "cgroup": cgroup,
    }
    (folder / "node.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    (folder / "nodes").write_text(f"{NODE} {conf.address(NODE)}:{NODE_PORT} 2 2GiB\n")
    allocator = [python, "-m", "rfaas_allocator.site", "--listen", f"{conf.address(HEAD)}:{SITE_PORT}"]
    allocator += ["--key", key, "--nodes", folder / "nodes", "--munge-socket", conf.MUNGE_SOCKET, "--look-s", "0.5"]
    logs = [folder / f"{name}-{secrets.token_hex(4)}.log" for name in ("allocator", "node")]
    with (
        daemon(cluster.head, allocator, logs[0], "serving"),
        daemon(node, [agent, "-c", folder / "node.conf"], logs[1], "serving") as node_agent,
    ):
        wait_until(lambda: "lending jobs=0" in logs[1].read_text(), WAIT_S, "Slurm's word on the node's jobs")
        node.run_as_root("sleep", "1.1")  # grants of the second in which the node agent began are refused
        yield Site(cluster, folder, cgroup, node_agent)
    print("\n".join(log.read_text() for log in logs))
    wait_until(lambda: removed(cgroup), WAIT_S, "the end of what was lent")


def removed(cgroup):
    """Whether the control groups are gone: the node agent gives its slices their grace, and may be gone itself."""
    mounts = Path("/sys/fs/cgroup")
    for path in [*mounts.glob(f"*/{cgroup}/*/"), *mounts.glob(f"*/{cgroup}")]:
        with contextlib.suppress(OSError):
            path.rmdir()
    return not list(mounts.glob(f"*/{cgroup}"))


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


def up(user):
    return [entry for entry in snapshot(user)["slices"] if entry["state"] == "up"]


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


@pytest.fixture
def page(cluster):
    """A file at the same path on the machine and on every node, that any user may write."""
    folder = cluster.layout.share / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    folder.chmod(0o777)
    return folder / "page"


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
