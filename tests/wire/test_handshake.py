"""The handshake, sans-IO: against its vector, and against everything a peer may do wrong."""

import contextlib
import hashlib
import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_transport.errors import (
    AuthenticationFailed,
    ConfigError,
    NotFound,
    PayloadTooLarge,
    ProtocolError,
    RfaasError,
    VersionMismatch,
)
from rfaas_transport.handshake_machine import LIMIT_BYTES, MEDIUM_CODES, Accepter, Dialer, MediumRefused
from rfaas_transport.messages import decode, pack
from rfaas_transport.tls import channel_key
from support.vectors import load

VECTOR = load("handshake")
HELLO, CHALLENGE, PROOF, WELCOME = (bytes.fromhex(VECTOR[name]) for name in ("hello", "challenge", "proof", "welcome"))
SECRET = bytes.fromhex(VECTOR["secret"])
PARAMS = {**VECTOR["params"], "lease": bytes.fromhex(VECTOR["params"]["lease"])}


def dialer(secret=SECRET):
    return Dialer(secret, VECTOR["role"], PARAMS, nonce=bytes.fromhex(VECTOR["dialer_nonce"]))


def accepter(secret=SECRET, authorise=lambda role, params: VECTOR["welcome_params"]):
    return Accepter(secret, authorise, nonce=bytes.fromhex(VECTOR["accepter_nonce"]))


def body(raw):
    return decode(raw[4:])


def changed(raw, **fields):
    return pack({**body(raw), **fields})


# ---- the vector ----


def test_both_sides_say_what_the_vector_says():
    asked = []
    left, right = dialer(), accepter(authorise=lambda *told: asked.append(told) or VECTOR["welcome_params"])
    assert (left.start().hex(), right.start()) == (HELLO.hex(), b"")
    assert right.receive(HELLO).hex() == CHALLENGE.hex()
    assert left.receive(CHALLENGE).hex() == PROOF.hex()
    assert (left.done, right.done, asked) == (False, False, [])
    assert right.receive(PROOF).hex() == WELCOME.hex()
    assert left.receive(WELCOME) == b""
    assert left.done
    assert right.done
    assert left.session_key.hex() == right.session_key.hex() == VECTOR["session_key"]
    assert left.peer_params == VECTOR["welcome_params"]
    assert right.peer_params == PARAMS
    assert asked == [("data", PARAMS)]


def test_the_key_of_the_channel_is_what_the_vector_says():
    """And what RFC 5869 says, written down once more."""
    session_key = bytes.fromhex(VECTOR["session_key"])
    assert channel_key(session_key, PARAMS["channel"]).hex() == VECTOR["channel_key"]
    extracted = hmac.new(bytes(32), session_key, hashlib.sha256).digest()
    info = b"rfaas-004 tls" + struct.pack("<Q", PARAMS["channel"])
    assert hmac.new(extracted, info + b"\x01", hashlib.sha256).hexdigest() == VECTOR["channel_key"]
    assert channel_key(session_key, PARAMS["channel"] + 1).hex() != VECTOR["channel_key"]


@pytest.mark.parametrize("code", MEDIUM_CODES)
def test_an_accepter_says_why_a_medium_won_t_do(code):
    def refuse(role, params):
        raise MediumRefused.of(code, "why")

    left, right = dialer(), accepter(authorise=refuse)
    left.receive(right.receive(left.start()))
    with pytest.raises(MediumRefused):
        right.receive(PROOF)
    with pytest.raises(MediumRefused) as told:
        left.receive(right.last_words)
    assert (told.value.refusal, told.value.hint) == (code, "why")
    assert (left.done, right.done) == (False, False)


def test_one_byte_at_a_time_with_what_follows_left_over():
    left, right = dialer(), accepter()
    left.start()
    said = b"".join(right.receive(bytes([byte])) for byte in HELLO + PROOF)
    assert said == CHALLENGE + WELCOME
    said = b"".join(left.receive(bytes([byte])) for byte in CHALLENGE + WELCOME + b"frames")
    assert (said, left.done, left.leftover) == (PROOF, True, b"frames")
    right = accepter()
    right.receive(HELLO + PROOF + b"fr")
    right.receive(b"ames")
    assert right.leftover == b"frames"


def test_wanted_bytes_never_lead_beyond_the_handshake():
    stream, right, at = HELLO + PROOF + b"frames", accepter(), 0
    while step := right.wanted_bytes:
        right.receive(stream[at : at + step])
        at += step
    assert stream[at:] == b"frames"


def test_each_handshake_has_a_nonce_and_a_key_of_its_own():
    keys = set()
    for _ in range(3):
        left, right = Dialer(SECRET, "session", {}), Accepter(SECRET, lambda role, params: None)
        left.receive(right.receive(left.receive(right.receive(left.start()))))
        keys.add(left.session_key)
        assert left.session_key == right.session_key
    assert len(keys) == 3


# ---- who can't prove himself ----


def test_an_accepter_with_another_secret_gets_no_proof():
    left = dialer()
    left.start()
    challenge = accepter(secret=bytes(32)).receive(HELLO)
    with pytest.raises(AuthenticationFailed):
        left.receive(challenge)
    assert body(left.last_words)["code"] == "authentication-failed"
    assert not left.session_key


