"""A grant: so many cores and so much memory of one node for one user until then, in the site allocator's hand.

Its bytes are canonical: one grant has one form, which Ed25519 (RFC 8032) signs.
Spec: docs/spec/010-node-agent.md section 2.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rfaas.control.address import check_private
from rfaas_transport.errors import AuthenticationFailed, ConfigError, ProtocolError

MAGIC: Final = b"rfaasgr1"
LABEL: Final = b"rfaas-010 grant"
FORM: Final = struct.Struct("<8s16s16sQQQQII56s")
SIGNATURE_BYTES: Final = 64
GRANT_BYTES: Final = FORM.size + SIGNATURE_BYTES
_NODE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,54}")


@dataclass(frozen=True, slots=True)
class Grant:
    """What the site's allocator grants.

    Attributes:
        slice_id, nonce: 16 random bytes each.
        issued_s, use_by_s, ends_s: seconds since 1970; to be used between the first two, over at the third.
        memory_bytes, cores: of the node, for this slice alone.
        uid: whose it is.
        node: its name in Slurm.
    """

    slice_id: bytes
    nonce: bytes
    issued_s: int
    use_by_s: int
    ends_s: int
    memory_bytes: int
    uid: int
    cores: int
    node: str

    def pack(self) -> bytes:
        """What is signed, without its label.

        Raises:
            ConfigError: a field is out of its range.
        """
        if not _NODE.fullmatch(self.node) or len(self.slice_id) != 16 or len(self.nonce) != 16:
            raise ConfigError(
                f"no grant can be made for node {self.node!r}", hint="a name has up to 55 letters, digits, -_."
            )
        numbers = (self.issued_s, self.use_by_s, self.ends_s, self.memory_bytes, self.uid, self.cores)
        try:
            return FORM.pack(MAGIC, self.slice_id, self.nonce, *numbers, self.node.encode())
        except struct.error as error:
            raise ConfigError(f"no grant can be made: {error}") from error

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """The grant as it travels, 200 bytes."""
        body = self.pack()
        return body + key.sign(LABEL + body)

    @classmethod
    def unpack(cls, signed: bytes, key: Ed25519PublicKey | None = None) -> Grant:
        """That of its bytes; with `key` also whether its allocator signed it.

        Raises:
            ProtocolError: these are no grant's bytes.
            AuthenticationFailed: somebody else signed it.
        """
        if len(signed) != GRANT_BYTES or signed[:8] != MAGIC:
            raise ProtocolError("these bytes are no grant of this version")
        body, signature = signed[: FORM.size], signed[FORM.size :]
        if key is not None:
            try:
                key.verify(signature, LABEL + body)
            except InvalidSignature as error:
                raise AuthenticationFailed("the site's allocator did not sign this grant") from error
        _, slice_id, nonce, issued, use_by, ends, memory, uid, cores, node = FORM.unpack(body)
        try:
            name = node.rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError as error:
            raise ProtocolError("a grant for a node without a name") from error
        if not _NODE.fullmatch(name):
            raise ProtocolError("a grant for a node without a name")
        return cls(slice_id, nonce, issued, use_by, ends, memory, uid, cores, name)


def load_key(path: Path) -> Ed25519PrivateKey:
    """The allocator's key: 32 bytes in hex in a file of its own.

    Raises:
        ConfigError: there is none, others can read it, or it is no key.
    """
    try:
        check_private(path)
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error}", hint="`rfaas site key` makes one") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} holds no key: {error}", hint="`rfaas site key` makes one") from error
