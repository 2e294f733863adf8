"""Manifests of functions: what DEFINE carries and what names a function, as deterministic msgpack.

Knows digests, not functions: must not pickle or import anything. Spec: docs/spec/001-invocation.md section 2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgpack

from rfaas_transport.errors import ProtocolError

DIGEST_BYTES = 32
MAX_MANIFEST_BYTES = 64 << 10


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """SHA-256: the name of a blob, and of a function by its encoded manifest."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a function is: how to make it from its blobs. Two functions are the same if their manifests are.

    Args:
        kind: how it is run, "python".
        abi: how arguments and results travel, "pickle5".
        isa: instruction set that its blobs need, "any".
        entry: name inside the blobs; empty for a pickled callable.
        blobs: SHA-256 digests, in the order that `kind` defines.
    """

    kind: str = "python"
    abi: str = "pickle5"
    isa: str = "any"
    entry: str = ""
    blobs: tuple[bytes, ...] = ()


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes that DEFINE carries: the same for equal manifests, on every machine; their `digest` is the identity.

    Raises:
        ValueError: a blob's digest is not of DIGEST_BYTES.
    """
    if any(len(blob) != DIGEST_BYTES for blob in manifest.blobs):
        raise ValueError(f"the digest of a blob has {DIGEST_BYTES} bytes")
    fields = {
        "kind": manifest.kind,
        "abi": manifest.abi,
        "isa": manifest.isa,
        "entry": manifest.entry,
        "blobs": list(manifest.blobs),
    }
    encoded: bytes = msgpack.packb(fields, use_bin_type=True)
    return encoded


def decode_manifest(encoded: bytes | bytearray | memoryview) -> Manifest:
    """Read a manifest. Keys of later versions are ignored, so the identity is `digest(encoded)` and no other.

    Raises:
        ProtocolError: `encoded` is no manifest.
    """
    if len(encoded) > MAX_MANIFEST_BYTES:
        raise ProtocolError(f"a manifest of {len(encoded)} bytes, at most {MAX_MANIFEST_BYTES} are allowed")
    try:
        fields = msgpack.unpackb(encoded, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no manifest: {error or type(error).__name__}") from error
    if not isinstance(fields, dict):
        raise ProtocolError("no manifest: not a map")
    kind, abi, isa, entry = (_text(fields.get(name)) for name in ("kind", "abi", "isa", "entry"))
    blobs = fields.get("blobs")
    if not isinstance(blobs, list) or not all(isinstance(b, bytes) and len(b) == DIGEST_BYTES for b in blobs):
        raise ProtocolError(f"no manifest: blobs is a list of {DIGEST_BYTES}-byte digests")
    return Manifest(kind=kind, abi=abi, isa=isa, entry=entry, blobs=tuple(blobs))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ProtocolError("no manifest: kind, abi, isa and entry are text")
    return value
