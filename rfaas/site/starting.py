"""Asking a node's root agent to start one's own agent there: one credential, one answer.

The credential is munge's word for who asks; only root may decode it, since the slice's secret is in it.
Spec: docs/spec/010-node-agent.md sections 3, 4.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from rfaas.site.grant import GRANT_BYTES
from rfaas_transport.errors import AllocatorUnavailable, ConfigError, LeaseDenied, ProtocolError
from rfaas_transport.handshake_machine import SECRET_BYTES
from rfaas_transport.munge import Munge

MAGIC: Final = b"rfaasst1"
FORM: Final = struct.Struct(f"<8s{GRANT_BYTES}s{SECRET_BYTES}s256s64s")
LIMIT_BYTES: Final = 4096
ANSWER_BYTES: Final = 16 << 10  # a list of the most slices that a node has
NODE_AGENT_UID: Final = 0
TIMEOUT_S: Final = 15.0  # munged, then the start of an interpreter
_ANSWER: Final = "rfaas-node/1 "


class StartRefused(LeaseDenied):
    """The node agent started nothing.

    Attributes:
        refusal: its code (010 section 4), e.g. "no-room".
    """

    refusal = ""


@dataclass(frozen=True, slots=True)
class Started:
    """An agent of one's own runs on that node; it is heard of at the allocator that it was told."""

    slice_id: bytes
    pid: int


def request(signed_grant: bytes, secret: bytes, state_dir: str, allocator: str = "") -> bytes:
    """The bytes that a credential vouches for.

    Args:
        signed_grant: `Grant.sign`.
        secret: of the allocator that the agent is to register with (004 section 1); it travels encrypted by munge.
        state_dir: absolute; holds that allocator's address and key pair, as the node sees it.
        allocator: "host:port" of it, where `state_dir` holds no address.

    Raises:
        ConfigError: a text is too long, or not plain ASCII.
    """
    fields = {"state_dir": (state_dir, 255), "allocator": (allocator, 63)}
    for name, (text, most) in fields.items():
        if len(text) > most or not all(" " < letter <= "~" for letter in text):
            raise ConfigError(
                f"{name} {text!r} can't be sent", hint=f"at most {most} printable ASCII characters, no spaces"
            )
    if not state_dir.startswith("/") or "/../" in state_dir or "//" in state_dir:
        raise ConfigError(f"state_dir {state_dir!r} is no absolute path without detours")
    if len(signed_grant) != GRANT_BYTES or len(secret) != SECRET_BYTES:
        raise ConfigError("grant or secret is of another length")
    return FORM.pack(MAGIC, signed_grant, secret, state_dir.encode(), allocator.encode())


def start(address: str, payload: bytes, munge: Munge, *, timeout_s: float = TIMEOUT_S) -> Started:
    """Have the node agent at "host:port" start an agent of this user; blocks.

    Raises:
        StartRefused: it did not; nothing runs, and the grant is used up unless the code says that it was not proven.
        MungeError: munged of this host made no credential; nothing was sent.
        AllocatorUnavailable: nobody answers there; whether something runs is for the allocator to say.
        ProtocolError: what answers is no node agent.
    """
    return _understood(exchange(address, payload, munge, timeout_s=timeout_s))


def exchange(address: str, payload: bytes, munge: Munge, *, timeout_s: float = TIMEOUT_S) -> str:
    """What the node agent at "host:port" answers to one payload, as text; blocks.

    Raises:
        MungeError: munged of this host made no credential; nothing was sent.
        AllocatorUnavailable: nobody answers there.
        ProtocolError: what answers is no node agent.
    """
    credential = munge.encode(payload, for_uid=NODE_AGENT_UID).encode("ascii")
    if len(credential) > LIMIT_BYTES - 4:
        raise ConfigError(f"the credential has {len(credential)} bytes", hint="see which cipher munged is set to")
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as sock:
            sock.sendall(len(credential).to_bytes(4, "little") + credential)
            return _read(sock)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise AllocatorUnavailable(
            f"the node agent at {address} does not answer: {error}", hint="see that rfaas-node-agent runs on that node"
        ) from error


def _read(sock: socket.socket) -> str:
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
        if len(data) >= 4 and int.from_bytes(data[:4], "little") > ANSWER_BYTES:
            raise ProtocolError("the answer is longer than a node agent's")
        more = sock.recv(4096)
        if not more:
            raise ConnectionResetError("it hung up")
        data += more
    return data[4:].decode("ascii", "replace")


def fields_of(text: str) -> tuple[str, dict[str, str], str]:
    """Verb, fields and hint of an answer.

    Raises:
        ProtocolError: it is no node agent's.
    """
    if not text.startswith(_ANSWER):
        raise ProtocolError(f"the answer is no node agent's: {text[:60]!r}")
    verb, _, rest = text.removeprefix(_ANSWER).partition(" ")
    words, _, hint = rest.partition(" hint=")
    return verb, dict(word.split("=", 1) for word in words.split(" ") if "=" in word), hint


def refusal_of(verb: str, fields: dict[str, str], hint: str) -> StartRefused:
    """The error that a node agent's refusal is."""
    error = StartRefused(f"the node agent refused: {fields.get('code', verb)}", hint=hint)
    error.refusal = fields.get("code", "")
    return error


def _understood(text: str) -> Started:
    verb, fields, hint = fields_of(text)
    if verb != "started":
        raise refusal_of(verb, fields, hint)
    try:
        return Started(bytes.fromhex(fields.get("slice", "")), int(fields.get("pid", "0")))
    except ValueError as error:
        raise ProtocolError(f"the answer is no node agent's: {text[:60]!r}") from error
