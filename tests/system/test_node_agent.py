"""The root node agent with a real munged, real users, real control groups: starts, refusals, ends, hostile peers."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rfaas.site.starting import StartRefused
from support.munged import WHERE_ALL_REACH, munged
from support.node_agent import ALICE, BOB, MIB, SECRET, build, rig
from support.waiting import wait_until

PROBE = Path(__file__).with_name("node_agent_probe.c")
WAIT_S = 30.0


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The node agent with sanitizers, and the probe."""
    if os.geteuid() != 0:
        pytest.fail("needs root: the node agent is root's")
    objects = tmp_path_factory.mktemp("objects")
    # Not pytest's: it takes the others' rights away from what is above its folders, in the middle of a run too.
    with tempfile.TemporaryDirectory(prefix="rfaas-node-", dir=WHERE_ALL_REACH) as folder:
        os.chmod(folder, 0o755)
        agent, probe = build(objects), Path(folder) / "probe"
        command = ["cc", "-O1", "-D_GNU_SOURCE", "-Wall", "-Werror", "-o", probe, PROBE]
        subprocess.run(command, check=True, timeout=60)
        yield agent, probe


@contextlib.contextmanager
def serving(programs, **settings):
    with tempfile.TemporaryDirectory(prefix="rfaas-node-", dir=WHERE_ALL_REACH) as folder:
        os.chmod(folder, 0o755)
        with rig(programs[0], Path(folder), programs[1], pids_max=64, **settings) as node:
            yield node


@pytest.fixture(scope="module")
def node(programs):
    with serving(programs) as node:
        yield node


@pytest.fixture
def clean(node):
    """The node with nothing lent, before and after."""
    yield node
    node.hook("rfaas-hook/1 evict job=999999")
    node.hook("rfaas-hook/1 free job=999999")
    assert node.groups() == []
    for path in node.directory.glob("*/way"):
        path.unlink()


def behave(node, way):
    """What the probe does from now on."""
    (node.home(ALICE) / "way").write_text(way)


def report(node, uid=ALICE):
    path = node.home(uid) / "report.txt"
    wait_until(path.exists, WAIT_S, "the probe's report")
    lines = path.read_text().splitlines()
    path.unlink()
    return lines


def fields(lines):
    return dict(line.replace(":\t", " ").split(" ", 1) for line in lines if " " in line.replace(":\t", " "))


def refused(code, act):
    with pytest.raises(StartRefused) as error:
        act()
    assert error.value.refusal == code, error.value
    return error.value


# ---- what a user's agent is given ----


def test_an_agent_starts_as_its_user_with_nothing_of_root_s(clean):
    grant = clean.grant()
    started = clean.ask(grant)
    assert started.slice_id == grant.slice_id
    lines = report(clean)
    told = fields(lines)
    assert told["secret"] == SECRET.hex()
    assert (told["cwd"], told["deathsig"], told["core"]) == ("/", str(int(signal.SIGKILL)), "0")
    assert told["Uid"].split() == told["Gid"].split() == [str(ALICE)] * 4
    assert told["Groups"].split() == [str(ALICE)]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(told[name], 16) == 0, name
    assert told["NoNewPrivs"] == "1"
    assert lines[0].startswith(f"pid {started.pid} session {started.pid} ")
    environment = {line.split("=")[0] for line in lines if line.startswith("environment ")}
    assert environment == {f"environment {name}" for name in ("PATH", "LANG", "HOME", "USER", "LOGNAME")}
    descriptors = [line.split()[1:] for line in lines if line.startswith("fd ")]
    assert [fd for fd, _ in descriptors] == ["0", "1", "2"]
    assert descriptors[0][1].startswith("pipe:")
    log = clean.home(ALICE) / "log" / f"slice-{grant.slice_id.hex()}.log"
    assert descriptors[1][1] == descriptors[2][1] == str(log)
    assert (log.stat().st_uid, log.stat().st_mode & 0o777) == (ALICE, 0o600)
    arguments = [line.split(" ", 1)[1] for line in lines if line.startswith("argument ")]
    assert arguments[1:4] == ["-I", "-m", "rfaas_executors"]
    said = dict(zip(arguments[5::2], arguments[6::2], strict=False))
    assert (said["--cores"], said["--memory-bytes"], said["--node"]) == ("1", str(64 * MIB), "n1")
    assert said["--slice-key"] == f"site:{grant.slice_id.hex()}"
    groups = [line for line in lines if line.endswith(f"/{clean.cgroup}/{grant.slice_id.hex()}")]
    assert {"freezer", "memory", "pids"} <= {line.split(":")[1] for line in groups}
    assert told["Cpus_allowed_list"] == str(max(os.sched_getaffinity(0)))
    memory = Path(f"/sys/fs/cgroup/memory/{clean.cgroup}/{grant.slice_id.hex()}/memory.limit_in_bytes")
    assert int(memory.read_text()) == 64 * MIB


