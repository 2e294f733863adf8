"""The one handshake of session and data connections, sans-IO: who speaks, in which version, with which key.

Must not act on anything a peer said before that peer is proven, and must not tell a peer why its proof failed.
The sockets are in handshake.py. Spec: docs/spec/004-session.md section 1.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from rfaas_transport.errors import (
    AuthenticationFailed,
    ConfigError,
    NotFound,
    ProtocolError,
    RfaasError,
    VersionMismatch,
)
from rfaas_transport.messages import LENGTH_BYTES, Message, decode, pack

Params = dict[str, Any]
Authorise = Callable[[str, Params], Mapping[str, Any] | None]
Field = TypeVar("Field")

MAGIC = "rfaas"
ROLES = ("session", "data")
VERSIONS = (1, 1)
AUTH_SECRET = 1
SECRET_BYTES = 32
NONCE_BYTES = 32
LIMIT_BYTES = 4096
TIMEOUT_S = 2.0
ENCRYPTION_REQUIRED = "encryption-required"
ENCRYPTION_UNAVAILABLE = "encryption-unavailable"
VERBS_UNAVAILABLE = "verbs-unavailable"
MEDIUM_CODES = (ENCRYPTION_REQUIRED, ENCRYPTION_UNAVAILABLE, VERBS_UNAVAILABLE)

_log = logging.getLogger(__name__)


class MediumRefused(ProtocolError):
    """The accepter takes no data connection over this medium (004 section 1); nothing was opened.

    Attributes:
        refusal: one of MEDIUM_CODES.
    """

    refusal = ""

    @classmethod
    def of(cls, code: str, hint: str) -> MediumRefused:
        """That of a reject's code, one of MEDIUM_CODES."""
        error = cls(f"the agent refuses the data connection: {code}", hint=hint)
        error.refusal = code
        return error


class NotAllowed(AuthenticationFailed):
    """The peer knows who we are, and that we may not come in (004 section 1.1); nothing was opened."""

    refusal = "not-allowed"


class Machine(ABC):
    """What both sides share: cutting messages, the transcript, the end.

    Attributes:
        auth: the type of authentication (004 section 1); this one's is a shared secret.
        done: the handshake succeeded.
        session_key: 32 bytes known to both sides alone; set when done.
        peer_params: what the peer told in hello or welcome; believed only when done.
        leftover: bytes that came after the last message; they belong to what follows.
        last_words: what to send before closing, when `receive` raised; may be empty.
    """

    auth: ClassVar[int] = AUTH_SECRET

    def __init__(self, secret: bytes, nonce: bytes | None) -> None:
        if len(secret) != SECRET_BYTES:
            raise ConfigError(f"the secret has {len(secret)} bytes, not {SECRET_BYTES}")
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._transcript = b""
        self._buffer = bytearray()
        self._accepted_bytes = 0
        self._failure: RfaasError | None = None
        self.done = False
        self.session_key = b""
        self.peer_params: Params = {}
        self.leftover = b""
        self.last_words = b""

    @abstractmethod
    def start(self) -> bytes:
        """What to send first; empty for the accepter."""

    @abstractmethod
    def _on_message(self, message: Message, raw: bytes) -> bytes:
        """Answer one message; `raw` is its bytes, with length."""

    @property
    def wanted_bytes(self) -> int:
        """How many bytes to read next so as not to read one too many; 0 when done."""
        if self.done:
            return 0
        if len(self._buffer) < LENGTH_BYTES:
            return LENGTH_BYTES - len(self._buffer)
        return LENGTH_BYTES + self._length() - len(self._buffer)

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the peer, in pieces of any size; return what to send to it.

        Raises:
            AuthenticationFailed: the peer could not prove who it is, or said that we could not.
            VersionMismatch: the versions are further apart than one.
            NotFound: the accepter has no such lease, slot or generation.
            MediumRefused: the accepter takes no such medium, or only encrypted connections.
            ProtocolError: the peer broke the specification.
                After any of these: send `last_words`, close; each later call raises the same.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._receive(data)
        except RfaasError as error:
            self._failure = error
            raise

    def _receive(self, data: bytes) -> bytes:
        self._buffer += data
        answers = b""
        while self._reads and (raw := self._next_message()) is not None:
            message = self._decode(raw)
            answers += self._on_message(message, raw)
        if self.done:
            self.leftover += bytes(self._buffer)
            self._buffer.clear()
        return answers

    @property
    def _reads(self) -> bool:
        """Whether the next message may be looked at."""
        return not self.done

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "little")
        if not 1 <= length <= LIMIT_BYTES or self._accepted_bytes + LENGTH_BYTES + length > LIMIT_BYTES:
            raise self._bad_message(f"more than {LIMIT_BYTES} bytes before the proof")
        return length

    def _next_message(self) -> bytes | None:
        if len(self._buffer) < LENGTH_BYTES:
            return None
        end = LENGTH_BYTES + self._length()
        if len(self._buffer) < end:
            return None
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._accepted_bytes += end
        return raw

    def _decode(self, raw: bytes) -> Message:
        try:
            message = decode(raw[LENGTH_BYTES:], LIMIT_BYTES)
        except ProtocolError as error:
            raise self._bad_message(error.message) from error
        if message["m"] == "reject":
            raise _rejected(message)
        return message

    def _mac(self, label: bytes, transcript: bytes) -> bytes:
        return hmac.digest(self._secret, label + hashlib.sha256(transcript).digest(), "sha256")

    def _say(self, message: Message) -> bytes:
        raw = pack(message, LIMIT_BYTES)
        self._transcript += raw
        return raw

    def _expect(self, message: Message, name: str) -> None:
        if message["m"] != name:
            raise self._bad_message(f"{name} was due, {message['m'][:32]!r} came")

    def _field(self, message: Message, key: str, kind: type[Field]) -> Field:
        value = message.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._bad_message(f"{message['m']} without a proper {key}")
        return value

    def _sized(self, message: Message, key: str) -> bytes:
        value = self._field(message, key, bytes)
        if len(value) != 32:  # nonces and MACs alike
            raise self._bad_message(f"{message['m']} with a {key} of {len(value)} bytes")
        return value

    def _reject(self, code: str, hint: str) -> None:
        self.last_words = pack({"m": "reject", "code": code, "versions": list(VERSIONS), "hint": hint[:500]})

    def _bad_message(self, cause: str) -> ProtocolError:
        self._reject("bad-message", cause)
        return ProtocolError(f"handshake: {cause}")

    def _not_proven(self, cause: str) -> AuthenticationFailed:
        # One text for every cause: a peer that is not proven learns nothing from the difference.
        _log.warning("handshake refused cause=%r", cause)
        self._reject("authentication-failed", "")
        return AuthenticationFailed(
            "the peer could not prove who it is", hint="both sides need the same secret file of the same user"
        )


