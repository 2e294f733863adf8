"""Grants and start requests: their vectors, and what neither side takes for one."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rfaas.site.grant import GRANT_BYTES, Grant
from rfaas.site.starting import Started, StartRefused, _understood, request
from rfaas_transport.errors import AuthenticationFailed, ConfigError, ProtocolError
from support.vectors import load

VECTOR = load("grant")
KEY = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["private_key"]))
FIELDS = {**VECTOR["fields"], **{name: bytes.fromhex(VECTOR["fields"][name]) for name in ("slice_id", "nonce")}}
SIGNED = bytes.fromhex(VECTOR["signed"])


def test_a_grant_has_the_bytes_of_its_vector():
    assert Grant(**FIELDS).sign(KEY).hex() == VECTOR["signed"]
    assert Grant.unpack(SIGNED, KEY.public_key()) == Grant(**FIELDS)
    assert KEY.public_key().public_bytes_raw().hex() == VECTOR["public_key"]


def test_a_request_has_the_bytes_of_its_vector():
    made = request(SIGNED, bytes.fromhex(VECTOR["secret"]), VECTOR["state_dir"], VECTOR["allocator"])
    assert made.hex() == VECTOR["request"]


@pytest.mark.parametrize("bit", range(0, 8 * GRANT_BYTES, 7))
def test_a_changed_grant_is_no_grant(bit):
    damaged = bytearray(SIGNED)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises((AuthenticationFailed, ProtocolError)):
        Grant.unpack(bytes(damaged), KEY.public_key())


@pytest.mark.parametrize("change", [{"node": ""}, {"node": "-n"}, {"node": "n" * 56}, {"node": "ä"}, {"uid": -1}])
def test_what_has_no_place_in_a_grant_is_refused(change):
    with pytest.raises(ConfigError):
        Grant(**{**FIELDS, **change}).pack()


@pytest.mark.parametrize(
    ("state_dir", "allocator"),
    [("relative", ""), ("/a/../b", ""), ("/a//b", ""), ("/a b", ""), ("/" + "a" * 255, ""), ("/a", "h" * 64)],
)
def test_what_has_no_place_in_a_request_is_refused(state_dir, allocator):
    with pytest.raises(ConfigError):
        request(SIGNED, bytes(32), state_dir, allocator)


def test_answers_are_understood_or_refused():
    assert _understood(f"rfaas-node/1 started slice={'ab' * 16} pid=7") == Started(bytes.fromhex("ab" * 16), 7)
    with pytest.raises(StartRefused, match="no-room") as error:
        _understood("rfaas-node/1 refused code=no-room hint=a b = c")
    assert (error.value.refusal, error.value.hint) == ("no-room", "a b = c")
    with pytest.raises(ProtocolError):
        _understood("HTTP/1.1 400")
