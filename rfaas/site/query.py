"""What the site's allocator asks a node's root agent: which slices it lends, and to give them back with notice.

Signed by the allocator's key like a grant, and a credential of munge's, so it can be used once. The answer is not
signed: it is compared with books that are hints anyway. Spec: docs/spec/010-node-agent.md section 9.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rfaas.site.starting import exchange, fields_of, refusal_of
from rfaas_transport.errors import ProtocolError
from rfaas_transport.munge import Munge

MAGIC: Final = b"rfaasqy1"
LABEL: Final = b"rfaas-010 query"
FORM: Final = struct.Struct("<8s16sQQII56s")
LIST: Final = 0
NOTICE: Final = 1


@dataclass(frozen=True, slots=True)
class Lent:
    """One slice, as its node says."""

    slice_id: bytes
    uid: int
    cores: int
    memory_bytes: int
    ends_in_s: int
    state: str


@dataclass(frozen=True, slots=True)
class NodeSays:
    """What a node lends, how many jobs hold it, and whether it knows which jobs are there."""

    slices: tuple[Lent, ...]
    jobs: int
    unsure: bool


def pack(key: Ed25519PrivateKey, node: str, *, verb: int = LIST, job: int = 0) -> bytes:
    """The payload, 168 bytes."""
    body = FORM.pack(MAGIC, os.urandom(16), int(time.time()), job, verb, 0, node.encode())
    return body + key.sign(LABEL + body)


def ask_node(
    address: str,
    key: Ed25519PrivateKey,
    node: str,
    munge: Munge,
    *,
    verb: int = LIST,
    job: int = 0,
    timeout_s: float = 8.0,
) -> NodeSays:
    """Ask the node agent at "host:port"; blocks.

    Raises:
        StartRefused: it is another node, has another allocator's key, or is busy.
        MungeError, AllocatorUnavailable, ProtocolError: as for `exchange`.
    """
    verb_said, fields, hint = fields_of(
        exchange(address, pack(key, node, verb=verb, job=job), munge, timeout_s=timeout_s)
    )
    if verb_said != "lends":
        raise refusal_of(verb_said, fields, hint)
    try:
        slices = tuple(_lent(text) for text in fields["slices"].split(",") if text)
        return NodeSays(slices, int(fields["jobs"]), fields["unsure"] != "0")
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"the node agent's list can't be read: {error}") from error


def _lent(text: str) -> Lent:
    name, uid, cores, memory_bytes, ends_in_s, state = text.split(":")
    return Lent(bytes.fromhex(name), int(uid), int(cores), int(memory_bytes), int(ends_in_s), state)
