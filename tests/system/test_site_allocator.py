"""The site's allocator as a process: who asks is what munged says, grants are signed, wrong starts are explained."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rfaas.site.asking import GrantRefused, SiteAllocator
from rfaas.site.grant import Grant
from rfaas_transport.errors import AllocatorUnavailable, AuthenticationFailed
from rfaas_transport.munge import Munge
from support.munged import WHERE_ALL_REACH, munged
from support.node_agent import ALICE, BOB, MIB, MungeOf
from support.waiting import wait_until

WAIT_S = 30.0


class Site:
    """One at work."""

    def __init__(self, folder, munge_socket):
        self.folder, self.munge_socket = folder, munge_socket
        self.key = Ed25519PrivateKey.generate()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        (folder / "key").write_text(self.key.private_bytes_raw().hex() + "\n")
        (folder / "key").chmod(0o600)
        (folder / "nodes").write_text("# a remark\nn1 10.1.0.1:7410 4 1GiB\nn2 10.1.0.2:7410 2 4GiB # another\n")

    def command(self, **changes):
        options = {
            "listen": self.address,
            "key": self.folder / "key",
            "nodes": self.folder / "nodes",
            "munge-socket": self.munge_socket,
            "most-cores": 3,
            **changes,
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        return [sys.executable, "-m", "rfaas_allocator.site", *words]

    def of(self, uid, **about):
        """A connection of that user's."""
        return SiteAllocator(self.address, MungeOf(uid, self.munge_socket), timeout_s=WAIT_S, **about)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="rfaas-site-", dir=WHERE_ALL_REACH) as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture(scope="module")
def site(folder):
    (folder / "munge").mkdir()
    with munged(folder / "munge") as munge_socket:
        site = Site(folder, munge_socket)
        log = (folder / "log").open("wb")
        process = subprocess.Popen(site.command(), stderr=log)
        try:
            wait_until(lambda: "serving" in (folder / "log").read_text() or process.poll() is not None, WAIT_S)
            assert process.poll() is None, (folder / "log").read_text()
            yield site
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
            log.close()


def test_a_user_is_granted_what_munge_says_he_may_ask_for(site):
    with site.of(ALICE) as asked:
        granted = asked.want(2, 256 * MIB, 100, "n2")
        assert granted.address == "10.1.0.2:7410"
        assert Grant.unpack(granted.signed, site.key.public_key()) == granted.grant
        assert (granted.grant.uid, granted.grant.cores, granted.grant.node) == (ALICE, 2, "n2")
        assert abs(granted.grant.issued_s - time.time()) < WAIT_S
        for want, code in (
            ((2, MIB, 100), "quota"),
            ((1, MIB, 100, "n2"), "no-room"),
            ((1, MIB, 100, "n9"), "unknown-node"),
            ((0, MIB, 100), "bad-want"),
            ((1, MIB, 10**9), "bad-want"),
            ((-1, MIB, 1), "bad-want"),
        ):
            with pytest.raises(GrantRefused) as refused:
                asked.want(*want)
            assert refused.value.refusal == code
        with site.of(BOB) as other:
            other.unused(granted.grant.slice_id)  # not his: nothing happens
            with pytest.raises(GrantRefused):
                other.want(1, MIB, 100, "n2")
        asked.unused(granted.grant.slice_id)
        again = asked.want(2, 256 * MIB, 100, "n2")
        asked.unused(again.grant.slice_id)


def test_the_system_s_users_get_nothing(site):
    with SiteAllocator(site.address, Munge(site.munge_socket), timeout_s=WAIT_S) as asked, pytest.raises(GrantRefused):
        asked.want(1, MIB, 100)


def test_a_user_hangs_up_on_an_allocator_of_somebody_else_s(site):
    with pytest.raises(AuthenticationFailed):
        site.of(ALICE, allocator_uid=BOB)


def test_nobody_there_is_told_so(site):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with pytest.raises(AllocatorUnavailable):
        SiteAllocator(f"127.0.0.1:{free}", Munge(site.munge_socket))


def test_strangers_and_nonsense_end_their_own_connection(site):
    host, port = site.address.split(":")
    for data in b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"":
        with socket.create_connection((host, int(port)), WAIT_S) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
    with site.of(ALICE) as asked:
        asked.unused(bytes(16))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": "/nonexistent"}, "rfaas site key"),
        ({"nodes": "/nonexistent"}, "can't be read"),
        ({"listen": "127.0.0.1"}, "--listen"),
        ({"listen": "0.0.0.0:7411"}, "every interface"),
    ],
)
def test_a_wrong_start_is_refused_with_its_remedy(site, changes, says):
    done = subprocess.run(site.command(**changes), capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert says in done.stderr


def test_a_key_that_others_can_read_or_a_line_that_is_none_is_refused(site, folder):
    loose, wrong = folder / "loose", folder / "wrong"
    loose.write_text("00" * 32)
    loose.chmod(0o644)
    wrong.write_text("n1 10.1.0.1:7410 four 1GiB\n")
    for changes, says in (({"key": loose}, "chmod 600"), ({"nodes": wrong}, "wrong:1")):
        done = subprocess.run(site.command(**changes), capture_output=True, text=True, timeout=60)
        assert done.returncode == 78
        assert says in done.stderr