def test_two_users_at_once_see_and_hurt_nothing_of_each_other(clean):
    grants = [clean.grant(uid) for uid in (ALICE, BOB)]
    pids = [clean.ask(grant).pid for grant in grants]
    reports = [report(clean, uid) for uid in (ALICE, BOB)]
    for lines, own, other in zip(reports, pids, pids[::-1], strict=True):
        seen = [int(line.split()[1]) for line in lines if line.startswith("sees ")]
        assert own in seen
        assert other not in seen
        assert 1 not in seen
    cores = {fields(lines)["Cpus_allowed_list"] for lines in reports}
    assert len(cores) == 2  # no core twice
    tries = f"""
import os, signal
for act in (lambda: os.kill({pids[1]}, signal.SIGKILL), lambda: open('/proc/{pids[1]}/environ', 'rb'),
            lambda: open('/proc/{pids[1]}/mem', 'rb'), lambda: os.listdir({str(clean.home(BOB))!r}),
            lambda: os.listdir('/proc/{pids[1]}/fd'),
            lambda: open({str(clean.home(BOB) / "log" / f"slice-{grants[1].slice_id.hex()}.log")!r})):
    try:
        act()
    except (PermissionError, FileNotFoundError):
        print('refused')
"""
    command = [
        "setpriv",
        "--reuid",
        str(ALICE),
        "--regid",
        str(ALICE),
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        tries,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout.split() == ["refused"] * 6, done.stderr


def test_memory_beyond_the_grant_is_not_to_be_had(clean):
    """The kernel's limit holds for all that is in the group."""
    grant = clean.grant(memory_bytes=32 * MIB)
    clean.ask(grant)
    wait_until(lambda: clean.pids(grant.slice_id), WAIT_S)
    procs = Path(f"/sys/fs/cgroup/memory/{clean.cgroup}/{grant.slice_id.hex()}/cgroup.procs")
    hog = f"echo $$ > {procs} && exec /usr/bin/python3 -c 'bytearray(200 << 20)'"
    assert subprocess.run(["sh", "-c", hog], timeout=60, capture_output=True).returncode == -signal.SIGKILL


# ---- refusals: one for each line of 010 section 4 ----


def test_what_is_not_granted_is_refused(clean):
    now = int(time.time())
    stranger = Ed25519PrivateKey.generate()
    refused("bad-grant", lambda: clean.ask(clean.grant(), key=stranger))
    refused("wrong-user", lambda: clean.ask(clean.grant(BOB), uid=ALICE))
    refused("uid-too-low", lambda: clean.ask(clean.grant(1), uid=1))
    refused("wrong-node", lambda: clean.ask(clean.grant(node="n2")))
    refused("expired", lambda: clean.ask(clean.grant(use_by_s=now - 1)))
    refused("expired", lambda: clean.ask(clean.grant(ends_s=now)))
    refused("expired", lambda: clean.ask(clean.grant(issued_s=now - 3600)))
    refused("bad-grant", lambda: clean.ask(clean.grant(use_by_s=now + 7200)))
    refused("bad-grant", lambda: clean.ask(clean.grant(ends_s=2**63)))
    refused("no-room", lambda: clean.ask(clean.grant(cores=4096)))
    refused("no-room", lambda: clean.ask(clean.grant(memory_bytes=2**40)))
    refused("no-room", lambda: clean.ask(clean.grant(cores=0)))
    assert clean.groups() == []


def test_the_allocator_s_key_is_changed_while_slices_run(clean):
    node = clean
    old, new = node.key, Ed25519PrivateKey.generate()
    public = [key.public_key().public_bytes_raw().hex() for key in (old, new)]

    def reload(says, **changes):
        known = len(node.said())
        node.write_config(**changes)
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: says in node.said()[known:], 20, says)

    running, waiting = node.grant(), node.grant()
    node.ask(running)
    refused("bad-grant", lambda: node.ask(node.grant(), key=new))
    reload(f"reloaded keys={public[0][:8]},{public[1][:8]}", allocator_key=", ".join(public))
    second = node.grant(BOB)
    node.ask(second, key=new)
    refused("no-room", lambda: node.ask(waiting))  # the old one is accepted as long as it is there: room comes after it
    for wrong in ("", "3f0c", ",".join(public * 3), f"{public[1]},", f"{public[1]} {public[0]}"):
        reload("reload-failed keys=kept why=", allocator_key=wrong)
        assert "allocator_key" in node.said().splitlines()[-1]
    with contextlib.suppress(FileNotFoundError):
        node.config.unlink()
    known = len(node.said())
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload-failed keys=kept why=" in node.said()[known:], 20)
    reload(f"reloaded keys={public[1][:8]}\n", allocator_key=public[1])
    refused("bad-grant", lambda: node.ask(waiting))
    assert {one.slice_id.hex() for one in (running, second)} <= set(node.groups())  # started is started
    reload(f"reloaded keys={public[0][:8]}\n", allocator_key=public[0])


