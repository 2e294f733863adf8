"""The handshake between peers that share no secret but a munge key: an agreed key, and a credential from each side.

Sans-IO as its base: munged is asked by whoever drives the machine (`request`, then `answered`). Must not act on
anything before munged has named the peer, and authorises by the uid that munged names alone.
Spec: docs/spec/004-session.md section 1.1.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from rfaas_transport.errors import RfaasError
from rfaas_transport.handshake_machine import LIMIT_BYTES, Accepter, Dialer, Machine, NotAllowed, Params
from rfaas_transport.messages import Message, pack
from rfaas_transport.munge import Decoded, Munge

AUTH_MUNGE = 2
AuthoriseUser = Callable[[int, str, Params], Mapping[str, Any] | None]

_log = logging.getLogger(__name__)
_PLACEHOLDER = bytes(32)  # in the place of the secret until both keys are known
_DIALER, _ACCEPTER = b"rfaas-004 munge dialer", b"rfaas-004 munge accepter"


@dataclass(frozen=True, slots=True)
class Encode:
    """Wish of a machine: a credential for `payload` that `for_uid` alone may decode."""

    payload: bytes
    for_uid: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Wish of a machine: who made this credential, and for what."""

    credential: str


def carry_out(request: Encode | Decode, munge: Munge) -> str | Decoded | RfaasError:
    """Ask munged what a machine wishes to know; blocks. The answer, an error too, goes to `answered`."""
    try:
        if isinstance(request, Encode):
            return munge.encode(request.payload, for_uid=request.for_uid)
        return munge.decode(request.credential)
    except RfaasError as error:
        return error


class _Agreement(Machine):
    """What both sides add to the machine of a shared secret.

    Attributes:
        request: what munged is to be asked now; None if nothing. While there is one no byte is wanted.
        peer_uid, peer_gid: of the peer by munged's word; -1 before.
    """

    def _begin(self, munge: Munge | None, private_key: bytes | None) -> None:
        made = X25519PrivateKey.generate() if private_key is None else X25519PrivateKey.from_private_bytes(private_key)
        self._private_key = made
        self.munge = munge
        self.request: Encode | Decode | None = None
        self.peer_uid = self.peer_gid = -1
        self._expected_payload = b""
        self._then: Callable[[str | Decoded], bytes] = lambda answer: b""

    @property
    def public_key(self) -> bytes:
        """This side's, for this connection alone."""
        return self._private_key.public_key().public_bytes_raw()

    @property
    def _reads(self) -> bool:
        return self.request is None and super()._reads

    @property
    def wanted_bytes(self) -> int:
        return 0 if self.request is not None else super().wanted_bytes

    def answered(self, answer: str | Decoded | RfaasError) -> bytes:
        """Take munged's answer to `request`; return what to send to the peer. Raises as `receive`."""
        self.request = None
        if self._failure is not None:
            raise self._failure
        try:
            if isinstance(answer, RfaasError):
                raise self._munge_failed(answer)
            said = self._then(answer)
            return said if self.request is not None else said + self._receive(b"")
        except RfaasError as error:
            self._failure = error
            raise

    def _munge_failed(self, error: RfaasError) -> RfaasError:
        _log.warning("handshake refused cause=%r remedy=%r", error.message, error.hint)
        self._reject("authentication-failed", "")
        return error

    def _agree(self, message: Message) -> None:
        """The secret of section 1, from the peer's key."""
        try:
            theirs = X25519PublicKey.from_public_bytes(self._sized(message, "key"))
            self._secret = self._private_key.exchange(theirs)
        except ValueError as error:
            raise self._not_proven("a key that agrees with every other") from error

    def _payload(self, label: bytes, transcript: bytes) -> bytes:
        return hashlib.sha256(label + transcript).digest()

    def _ask(self, request: Encode | Decode, then: Callable[[Any], bytes]) -> bytes:
        self.request, self._then = request, then
        return b""

    def _named(self, decoded: Decoded, payload: bytes) -> None:
        """Take the peer's name, if the credential is one for this connection."""
        if not hmac.compare_digest(decoded.payload, payload):
            raise self._not_proven(f"a credential of uid {decoded.uid} for another connection")
        self.peer_uid, self.peer_gid = decoded.uid, decoded.gid


