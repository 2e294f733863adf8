"""The site's allocator beside a real node agent: its grants outlive it, the node's word holds, and all is counted."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rfaas.site.asking import GrantRefused, SiteAllocator
from rfaas.site.grant import Grant
from rfaas.site.query import NOTICE, ask_node
from rfaas.site.starting import StartRefused, request, start
from rfaas_transport.errors import AllocatorUnavailable
from rfaas_transport.munge import Munge
from support.munged import WHERE_ALL_REACH
from support.node_agent import ALICE, BOB, MIB, SECRET, MungeOf, build, rig
from support.waiting import wait_until

WAIT_S = 30.0
PROBE = Path(__file__).with_name("node_agent_probe.c")


class Site:
    """An allocator that asks the node every 0.2 s."""

    def __init__(self, node):
        self.node, self.log = node, node.directory / "site.log"
        self.states = Path(tempfile.mkdtemp(dir=node.directory))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        (node.directory / "site.key").write_text(node.key.private_bytes_raw().hex())
        (node.directory / "site.key").chmod(0o600)
        (node.directory / "nodes").write_text(f"n1 {node.address} 2 512MiB\nn2 127.0.0.1:1 1 64MiB\n")
        self.process = None

    def start(self, state="state", **changes):
        folder = self.node.directory
        options = {"listen": self.address, "key": folder / "site.key", "nodes": folder / "nodes", "look-s": 0.2}
        options |= {"munge-socket": self.node.munge_socket, "state-dir": self.states / state, "most-cores": 2}
        options |= {"price": "core_s=1,currency=EUR", **changes}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        known = len(self.said())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "rfaas_allocator.site", *words], stderr=log)
        wait_until(lambda: "serving" in self.said()[known:] or self.process.poll() is not None, WAIT_S, "the allocator")
        assert self.process.poll() is None, self.said()
        return self.said()[known:]

    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def stop(self, signo=signal.SIGTERM):
        self.process.send_signal(signo)
        return self.process.wait(WAIT_S)

    def of(self, uid):
        return SiteAllocator(self.address, MungeOf(uid, self.node.munge_socket), timeout_s=WAIT_S)

    def lend(self, uid, cores=1):
        """A slice that runs."""
        with self.of(uid) as asked:
            granted = asked.want(cores, 64 * MIB, 600, "n1")
        payload = request(granted.signed, SECRET, str(self.node.home(uid)))
        start(granted.address, payload, MungeOf(uid, self.node.munge_socket))
        return granted

    def accounts(self, uid, **about):
        with self.of(uid) as asked:
            return list(asked.accounts(**about))


@pytest.fixture(scope="module")
def node():
    if os.geteuid() != 0:
        pytest.fail("needs root: the node agent is root's")
    with tempfile.TemporaryDirectory(prefix="rfaas-site-", dir=WHERE_ALL_REACH) as made:
        os.chmod(made, 0o755)
        folder, probe = Path(made) / "node", Path(made) / "probe"
        folder.mkdir()
        (Path(made) / "objects").mkdir()
        subprocess.run(["cc", "-O1", "-D_GNU_SOURCE", "-o", probe, PROBE], check=True, timeout=60)
        with rig(build(Path(made) / "objects"), folder, probe, pids_max=64) as node:
            yield node


@pytest.fixture
def site(node):
    site = Site(node)
    yield site
    if site.process.poll() is None:
        assert site.stop() == 0
    with contextlib.suppress(AssertionError):
        print(site.said())
    node.hook("rfaas-hook/1 evict job=99")
    node.hook("rfaas-hook/1 free job=99")


def refused(site, uid, *want):
    with site.of(uid) as asked, pytest.raises(GrantRefused) as error:
        asked.want(*want)
    return error.value


def test_the_key_is_changed_while_the_allocator_serves_and_a_wrong_file_changes_nothing(site):
    site.start()
    path, new = site.node.directory / "site.key", Ed25519PrivateKey.generate()

    def granted():
        with site.of(ALICE) as asked:
            return asked.want(1, MIB, 60).signed

    def reload(text, mode, says):
        known = len(site.said())
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").chmod(mode)
        path.with_suffix(".new").replace(path)
        site.process.send_signal(signal.SIGHUP)
        wait_until(lambda: says in site.said()[known:], WAIT_S, says)
        return site.said()[known:]

    Grant.unpack(granted(), site.node.key.public_key())
    assert "holds no key" in reload("3f0c", 0o600, "the key stays as it was")
    reload(new.private_bytes_raw().hex(), 0o644, "the key stays as it was")  # others may read it
    public = new.public_key().public_bytes_raw().hex()
    reload(new.private_bytes_raw().hex(), 0o600, f"signs with another key public={public}")
    Grant.unpack(granted(), new.public_key())


def test_grants_outlive_the_allocator_and_what_they_cost_outlives_them(site):
    site.start()
    lent = site.lend(ALICE, 2)
    site.stop(signal.SIGKILL)
    assert "grants=1" in site.start()
    assert refused(site, ALICE, 1, MIB, 60).refusal == "quota"  # hers of the earlier life counts
    assert refused(site, BOB, 1, MIB, 60, "n1").refusal == "no-room"
    (living,) = site.accounts(ALICE)
    assert (living.slice_id, living.node, living.cores, living.end_unix_s) == (lent.grant.slice_id, "n1", 2, None)
    wait_until(lambda: site.accounts(ALICE)[0].cost > 0, WAIT_S, "a cost")
    assert site.accounts(BOB) == site.accounts(BOB, everybody=True) == []  # nobody else's business
    with SiteAllocator(site.address, Munge(site.node.munge_socket)) as root:
        (seen_by_root,) = root.accounts(everybody=True)
    assert seen_by_root.uid == ALICE
    site.node.hook("rfaas-hook/1 evict job=7")
    wait_until(lambda: site.accounts(ALICE)[0].reason == "left", WAIT_S, "the node's word")
    (over,) = site.accounts(ALICE)
    lasted_s = over.end_unix_s - over.start_unix_s
    assert (over.cost, over.currency) == (2 * lasted_s, "EUR")
    assert refused(site, ALICE, 1, MIB, 60, "n1").refusal == "no-room"  # a job holds the node, it says
    site.node.hook("rfaas-hook/1 free job=7")
    site.stop(signal.SIGKILL)
    assert "grants=0" in site.start()
    assert wait_until(lambda: lent_or_none(site), WAIT_S, "room again")


def lent_or_none(site):
    try:
        return site.lend(ALICE)
    except (GrantRefused, StartRefused):
        return None


def test_what_a_lost_journal_knew_is_learned_from_the_nodes(site):
    site.start()
    site.lend(BOB, 2)
    site.stop()
    assert "grants=0" in site.start("another")
    wait_until(lambda: site.accounts(BOB), WAIT_S, "the node's word")
    assert refused(site, ALICE, 1, MIB, 60, "n1").refusal == "no-room"
    assert refused(site, BOB, 1, MIB, 60).refusal == "quota"


def test_a_grant_that_is_given_back_and_used_all_the_same_counts_again(site):
    site.start("third")
    with site.of(ALICE) as asked:
        granted = asked.want(2, 64 * MIB, 600, "n1")
        asked.unused(granted.grant.slice_id)
    payload = request(granted.signed, SECRET, str(site.node.home(ALICE)))
    start(granted.address, payload, MungeOf(ALICE, site.node.munge_socket))
    wait_until(lambda: [one.end_unix_s for one in site.accounts(ALICE)][-1:] == [None], WAIT_S, "the node's word")
    assert refused(site, ALICE, 1, MIB, 60).refusal == "quota"


def test_only_who_runs_the_site_says_which_nodes_are_left_alone_and_slices_get_their_notice(site):
    site.start("fourth", **{"trust-s": 5})
    assert "nobody tells" in refused(site, ALICE, 1, MIB, 60).hint
    with site.of(ALICE) as asked, pytest.raises(GrantRefused) as error:
        asked.tell({"n1": "hers"}, 60)
    assert error.value.refusal == "not-allowed"
    with SiteAllocator(site.address, Munge(site.node.munge_socket)) as root:
        root.tell({"n1": "Slurm calls it DRAIN"}, 60)
        said = refused(site, ALICE, 1, MIB, 60, "n1")
        assert said.refusal == "no-room"
        assert "Slurm calls it DRAIN" in said.hint
        root.tell({"n1": ""}, 0)  # no more
        first = site.lend(ALICE).grant.slice_id.hex()
        root.tell({"n1": "drained again"}, 1)
        wait_until(lambda: f"freed slice={first} uid={ALICE} reason=warned" in site.node.said(), WAIT_S, "its end")
        lent = wait_until(lambda: lent_or_none(site), WAIT_S, "room again")
        root.tell({"n1": "job 12 is about to start"}, 1, job=12)
    name = lent.grant.slice_id.hex()
    wait_until(lambda: f"freed slice={name} uid={ALICE} reason=warned" in site.node.said(), WAIT_S, "its end")
    assert site.node.hook("rfaas-hook/1 status").endswith("held=12")
    site.node.hook("rfaas-hook/1 free job=12")


def test_on_a_full_disk_nothing_is_granted_and_what_was_is_not_forgotten(site):
    disk = site.states / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "none", disk], check=True, timeout=30)
    try:
        site.start("disk")
        lent = site.lend(ALICE)
        with (disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(1 << 16))
                filler.flush()
        said = refused(site, BOB, 1, MIB, 60, "n1")
        assert said.refusal == "no-room"
        assert "ENOSPC" in said.hint
        with site.of(ALICE) as asked:
            asked.unused(lent.grant.slice_id)  # an end finds room
        (over,) = [one for one in site.accounts(ALICE) if one.slice_id == lent.grant.slice_id]
        assert over.end_unix_s is not None
        (disk / "filler").unlink()
        with site.of(BOB) as asked:
            asked.want(1, MIB, 60, "n1")
        assert site.stop() == 0
    finally:
        subprocess.run(["umount", disk], check=True, timeout=30)


def test_one_user_does_not_hold_all_connections(site):
    site.start("sixth")
    with contextlib.ExitStack() as held:
        for _ in range(32):
            held.enter_context(site.of(ALICE))
        with site.of(ALICE) as one_too_many, pytest.raises(AllocatorUnavailable):
            one_too_many.unused(bytes(16))
        with site.of(BOB) as other:
            other.unused(bytes(16))
    with site.of(ALICE) as again:
        again.unused(bytes(16))


def test_a_node_answers_its_allocator_alone(site):
    site.start("fifth")
    node = site.node
    other = Ed25519PrivateKey.generate()
    for key, name, code in ((other, "n1", "bad-grant"), (node.key, "n2", "wrong-node")):
        with pytest.raises(StartRefused) as error:
            ask_node(node.address, key, name, MungeOf(ALICE, node.munge_socket), verb=NOTICE)
        assert error.value.refusal == code
