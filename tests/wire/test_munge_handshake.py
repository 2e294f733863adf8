"""Authentication 2 of the handshake, sans-IO: against its vector, with munged's answers played."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_transport.errors import AuthenticationFailed, NotFound, ProtocolError, RfaasError
from rfaas_transport.handshake_machine import Accepter, Dialer, NotAllowed
from rfaas_transport.messages import decode, pack
from rfaas_transport.munge import Decoded, MungeError
from rfaas_transport.munge_handshake import Decode, Encode, MungeAccepter, MungeDialer
from support.vectors import load

VECTOR = load("handshake-munge")
HELLO, CHALLENGE, PROOF, WELCOME = (bytes.fromhex(VECTOR[name]) for name in ("hello", "challenge", "proof", "welcome"))
DIALER_UID, ACCEPTER_UID = VECTOR["dialer_uid"], VECTOR["accepter_uid"]
DIALER_CRED, ACCEPTER_CRED = VECTOR["dialer_cred"], VECTOR["accepter_cred"]
DIALER_PAYLOAD, ACCEPTER_PAYLOAD = (bytes.fromhex(VECTOR[f"{side}_payload"]) for side in ("dialer", "accepter"))


def secrets_of(side):
    return {name: bytes.fromhex(VECTOR[f"{side}_{name}"]) for name in ("nonce", "private_key")}


def dialer(uid=ACCEPTER_UID):
    return MungeDialer(uid, VECTOR["role"], VECTOR["params"], **secrets_of("dialer"))


def accepter(authorise=lambda uid, role, params: VECTOR["welcome_params"], **about):
    return MungeAccepter(authorise, **secrets_of("accepter"), **about)


def body(raw):
    return decode(raw[4:])


def changed(raw, **fields):
    return pack({**body(raw), **fields})


def proven_dialer():
    left = dialer()
    left.start()
    left.receive(CHALLENGE)
    assert left.answered(DIALER_CRED) == PROOF
    return left


def asked_accepter(**about):
    right = accepter(**about)
    assert right.receive(HELLO) == CHALLENGE
    assert right.receive(PROOF) == b""
    return right


def test_both_sides_say_and_ask_what_the_vector_says():
    asked = []
    left = dialer()
    right = accepter(lambda *told: asked.append(told) or VECTOR["welcome_params"])
    assert left.start().hex() == HELLO.hex()
    assert right.receive(HELLO).hex() == CHALLENGE.hex()
    assert left.receive(CHALLENGE) == b""
    assert left.request == Encode(DIALER_PAYLOAD, ACCEPTER_UID)
    assert left.wanted_bytes == 0
    assert left.answered(DIALER_CRED).hex() == PROOF.hex()
    assert right.receive(PROOF) == b""
    assert right.request == Decode(DIALER_CRED)
    assert asked == []
    assert right.answered(Decoded(DIALER_PAYLOAD, DIALER_UID, 7)) == b""
    assert asked == [(DIALER_UID, VECTOR["role"], VECTOR["params"])]
    assert right.request == Encode(ACCEPTER_PAYLOAD, DIALER_UID)
    assert not right.done
    assert right.answered(ACCEPTER_CRED).hex() == WELCOME.hex()
    assert left.receive(WELCOME) == b""
    assert left.request == Decode(ACCEPTER_CRED)
    assert (left.done, left.peer_params) == (False, {})
    left.answered(Decoded(ACCEPTER_PAYLOAD, ACCEPTER_UID, 0))
    assert (left.done, right.done, right.peer_uid, right.peer_gid) == (True, True, DIALER_UID, 7)
    assert left.peer_params == VECTOR["welcome_params"]
    assert left.session_key.hex() == right.session_key.hex() == VECTOR["session_key"]


def test_what_follows_the_handshake_is_left_over():
    left = proven_dialer()
    left.receive(WELCOME + b"frames")
    left.answered(Decoded(ACCEPTER_PAYLOAD, ACCEPTER_UID, 0))
    assert (left.done, left.leftover) == (True, b"frames")


@pytest.mark.parametrize("uid", [0, ACCEPTER_UID + 1])
def test_a_dialer_believes_nobody_but_the_uid_it_expects(uid):
    left = proven_dialer()
    left.receive(WELCOME)
    with pytest.raises(AuthenticationFailed):
        left.answered(Decoded(ACCEPTER_PAYLOAD, uid, 0))
    assert not left.done
    assert body(left.last_words)["code"] == "authentication-failed"


def test_a_credential_for_another_connection_is_refused_by_either_side():
    right = asked_accepter(authorise=lambda *told: pytest.fail("asked about a stranger"))
    with pytest.raises(AuthenticationFailed):
        right.answered(Decoded(bytes(32), DIALER_UID, 0))
    left = proven_dialer()
    left.receive(WELCOME)
    with pytest.raises(AuthenticationFailed):
        left.answered(Decoded(DIALER_PAYLOAD, ACCEPTER_UID, 0))


def test_each_key_and_nonce_makes_another_payload():
    payloads = set()
    for _ in range(3):
        left, right = MungeDialer(0, "session", {}), MungeAccepter(lambda *told: None)
        left.receive(right.receive(left.start()))
        payloads.add(left.request.payload)
    assert len(payloads) == 3


def test_a_welcome_changed_on_its_way_is_noticed():
    left = proven_dialer()
    left.receive(changed(WELCOME, params={"service": "another"}))
    with pytest.raises(AuthenticationFailed):
        left.answered(Decoded(ACCEPTER_PAYLOAD, ACCEPTER_UID, 0))


def test_a_uid_that_may_not_come_in_is_told_so():
    right = asked_accepter(allowed_uids={DIALER_UID + 1}, authorise=lambda *told: pytest.fail("asked"))
    with pytest.raises(NotAllowed):
        right.answered(Decoded(DIALER_PAYLOAD, DIALER_UID, 0))
    left = proven_dialer()
    with pytest.raises(NotAllowed, match=f"uid {DIALER_UID} may not"):
        left.receive(right.last_words)


def test_an_authoriser_may_turn_away():
    def refuse(uid, role, params):
        raise NotFound("no such service")

    right = asked_accepter(authorise=refuse)
    with pytest.raises(NotFound):
        right.answered(Decoded(DIALER_PAYLOAD, DIALER_UID, 0))
    assert body(right.last_words)["code"] == "not-found"


@pytest.mark.parametrize(("code", "remedy"), [(6, "munged runs"), (14, "munge.key"), (15, "clocks"), (16, "clocks")])
def test_what_munge_says_is_for_this_side_alone(code, remedy):
    right = asked_accepter()
    with pytest.raises(MungeError, match=remedy):
        right.answered(MungeError.of(code, "accept the credential", "why"))
    said = body(right.last_words)
    assert (said["code"], said["hint"]) == ("authentication-failed", "")
    with pytest.raises(MungeError):
        right.receive(PROOF)


def test_a_key_that_agrees_with_every_other_is_refused():
    with pytest.raises(AuthenticationFailed):
        accepter().receive(changed(HELLO, key=bytes(32)))


@pytest.mark.parametrize("key", [None, b"short", "text"])
def test_a_hello_without_a_proper_key_is_refused(key):
    right = accepter()
    with pytest.raises(ProtocolError):
        right.receive(changed(HELLO, key=key))


def test_the_types_do_not_mix():
    with pytest.raises(AuthenticationFailed):
        Accepter(bytes(32), lambda role, params: None).receive(HELLO)
    with pytest.raises(AuthenticationFailed):
        accepter().receive(Dialer(bytes(32), "session", {}).start())
    left = dialer()
    left.start()
    with pytest.raises(AuthenticationFailed):
        left.receive(changed(CHALLENGE, auth=1))


@pytest.mark.parametrize("bit", range(0, 8 * len(CHALLENGE), 5))
def test_a_challenge_changed_on_its_way_gets_no_credential(bit):
    left = dialer()
    left.start()
    damaged = bytearray(CHALLENGE)
    damaged[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(RfaasError):
        left.receive(bytes(damaged) + bytes(16))
    assert left.request is None


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_end_in_a_typed_error_or_wait_for_more(data, as_dialer):
    machine = dialer() if as_dialer else accepter()
    machine.start()
    with contextlib.suppress(RfaasError):
        machine.receive(data)
    assert (machine.done, machine.request) == (False, None)