class MungeDialer(_Agreement, Dialer):
    """The side that connects.

    Args:
        accepter_uid: whose the other side has to be.
        role, params: as of `Dialer`.
        munge: whom the drivers of handshake.py ask; None: whoever drives it asks himself.
        nonce, private_key: given by tests alone.
    """

    auth = AUTH_MUNGE

    def __init__(
        self,
        accepter_uid: int,
        role: str,
        params: Mapping[str, Any],
        *,
        munge: Munge | None = None,
        nonce: bytes | None = None,
        private_key: bytes | None = None,
    ) -> None:
        super().__init__(_PLACEHOLDER, role, params, nonce=nonce)
        self._begin(munge, private_key)
        self._accepter_uid = accepter_uid

    def _hello(self) -> Message:
        return {**super()._hello(), "key": self.public_key}

    def _on_challenge(self, message: Message, raw: bytes) -> bytes:
        self._agree(message)
        self._check_challenge(message, raw)
        payload = self._payload(_DIALER, self._transcript)
        return self._ask(Encode(payload, self._accepter_uid), lambda made: self._prove(cred=made))

    def _on_welcome(self, message: Message) -> bytes:
        unsigned = pack({**message, "cred": ""}, LIMIT_BYTES)
        payload = self._payload(_ACCEPTER, self._transcript + unsigned)
        params = self._field(message, "params", dict)

        def named(decoded: Decoded) -> bytes:
            self._named(decoded, payload)
            if decoded.uid != self._accepter_uid:
                raise self._not_proven(f"uid {decoded.uid} answers where uid {self._accepter_uid} was expected")
            self.peer_params, self.done = params, True
            return b""

        return self._ask(Decode(self._field(message, "cred", str)), named)


class MungeAccepter(_Agreement, Accepter):
    """The side that listens.

    Args:
        authorise: called with (uid, role, params) once munged has named the dialer; otherwise as of `Accepter`.
        allowed_uids: who may come in; None: everybody of the site, `authorise` decides.
        munge: whom the drivers of handshake.py ask; None: whoever drives it asks himself.
        nonce, private_key: given by tests alone.
    """

    auth = AUTH_MUNGE

    def __init__(
        self,
        authorise: AuthoriseUser,
        *,
        allowed_uids: Collection[int] | None = None,
        munge: Munge | None = None,
        nonce: bytes | None = None,
        private_key: bytes | None = None,
    ) -> None:
        super().__init__(_PLACEHOLDER, lambda role, params: authorise(self.peer_uid, role, params), nonce=nonce)
        self._begin(munge, private_key)
        self._allowed_uids = allowed_uids

    def _on_hello(self, message: Message, raw: bytes) -> bytes:
        if self.auth in self._field(message, "auth", list):
            self._agree(message)
        return super()._on_hello(message, raw)

    def _challenge(self, version: int) -> Message:
        return {**super()._challenge(version), "key": self.public_key}

    def _on_proof(self, message: Message, raw: bytes) -> bytes:
        payload = self._payload(_DIALER, self._transcript)
        self._check_proof(message, raw)

        def named(decoded: Decoded) -> bytes:
            self._named(decoded, payload)
            if self._allowed_uids is not None and decoded.uid not in self._allowed_uids:
                self._reject(NotAllowed.refusal, f"uid {decoded.uid} may not come in here")
                raise NotAllowed(f"uid {decoded.uid} may not come in here")
            return self._welcome()

        return self._ask(Decode(self._field(message, "cred", str)), named)

    def _welcome(self) -> bytes:
        welcome = {**self._ask_authoriser(), "cred": ""}
        payload = self._payload(_ACCEPTER, self._transcript + pack(welcome, LIMIT_BYTES))

        def signed(credential: str) -> bytes:
            self.done = True
            return pack({**welcome, "cred": credential}, LIMIT_BYTES)

        return self._ask(Encode(payload, self.peer_uid), signed)


__all__ = ["AUTH_MUNGE", "Decode", "Encode", "MungeAccepter", "MungeDialer", "carry_out"]
