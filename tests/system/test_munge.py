"""munge with real daemons: two sites of two keys, several users, and what goes wrong with each."""

import asyncio
import contextlib
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from rfaas_transport import munge as munge_module
from rfaas_transport.errors import AuthenticationFailed, ConfigError
from rfaas_transport.handshake import handshake_socket
from rfaas_transport.handshake_machine import NotAllowed
from rfaas_transport.munge import Munge, MungeError
from rfaas_transport.munge_handshake import MungeAccepter, MungeDialer, carry_out
from support.munged import WHERE_ALL_REACH, munged
from support.waiting import wait_until

USER_UID = 64123  # nobody's: munged tells the number that the kernel tells it


@pytest.fixture(scope="module")
def sites():
    """The sockets of two munged with different keys."""
    # Not pytest's folder: it takes the others' rights away from what is above it, in the middle of a run too.
    with tempfile.TemporaryDirectory(prefix="rfaas-munge-", dir=WHERE_ALL_REACH) as root:
        os.chmod(root, 0o755)
        one, two = Path(root) / "one", Path(root) / "two"
        one.mkdir()
        two.mkdir()
        with munged(one) as first, munged(two) as second:
            yield first, second


@contextlib.contextmanager
def another_user(uid=USER_UID):
    """What is done here is done as that user: munged asks the kernel whose the process is when it connects."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_a_credential_names_its_maker_and_is_good_once(sites):
    munge = Munge(sites[0])
    decoded = munge.decode(munge.encode(b"payload"))
    assert (decoded.payload, decoded.uid, decoded.gid) == (b"payload", 0, 0)
    with another_user():
        credential = munge.encode(b"of a user")
    assert munge.decode(credential) == munge_module.Decoded(b"of a user", USER_UID, USER_UID)
    with pytest.raises(MungeError, match="one time") as refused:
        munge.decode(credential)
    assert refused.value.munge_code == 17


def test_root_may_not_read_what_is_for_a_user(sites):
    munge = Munge(sites[0])
    credential = munge.encode(b"secret", for_uid=USER_UID)
    with pytest.raises(MungeError, match="another user") as refused:
        munge.decode(credential)
    assert refused.value.munge_code == 18
    with another_user():
        assert munge.decode(credential).payload == b"secret"


def test_another_site_s_credential_is_refused(sites):
    with pytest.raises(MungeError, match=r"munge\.key") as refused:
        Munge(sites[1]).decode(Munge(sites[0]).encode(b""))
    assert refused.value.munge_code == 14


def test_a_credential_expires(sites):
    munge = Munge(sites[0])
    credential = munge.encode(b"", ttl_s=1)
    began_s = time.time()
    wait_until(lambda: time.time() > began_s + 2.5, 10, "the end of the credential's second")
    with pytest.raises(MungeError, match="clocks") as refused:
        munge.decode(credential)
    assert refused.value.munge_code == 15


def test_nonsense_is_refused(sites):
    for text in "", "MUNGE:", "MUNGE:AAAA:", "x" * 3000, "MUNGE:\u00e9:":
        with pytest.raises(MungeError):
            Munge(sites[0]).decode(text)


def test_who_does_not_run_munged_is_told_what_to_do(tmp_path):
    with pytest.raises(MungeError, match="systemctl status munge"):
        Munge(str(tmp_path / "nobody")).encode(b"")


def test_who_lacks_the_library_is_told_what_to_install():
    with pytest.raises(ConfigError, match="libmunge2"):
        munge_module._load("libmunge.so.none")


# ---- the handshake ----


def pair(dialer, accepter):
    """What each side's handshake returned or raised, over a socket pair."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)

        async def both():
            return await asyncio.gather(
                handshake_socket(left, dialer, 20.0), handshake_socket(right, accepter, 20.0), return_exceptions=True
            )

        return asyncio.run(both())


def test_both_sides_of_one_site_come_to_one_key(sites):
    munge = Munge(sites[0])
    asked = []
    left, right = pair(
        MungeDialer(0, "session", {"a": 1}, munge=munge),
        MungeAccepter(lambda *told: asked.append(told) or {"b": 2}, munge=munge),
    )
    assert left.done
    assert right.done
    assert left.session_key == right.session_key != b""
    assert (left.peer_uid, right.peer_uid, left.peer_params, asked) == (0, 0, {"b": 2}, [(0, "session", {"a": 1})])


def test_sites_of_different_keys_come_to_nothing(sites):
    left, right = pair(
        MungeDialer(0, "session", {}, munge=Munge(sites[1])),
        MungeAccepter(lambda *told: pytest.fail("asked about a stranger"), munge=Munge(sites[0])),
    )
    assert isinstance(left, AuthenticationFailed)
    assert isinstance(right, MungeError)
    assert right.munge_code == 14


class OfAnotherUser(Munge):
    """Asks munged as another user."""

    def encode(self, *args, **about):
        with another_user():
            return super().encode(*args, **about)

    def decode(self, credential):
        with another_user():
            return super().decode(credential)


@pytest.mark.parametrize("allowed_uids", [{USER_UID}, {USER_UID + 1}])
def test_a_user_is_known_by_munged_and_let_in_or_not(sites, allowed_uids):
    dialer = MungeDialer(0, "session", {"uid": 0}, munge=OfAnotherUser(sites[0]))
    accepter = MungeAccepter(lambda uid, role, params: {"uid": uid}, allowed_uids=allowed_uids, munge=Munge(sites[0]))
    # By turns in one thread: the uid is the whole process's.
    said = accepter.receive(dialer.start())
    dialer.receive(said)
    accepter.receive(dialer.answered(carry_out(dialer.request, dialer.munge)))
    if USER_UID not in allowed_uids:
        with pytest.raises(NotAllowed):
            accepter.answered(carry_out(accepter.request, accepter.munge))
        return
    accepter.answered(carry_out(accepter.request, accepter.munge))
    dialer.receive(accepter.answered(carry_out(accepter.request, accepter.munge)))
    dialer.answered(carry_out(dialer.request, dialer.munge))
    assert dialer.peer_params == {"uid": USER_UID}
    assert (accepter.peer_uid, dialer.peer_uid) == (USER_UID, 0)


def test_a_hung_munged_holds_up_one_connection_and_not_the_loop(sites, tmp_path):
    hung_path = str(tmp_path / "hung")
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(hung_path)
        hung.listen()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)

            async def end_it_after_some_turns_of_the_loop():
                for _ in range(20):
                    await asyncio.sleep(0.005)
                hung.close()

            async def run():
                dialing = handshake_socket(left, MungeDialer(0, "session", {}, munge=Munge(hung_path)), 60.0)
                accepting = handshake_socket(right, MungeAccepter(lambda *told: None, munge=Munge(sites[0])), 60.0)
                turns = end_it_after_some_turns_of_the_loop()
                return await asyncio.gather(dialing, accepting, turns, return_exceptions=True)

            dialed, accepted, _ = asyncio.run(run())
    assert isinstance(dialed, MungeError)
    assert isinstance(accepted, AuthenticationFailed)
