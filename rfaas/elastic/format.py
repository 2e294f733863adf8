"""The bytes of a checkpoint: parts, one a rank, and the manifest that makes them one. Pure: no files here.

Everything that is read is checked before it is believed: magic, version, lengths, CRC-32C. Spec:
docs/spec/011-checkpoint.md.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgpack

from rfaas.elastic.blocks import Box
from rfaas.elastic.errors import CheckpointDamaged
from rfaas_transport._core import crc32c

VERSION: Final = 1
MANIFEST_MAGIC: Final = b"RFCKMANI"
PART_MAGIC: Final = b"RFCKPART"
MANIFEST_HEAD: Final = struct.Struct("<8sIIII")  # magic, version, body bytes, CRC of the body, CRC of the fields before
PART_HEAD: Final = struct.Struct("<8sIIQ8sI")  # magic, version, rank, sequence, attempt, CRC of the fields before
REMEDY: Final = "give back a copy of the files, or remove them to begin anew"


@dataclass(frozen=True, slots=True)
class Array:
    """A global array: what a program must have for a checkpoint to fit it. `dtype` as numpy's `dtype.str`."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a global array in a part: C-contiguous, `n_bytes` from `offset` on."""

    array: int
    box: Box
    offset: int
    n_bytes: int
    crc: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank wrote: a file beside the manifest."""

    file: str
    n_bytes: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What makes parts a checkpoint.

    Args:
        app, app_version: whose it is, and what its arrays and numbers mean.
        sequence: higher than that of every checkpoint before it of the same name.
        attempt: 16 hex digits that no other start of the program has.
        iteration: that is done next by who goes on from here.
        arrays: all there are.
        parts: in which every point of every array is once.
        state: what the program said of itself; msgpack's types.
    """

    app: str
    app_version: str
    sequence: int
    attempt: str
    iteration: int
    arrays: tuple[Array, ...]
    parts: tuple[Part, ...]
    state: dict[str, Any] = field(default_factory=dict)


def encode_part_head(sequence: int, attempt: str, rank: int) -> bytes:
    """The first bytes of a part."""
    plain = PART_HEAD.pack(PART_MAGIC, VERSION, rank, sequence, bytes.fromhex(attempt), 0)[:-4]
    return plain + crc32c(plain).to_bytes(4, "little")


def check_part_head(head: bytes, manifest: Manifest, what: str) -> None:
    """Raises CheckpointDamaged unless these are the first bytes of a part of this checkpoint."""
    if len(head) != PART_HEAD.size or head[:8] != PART_MAGIC:
        raise CheckpointDamaged(f"{what} does not begin like a part of a checkpoint", hint=REMEDY)
    _, version, _, sequence, attempt, crc = PART_HEAD.unpack(head)
    if crc != crc32c(head[:-4]):
        raise CheckpointDamaged(f"the first bytes of {what} have another checksum", hint=REMEDY)
    if version != VERSION or sequence != manifest.sequence or attempt.hex() != manifest.attempt:
        raise CheckpointDamaged(f"{what} belongs to another checkpoint than its manifest says", hint=REMEDY)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of the manifest's file."""
    body = msgpack.packb(asdict(manifest))
    plain = MANIFEST_HEAD.pack(MANIFEST_MAGIC, VERSION, len(body), crc32c(body), 0)[:-4]
    return bytes(plain + crc32c(plain).to_bytes(4, "little") + body)


def decode_manifest(data: bytes, what: str) -> Manifest:
    """What a manifest's file says.

    Raises:
        CheckpointDamaged: it was torn or altered, or is of a version that this one does not know.
    """
    if len(data) < MANIFEST_HEAD.size or data[:8] != MANIFEST_MAGIC:
        raise CheckpointDamaged(f"{what} does not begin like a manifest", hint=REMEDY)
    _, version, n_bytes, crc, head_crc = MANIFEST_HEAD.unpack_from(data)
    if head_crc != crc32c(data[: MANIFEST_HEAD.size - 4]):
        raise CheckpointDamaged(f"the first bytes of {what} have another checksum", hint=REMEDY)
    if version != VERSION:
        raise CheckpointDamaged(f"{what} is of version {version}; this is {VERSION}", hint="use a newer rfaas")
    body = data[MANIFEST_HEAD.size :]
    if len(body) != n_bytes or crc32c(body) != crc:
        raise CheckpointDamaged(f"{what} is torn: {len(body)} of {n_bytes} bytes, or other ones", hint=REMEDY)
    try:
        return _manifest(msgpack.unpackb(body))
    except (KeyError, TypeError, ValueError) as error:  # its checksum fits: whoever wrote it meant something else
        raise CheckpointDamaged(f"{what} can't be understood: {error}", hint=REMEDY) from error


def _manifest(fields: dict[str, Any]) -> Manifest:
    return Manifest(
        app=fields["app"],
        app_version=fields["app_version"],
        sequence=fields["sequence"],
        attempt=fields["attempt"],
        iteration=fields["iteration"],
        arrays=tuple(Array(a["name"], tuple(a["shape"]), a["dtype"]) for a in fields["arrays"]),
        parts=tuple(_part(part) for part in fields["parts"]),
        state=fields["state"],
    )


def _part(fields: dict[str, Any]) -> Part:
    if "/" in fields["file"]:
        raise ValueError("a part lies in another directory")
    return Part(fields["file"], fields["n_bytes"], tuple(_block(block) for block in fields["blocks"]))


def _block(fields: dict[str, Any]) -> Block:
    box = tuple((start, stop) for start, stop in fields["box"])
    return Block(fields["array"], box, fields["offset"], fields["n_bytes"], fields["crc"])
