"""Manifests against their vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_transport.errors import ProtocolError
from rfaas_transport.manifest import Manifest, decode_manifest, digest, encode_manifest
from support.vectors import load

VECTORS = {vector["name"]: vector for vector in load("manifests")["manifests"]}


def manifest_of(vector):
    fields = vector["manifest"]
    return Manifest(**{**fields, "blobs": tuple(bytes.fromhex(blob) for blob in fields["blobs"])})


@pytest.mark.parametrize("name", VECTORS)
def test_the_vector_is_written_read_and_named(name):
    vector = VECTORS[name]
    encoded = bytes.fromhex(vector["encoded"])
    assert encode_manifest(manifest_of(vector)).hex() == vector["encoded"]
    assert decode_manifest(encoded) == manifest_of(vector)
    assert digest(encoded).hex() == vector["identity"]


@pytest.mark.parametrize("name", VECTORS)
def test_a_manifest_cut_off_or_followed_by_more_is_refused(name):
    encoded = bytes.fromhex(VECTORS[name]["encoded"])
    for length in range(len(encoded)):
        with pytest.raises(ProtocolError):
            decode_manifest(encoded[:length])
    with pytest.raises(ProtocolError):
        decode_manifest(encoded + b"\0")


def test_keys_of_later_versions_are_ignored_but_part_of_the_identity():
    vector = VECTORS["no-blobs"]
    encoded = bytes.fromhex(vector["encoded"])
    later = bytes([encoded[0] + 1]) + encoded[1:] + b"\xa3new\x01"
    assert decode_manifest(later) == manifest_of(vector)
    assert digest(later).hex() != vector["identity"]


def test_a_short_digest_is_refused_on_both_sides():
    with pytest.raises(ValueError, match="32 bytes"):
        encode_manifest(Manifest(blobs=(b"short",)))
    encoded = bytes.fromhex(VECTORS["python"]["encoded"])
    with pytest.raises(ProtocolError):
        decode_manifest(encoded.replace(b"\xc4\x20", b"\xc4\x1f")[:-1])


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_the_one_error(data):
    with pytest.raises(ProtocolError):
        decode_manifest(data)