def test_a_grant_is_good_once_and_what_is_lent_is_not_lent_again(clean):
    grant = clean.grant(memory_bytes=400 * MIB)
    clean.ask(grant)
    refused("replayed", lambda: clean.ask(grant))
    refused("no-room", lambda: clean.ask(clean.grant(BOB, memory_bytes=200 * MIB)))
    clean.ask(clean.grant(BOB, memory_bytes=100 * MIB))
    assert "slices=2" in clean.hook("rfaas-hook/1 status")


def test_a_user_without_an_account_gets_nothing(clean):
    error = refused("start-failed", lambda: clean.ask(clean.grant(64999)))
    assert error.hint.startswith("user")
    wait_until(lambda: clean.groups() == [], WAIT_S)


def test_another_site_s_user_is_nobody(clean):
    folder = clean.directory / "foreign"
    folder.mkdir()
    with munged(folder) as foreign:
        refused("not-proven", lambda: clean.ask(clean.grant(), munge_socket=foreign))


# ---- ends ----


def test_an_eviction_is_answered_after_the_death_and_holds_the_node_for_its_job(clean):
    grants = [clean.grant(uid) for uid in (ALICE, BOB)]
    pids = [clean.ask(grant).pid for grant in grants]
    answer = clean.hook("rfaas-hook/1 evict job=77 uid=0 node=n1")
    assert answer.startswith("rfaas-hook/1 done evicted=2 ms=")
    print(answer)
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    assert clean.groups() == []
    refused("no-room", lambda: clean.ask(clean.grant()))
    assert clean.hook("rfaas-hook/1 status").endswith(" held=77")
    assert clean.hook("rfaas-hook/1 free job=77") == "rfaas-hook/1 done evicted=0 ms=0"
    clean.ask(clean.grant())


def test_a_job_whose_free_was_lost_is_let_go_by_slurm_s_word_alone(clean):
    clean.slurm_knows(status=1)  # a controller that is down, and names nobody
    clean.hook("rfaas-hook/1 evict job=1234")
    clean.hook("rfaas-hook/1 evict job=123")
    asked = clean.said().count("by=squeue")
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() > began_s + 1.2, 10)  # it was asked, several times
    assert clean.hook("rfaas-hook/1 status").endswith("held=1234,123")
    clean.slurm_knows(7, 123)
    wait_until(lambda: clean.hook("rfaas-hook/1 status").endswith("held=123"), WAIT_S)
    assert clean.said().count("by=squeue") == asked + 1
    clean.slurm_knows(7)
    wait_until(lambda: clean.hook("rfaas-hook/1 status").endswith("held="), WAIT_S)
    clean.slurm_knows()


def test_a_node_agent_that_was_killed_lends_nothing_of_a_job_that_began_before_its_new_life(programs):
    """It was told of the job, or would have been while it was dead: only Slurm knows that it is here."""
    with serving(programs) as node:
        node.hook("rfaas-hook/1 evict job=41")
        node.stop(signal.SIGKILL)
        node.slurm_knows(status=1)  # nor does Slurm say anything at first
        node.start()
        assert "Slurm has not said" in refused("no-room", lambda: node.ask(node.grant())).hint
        node.slurm_knows(41, 42)
        wait_until(lambda: node.hook("rfaas-hook/1 status").endswith("held=41,42"), WAIT_S, "Slurm's word")
        refused("no-room", lambda: node.ask(node.grant()))
        node.hook("rfaas-hook/1 free job=41")
        node.slurm_knows()  # the other's `free` is lost
        wait_until(lambda: node.hook("rfaas-hook/1 status").endswith("held="), WAIT_S, "the end of the other")
        node.ask(node.grant())