def test_a_dialer_with_another_secret_is_refused_before_anyone_is_asked():
    right = accepter(authorise=lambda *told: pytest.fail("asked about a stranger"))
    right.receive(HELLO)
    proof = changed(PROOF, mac=bytes(32))
    with pytest.raises(AuthenticationFailed):
        right.receive(proof)
    assert not right.done
    assert not right.peer_params
    assert body(right.last_words) == {
        "m": "reject",
        "code": "authentication-failed",
        "versions": [1, 1],
        "hint": "",
    }


@pytest.mark.parametrize("bit", range(0, 8 * len(HELLO), 5))
def test_a_hello_changed_on_its_way_is_noticed_by_the_dialer(bit):
    left, right = dialer(), accepter()
    left.start()
    damaged = bytearray(HELLO)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        answer = right.receive(bytes(damaged))
    except RfaasError:
        return  # the accepter noticed
    if answer:
        with pytest.raises(AuthenticationFailed):
            left.receive(answer)


@pytest.mark.parametrize("bit", range(0, 8 * len(CHALLENGE), 5))
def test_a_challenge_changed_on_its_way_gets_no_proof(bit):
    left = dialer()
    left.start()
    damaged = bytearray(CHALLENGE)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        assert left.receive(bytes(damaged) + bytes(16)) == b""
    except RfaasError:
        assert not left.done


def test_a_challenge_reflected_is_no_proof():
    right = accepter()
    challenge = right.receive(HELLO)
    with pytest.raises(AuthenticationFailed):
        right.receive(changed(PROOF, mac=body(challenge)["mac"]))


def test_a_proof_of_another_handshake_is_refused():
    right = Accepter(SECRET, lambda role, params: None)
    right.receive(HELLO)
    with pytest.raises(AuthenticationFailed):
        right.receive(PROOF)


# ---- versions, limits, disorder ----


@pytest.mark.parametrize(("versions", "fits"), [([1, 1], True), ([1, 2], True), ([0, 1], True), ([2, 3], False)])
def test_the_newest_common_version_is_taken(versions, fits):
    right = accepter()
    hello = changed(HELLO, versions=versions)
    if fits:
        assert body(right.receive(hello))["version"] == 1
        return
    with pytest.raises(VersionMismatch):
        right.receive(hello)
    reject = body(right.last_words)
    assert (reject["code"], reject["versions"]) == ("version-mismatch", [1, 1])
    left = dialer()
    left.start()
    with pytest.raises(VersionMismatch, match="2 to 3"):
        left.receive(right.last_words)


def test_a_version_that_was_not_offered_is_refused():
    left = dialer()
    left.start()
    with pytest.raises(VersionMismatch):
        left.receive(changed(CHALLENGE, version=2))


@pytest.mark.parametrize(
    "change",
    [
        {"magic": "ssh"},
        {"versions": [1]},
        {"versions": [1, "1"]},
        {"versions": [True, True]},
        {"auth": 1},
        {"role": "root"},
        {"role": 1},
        {"nonce": b"short"},
        {"nonce": "text"},
        {"params": []},
        {"m": "proof"},
        {"m": "welcome"},
    ],
)
def test_a_malformed_hello_is_refused_and_said_so(change):
    right = accepter()
    with pytest.raises(ProtocolError):
        right.receive(changed(HELLO, **change))
    assert body(right.last_words)["code"] == "bad-message"
    with pytest.raises(ProtocolError):
        right.receive(HELLO)


def test_an_unknown_authentication_is_refused_without_a_reason():
    right = accepter()
    with pytest.raises(AuthenticationFailed):
        right.receive(changed(HELLO, auth=[2, 3]))


@pytest.mark.parametrize("length", [0, LIMIT_BYTES + 1, 2**32 - 1])
def test_a_length_beyond_the_limit_is_refused_before_it_is_waited_for(length):
    right = accepter()
    with pytest.raises(ProtocolError):
        right.receive(length.to_bytes(4, "little"))


def test_all_messages_together_are_at_most_4_kib():
    right = accepter()
    right.receive(changed(HELLO, params={"x": bytes(3000)}))
    with pytest.raises(ProtocolError):
        right.receive((1000).to_bytes(4, "little"))


def test_params_that_do_not_fit_are_refused_at_once():
    with pytest.raises(PayloadTooLarge):
        Dialer(SECRET, "session", {"x": bytes(5000)}).start()


def test_a_refusal_after_the_proof_reaches_the_dialer_as_not_found():
    def authorise(role, params):
        raise NotFound("no such slot", hint="it was replaced")

    left, right = dialer(), accepter(authorise=authorise)
    left.start()
    proof = left.receive(right.receive(HELLO))
    with pytest.raises(NotFound):
        right.receive(proof)
    with pytest.raises(NotFound, match="it was replaced"):
        left.receive(right.last_words)
    assert not left.done
    assert not right.done


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("authentication-failed", AuthenticationFailed),
        ("version-mismatch", VersionMismatch),
        ("not-found", NotFound),
        ("bad-message", ProtocolError),
        ("of a later version", ProtocolError),
    ],
)
def test_a_reject_becomes_the_error_of_its_code(code, error):
    left = dialer()
    left.start()
    with pytest.raises(error):
        left.receive(pack({"m": "reject", "code": code, "versions": [1, 1], "hint": ""}))


def test_a_secret_of_another_length_is_refused():
    with pytest.raises(ConfigError):
        Dialer(b"short", "session", {})


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_end_in_a_typed_error_or_wait_for_more(data, as_dialer):
    machine = dialer() if as_dialer else accepter()
    machine.start()
    with contextlib.suppress(RfaasError):
        machine.receive(data)
    assert not machine.done