class Dialer(Machine):
    """The side that connects. `role` ("session" or "data") and `params` are told to the accepter.

    `nonce` is given by tests alone.
    """

    def __init__(self, secret: bytes, role: str, params: Mapping[str, Any], *, nonce: bytes | None = None) -> None:
        super().__init__(secret, nonce)
        self._role = role
        self._params = dict(params)
        self._awaited = "challenge"

    def start(self) -> bytes:
        """The hello.

        Raises:
            PayloadTooLarge: `params` do not fit.
        """
        return self._say(self._hello())

    def _hello(self) -> Message:
        return {
            "m": "hello",
            "magic": MAGIC,
            "versions": list(VERSIONS),
            "auth": [self.auth],
            "role": self._role,
            "nonce": self._nonce,
            "params": self._params,
        }

    def _on_message(self, message: Message, raw: bytes) -> bytes:
        self._expect(message, self._awaited)
        return self._on_challenge(message, raw) if self._awaited == "challenge" else self._on_welcome(message)

    def _on_welcome(self, message: Message) -> bytes:
        self.peer_params = self._field(message, "params", dict)
        self.done = True
        return b""

    def _on_challenge(self, message: Message, raw: bytes) -> bytes:
        self._check_challenge(message, raw)
        return self._prove()

    def _check_challenge(self, message: Message, raw: bytes) -> None:
        version = self._field(message, "version", int)
        if not VERSIONS[0] <= version <= VERSIONS[1]:
            self._reject("version-mismatch", f"version {version} was not offered")
            raise VersionMismatch(f"the accepter chose version {version}, we speak {VERSIONS[0]} to {VERSIONS[1]}")
        mac = self._sized(message, "mac")
        self._sized(message, "nonce")
        unsigned = pack({**message, "mac": b""}, LIMIT_BYTES)
        expected = self._mac(b"rfaas-004 accepter", self._transcript + unsigned)
        if self._field(message, "auth", int) != self.auth or not hmac.compare_digest(mac, expected):
            raise self._not_proven("the accepter's MAC is wrong")
        self._transcript += raw

    def _prove(self, **further: object) -> bytes:
        proof = self._say({"m": "proof", "mac": self._mac(b"rfaas-004 dialer", self._transcript), **further})
        self.session_key = self._mac(b"rfaas-004 key", self._transcript)
        self._awaited = "welcome"
        return proof