def test_a_job_on_other_cores_evicts_nobody(clean):
    last = max(os.sched_getaffinity(0))
    grant = clean.grant()  # the node agent lends the last cores first
    pid = clean.ask(grant).pid
    first = min(os.sched_getaffinity(0))
    assert clean.hook(f"rfaas-hook/1 evict job=78 cpus={first}").startswith("rfaas-hook/1 done evicted=0")
    assert Path(f"/proc/{pid}").exists()
    assert clean.hook(f"rfaas-hook/1 evict job=79 cpus={last}").startswith("rfaas-hook/1 done evicted=1")
    for job in 78, 79:
        clean.hook(f"rfaas-hook/1 free job={job}")


def test_a_slice_ends_when_its_grant_does(clean):
    grant = clean.grant(ends_s=int(time.time()) + 3)
    clean.ask(grant)
    wait_until(lambda: clean.groups() == [], WAIT_S, "the end of the slice")
    assert f"freed slice={grant.slice_id.hex()} uid={ALICE} reason=expired" in clean.said()


@pytest.mark.parametrize("way", ["stubborn", "fork"])
def test_what_does_not_go_is_killed(clean, way):
    node = clean
    behave(node, way)
    grant = node.grant()
    node.ask(grant)
    report(node)
    if way == "fork":
        wait_until(lambda: len(node.pids(grant.slice_id)) > 20, WAIT_S, "a fork bomb at its limit")
    answer = node.hook("rfaas-hook/1 evict job=5")
    node.hook("rfaas-hook/1 free job=5")
    print(way, answer)
    assert answer.startswith("rfaas-hook/1 done evicted=1")
    assert node.groups() == []


def test_an_agent_that_ends_by_itself_leaves_nothing(clean):
    node = clean
    behave(node, "quit")
    grant = node.grant()
    node.ask(grant)
    wait_until(lambda: f"freed slice={grant.slice_id.hex()}" in node.said(), WAIT_S)
    assert "status=3" in node.said()
    assert node.groups() == []


def test_a_stop_takes_everybody_along_and_a_kill_leaves_nobody_long(programs):
    with serving(programs) as node:
        pid = node.ask(node.grant()).pid
        report(node)
        assert node.stop() == 0
        assert not Path(f"/proc/{pid}").exists()
        assert not (node.directory / "run/node.sock").exists()
        node.start()
        grant = node.grant()
        pid = node.ask(grant).pid
        report(node)
        node.stop(signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), WAIT_S, "the death of a killed node agent's agent")
        assert node.groups() == [grant.slice_id.hex()]
        node.start()  # sweeps
        assert node.groups() == []
        refused("expired", lambda: node.ask(grant))  # of the earlier life


def test_the_second_version_of_control_groups_ends_a_slice_too(programs):
    """On a machine that mounts both its controllers are the first's, so this is the way to the end without limits."""
    mount = Path("/sys/fs/cgroup/unified")
    if not (mount / "cgroup.procs").exists():
        mount = Path("/sys/fs/cgroup")
    if not (mount / "cgroup.procs").exists():
        pytest.fail("needs control groups of version 2, mounted alone or at /sys/fs/cgroup/unified")
    with serving(programs, cgroup_mount=mount, limits="no") as node:
        assert "cgroup=v2" in node.said()
        behave(node, "stubborn")
        grant = node.grant()
        node.ask(grant)
        report(node)
        procs = mount / node.cgroup / grant.slice_id.hex() / "cgroup.procs"
        answer = node.hook("rfaas-hook/1 evict job=5")
        print(answer)
        assert answer.startswith("rfaas-hook/1 done evicted=1")
        assert not procs.parent.exists()


# ---- hostile peers ----


def test_with_few_descriptors_it_takes_more_or_says_so(programs):
    with serving(programs) as node:
        node.stop()
        begun = ["sh", "-c", 'ulimit -n "$1"; exec "$2" -c "$3"', "sh"]
        few = subprocess.run([*begun, "64", node.program, node.config], capture_output=True, text=True, timeout=60)
        assert few.returncode == 78
        assert "LimitNOFILE" in few.stderr


def stranger(node, number):
    """A connection from an address of its own: bad requests are remembered by address."""
    host, port = node.address.split(":")
    return socket.create_connection((host, int(port)), WAIT_S, (f"127.0.0.{number}", 0))


