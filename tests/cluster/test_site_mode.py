"""Site mode on a real cluster: two ordinary users on one node, each in a slice that root's node agent started."""

import contextlib
import json
import secrets
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.harvested import snapshot
from cluster.rig import commands, conf
from cluster.rig.settings import HEAD
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

NODE = "n1"
WAIT_S = 90.0
SITE_PORT, NODE_PORT = 7411, 7410

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


@dataclass(frozen=True)
class Site:
    """The site's allocator on the head and root's agent on one node."""

    cluster: object
    folder: Path
    cgroup: str

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
    allocator += ["--key", key, "--nodes", folder / "nodes", "--munge-socket", conf.MUNGE_SOCKET]
    logs = [folder / f"{name}-{secrets.token_hex(4)}.log" for name in ("allocator", "node")]
    with (
        daemon(cluster.head, allocator, logs[0], "serving"),
        daemon(node, [agent, "-c", folder / "node.conf"], logs[1], "serving"),
    ):
        node.run_as_root("sleep", "1.1")  # grants of the second in which the node agent began are refused
        yield Site(cluster, folder, cgroup)
    print("\n".join(log.read_text() for log in logs))
    for path in Path("/sys/fs/cgroup").glob(f"*/{cgroup}"):
        path.rmdir()


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