class Accepter(Machine):
    """The side that listens.

    Args:
        authorise: called with (role, params) once the dialer is proven; returns the params of the welcome (None: none)
            or raises NotFound, NotAllowed or MediumRefused. It must not block.
        nonce: given by tests alone.
    """

    def __init__(self, secret: bytes, authorise: Authorise, *, nonce: bytes | None = None) -> None:
        super().__init__(secret, nonce)
        self._authorise = authorise
        self._awaited = "hello"
        self._told: Params = {}
        self.role = ""

    def start(self) -> bytes:
        """Nothing: the dialer speaks first."""
        return b""

    def _on_message(self, message: Message, raw: bytes) -> bytes:
        self._expect(message, self._awaited)
        if self._awaited == "hello":
            return self._on_hello(message, raw)
        return self._on_proof(message, raw)

    def _on_hello(self, message: Message, raw: bytes) -> bytes:
        if message.get("magic") != MAGIC:
            raise self._bad_message("not a peer of rfaas")
        version = self._choose_version(message)
        if self.auth not in self._field(message, "auth", list):
            raise self._not_proven("no common type of authentication")
        role = self._field(message, "role", str)
        if role not in ROLES:
            raise self._bad_message("hello with an unknown role")
        self.role = role
        self._sized(message, "nonce")
        self._told = self._field(message, "params", dict)
        self._transcript += raw
        challenge = self._challenge(version)
        challenge["mac"] = self._mac(b"rfaas-004 accepter", self._transcript + pack(challenge, LIMIT_BYTES))
        self._awaited = "proof"
        return self._say(challenge)

    def _challenge(self, version: int) -> Message:
        return {"m": "challenge", "version": version, "auth": self.auth, "nonce": self._nonce, "mac": b""}

    def _choose_version(self, message: Message) -> int:
        versions = self._field(message, "versions", list)
        if len(versions) != 2 or not all(type(v) is int and 0 <= v < 2**32 for v in versions):
            raise self._bad_message("hello without proper versions")
        newest = min(versions[1], VERSIONS[1])
        if newest < max(versions[0], VERSIONS[0]):
            hint = f"the dialer speaks {versions[0]} to {versions[1]}, the accepter {VERSIONS[0]} to {VERSIONS[1]}"
            self._reject("version-mismatch", hint)
            raise VersionMismatch(hint)
        return int(newest)

    def _on_proof(self, message: Message, raw: bytes) -> bytes:
        self._check_proof(message, raw)
        welcome = self._ask_authoriser()
        self.done = True
        return pack(welcome, LIMIT_BYTES)

    def _check_proof(self, message: Message, raw: bytes) -> None:
        expected = self._mac(b"rfaas-004 dialer", self._transcript)
        if not hmac.compare_digest(self._sized(message, "mac"), expected):
            raise self._not_proven("the dialer's MAC is wrong")
        self._transcript += raw
        self.session_key = self._mac(b"rfaas-004 key", self._transcript)

    def _ask_authoriser(self) -> Message:
        """The welcome."""
        self.peer_params = self._told
        try:
            welcome = self._authorise(self.role, self.peer_params)
        except NotFound as error:
            self._reject("not-found", error.hint or error.message)
            raise
        except MediumRefused as error:
            self._reject(error.refusal, error.hint)
            raise
        except NotAllowed as error:
            self._reject(error.refusal, error.message)
            raise
        return {"m": "welcome", "params": dict(welcome or {})}


def _rejected(message: Message) -> RfaasError:
    """The error that a peer's reject stands for. Before the proof it may be anyone's, and ends one attempt only."""
    code, hint = (str(message.get(key, ""))[:500] for key in ("code", "hint"))
    if code == "authentication-failed":
        return AuthenticationFailed(
            "the peer did not accept our proof", hint="both sides need the same secret file of the same user"
        )
    if code == NotAllowed.refusal:
        return NotAllowed(hint or "the peer does not let this user in")
    if code == "version-mismatch":
        return VersionMismatch(hint or f"the peer speaks versions {message.get('versions')}")
    if code == "bad-message":
        return ProtocolError(f"the peer found our handshake malformed: {hint}")
    if code in MEDIUM_CODES:
        return MediumRefused.of(code, hint)
    if code == "not-found":
        return NotFound(hint or "the peer knows no such lease, slot or generation")
    return ProtocolError(f"the peer refused the connection: {code} {hint}")