def talk(node, *pieces):
    """What the port answers to raw bytes."""
    with stranger(node, 9) as sock:
        try:
            for piece in pieces:
                sock.sendall(piece)
            return sock.recv(4096)
        except ConnectionError:
            return b""


def test_nonsense_on_the_port_costs_its_sender_alone(clean):
    for pieces in ([b"\0\0\0\0"], [b"\xff\xff\xff\xff"], [b"GET / HTTP/1.1\r\n\r\n"], [b"\5\0\0\0", b"a\0b\0c"]):
        assert b"refused code=" in talk(clean, *pieces)
    for _ in range(12):
        answer = talk(clean, b"\x08\0\0\0nonsense")
    assert b"code=busy" in answer or answer == b""
    clean.ask(clean.grant())


def test_who_hears_strangers_has_nothing_of_root_s_but_the_uid(clean):
    """The process that munged's library runs in: no capability, no file, no network, no other process."""
    node = clean
    with stranger(node, 20):  # says nothing: its hearer waits
        children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children")
        wait_until(lambda: children.read_text().split(), WAIT_S, "the hearer")
        (hearer,) = (Path("/proc") / pid for pid in children.read_text().split())
        wait_until(lambda: "Seccomp:\t2" in (hearer / "status").read_text(), WAIT_S, "its seal")
        told = fields((hearer / "status").read_text().splitlines())
        assert told["Uid"].split()[1] == "0"  # for munged's sake
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(told[name], 16) == 0, name
        assert told["NoNewPrivs"] == "1"
        assert os.readlink(hearer / "root") == os.path.dirname(node.munge_socket)
        assert len(list((hearer / "fd").iterdir())) == 5  # 0 to 2, the connection, the pipe


def test_who_connects_and_says_nothing_is_sent_away_and_evictions_go_on(clean):
    idle = [stranger(clean, 10 + n % 5) for n in range(40)]
    assert clean.hook("rfaas-hook/1 evict job=2").startswith("rfaas-hook/1 done evicted=0")
    clean.hook("rfaas-hook/1 free job=2")
    for sock in idle:
        sock.settimeout(WAIT_S)
        assert b"refused" in sock.recv(4096)
        sock.close()


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        ("rfaas-hook/1 dance job=1", "rfaas-hook/1 error reason=unknown-verb"),
        ("rfaas-hook/2 evict job=1", "rfaas-hook/1 error reason=bad-packet"),
        ("rfaas-hook/1 evict job=x", "rfaas-hook/1 error reason=bad-packet"),
        ("rfaas-hook/1 free job=1 future=1", "rfaas-hook/1 done evicted=0 ms=0"),
        ("x" * 4096, "rfaas-hook/1 error reason=bad-packet"),
    ],
)
def test_packets_of_hooks_are_judged(node, packet, answer):
    assert node.hook(packet) == answer


def test_only_root_may_speak_for_slurm(node):
    code = "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(%r)"
    command = ["setpriv", "--reuid", str(ALICE), "--clear-groups", "/usr/bin/python3", "-c"]
    done = subprocess.run(
        [*command, code % f"{node.directory}/run/node.sock"], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize(
    ("mode", "change", "says"),
    [
        (0o666, {}, "chmod go-w"),
        (0o644, {"listen": "fabric:ssh"}, "address of the fabric"),
        (0o644, {"listen": "0.0.0.0:7410"}, "every interface"),
        (0o644, {"memory": ""}, "memory"),
        (0o644, {"min_uid": "0"}, "min_uid"),
        (0o644, {"allocator_key": "00"}, "allocator_key"),
        (0o644, {"cpus": "3-1"}, "cpus"),
        (0o644, {"python": "python3"}, "python"),
        (0o644, {"speed": "fast"}, "no such key"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_remedy(programs, tmp_path, mode, change, says):
    key = secrets.token_hex(32)
    settings = {
        "listen": "127.0.0.1:1",
        "python": "/usr/bin/python3",
        "allocator_key": key,
        "memory": "1G",
        "cpus": "0",
        "run_dir": tmp_path / "run",
        "cgroup": "rfaas-test-of-configuration",
    }
    path = tmp_path / "node.conf"
    path.write_text("".join(f"{name} = {value}\n" for name, value in {**settings, **change}.items()))
    path.chmod(mode)
    words = [programs[0], *(["-t"] if "listen" not in change else []), "-c", path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert says in done.stderr
