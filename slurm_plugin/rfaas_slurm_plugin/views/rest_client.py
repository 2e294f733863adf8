"""GETs at slurmrestd: a unix socket or host:port, auth by the socket's own user or by a JSON web token, JSON only.

Blocking, by the standard library's http.client; callers put it in a thread. Each request has a deadline and each answer
a limit on its size; nothing is followed (no redirects), no proxy of the environment is used. Source: Slurm's
documentation of slurmrestd and its authentication; docs/slurm.md.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import re
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from rfaas_slurm_plugin.views.records import refuse_errors
from rfaas_slurm_plugin.views.view import ClusterUnavailable
from rfaas_transport.errors import ConfigError

REQUEST_TIMEOUT_S: Final = 15.0
"""slurmrestd itself retries for some 9 s while slurmctld is down (measured on 22.05)."""

ANSWER_LIMIT_BYTES: Final = 256 << 20
_CHUNK_BYTES: Final = 1 << 20
TOKEN_LIMIT_BYTES: Final = 16 << 10
_TOKEN: Final = re.compile(r"^[A-Za-z0-9_.=-]+$")


@dataclass(frozen=True, slots=True)
class RestAddress:
    """Where slurmrestd listens, and with which token it is asked.

    Args:
        scheme: unix, http or https.
        path: of the unix socket.
        host: with http and https.
        port: likewise.
        token_file: holds the token, read again for each connection so that it can be renewed; without it $SLURM_JWT
            is used if set, else the socket's own user counts (rest_auth/local).
    """

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0
    token_file: Path | None = None

    @classmethod
    def parse(cls, text: str, token_file: Path | None = None) -> RestAddress:
        """Read `unix:/path`, `http://host:port` or `https://host[:port]`.

        Raises:
            ConfigError: it is none of them.
        """
        hint = "unix:/path/to/socket, http://host:port, or https://host"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{text!r} is no address of a slurmrestd: {error}", hint=hint) from error
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return cls("unix", path=parts.path, token_file=token_file)
        extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
        if parts.scheme not in ("http", "https") or not parts.hostname or extra:
            raise ConfigError(f"{text!r} is no address of a slurmrestd", hint=hint)
        default = 443 if parts.scheme == "https" else 6820
        return cls(parts.scheme, host=parts.hostname, port=port or default, token_file=token_file)

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def headers(self) -> dict[str, str]:
        """What proves who asks.

        Raises:
            ConfigError: the token's file can't be read, others may read it, or it holds no token.
        """
        token = self._token()
        return {"X-SLURM-USER-NAME": getpass.getuser(), "X-SLURM-USER-TOKEN": token} if token else {}

    def _token(self) -> str:
        file = self.token_file
        token = os.environ.get("SLURM_JWT", "").strip() if file is None else _read_token(file)
        if token and not _TOKEN.match(token):
            raise ConfigError("that is no JSON web token", hint="`scontrol token` prints SLURM_JWT=<token>")
        return token


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(f"others may read the token in {path}", hint=f"chmod 600 {path}")
            text = file.read(TOKEN_LIMIT_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(f"the token in {path} can't be read: {error}", hint="scontrol token > FILE") from error
    token = text.removeprefix("SLURM_JWT=")
    if not token:
        raise ConfigError(f"{path} is empty", hint="scontrol token > FILE")
    return token


class RestClient:
    """One connection, used for some requests and closed: `with RestClient(address) as client`.

    Every request raises ClusterUnavailable and leaves nothing behind but the closed connection.
    """

    def __init__(self, address: RestAddress, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._connection = _connection(address, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._connection.close()

    def get(self, path: str, *, limit_bytes: int = ANSWER_LIMIT_BYTES) -> dict[str, Any]:
        """The JSON object at `path`.

        Raises:
            ClusterUnavailable: no connection, no answer in time, an answer that is too large, no JSON, or an error.
        """
        deadline_s = time.monotonic() + self._timeout_s
        try:
            headers = {"Accept": "application/json", **self._address.headers()}
            self._connection.request("GET", path, headers=headers)
            answer = self._connection.getresponse()
            body = self._body(answer, deadline_s, limit_bytes)
        except ConfigError as error:  # a token that is being renewed, perhaps: the next request reads it again
            raise ClusterUnavailable(f"slurmrestd at {self._address}: {error.message}; {error.hint}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._connection.close()
            why = "no answer in time" if isinstance(error, TimeoutError) else f"{error}" or type(error).__name__
            raise ClusterUnavailable(f"slurmrestd at {self._address}: {path}: {why}") from error
        return self._judge(path, answer, body)

    def _body(self, answer: http.client.HTTPResponse, deadline_s: float, limit_bytes: int) -> bytes:
        size = int(answer.headers.get("Content-Length") or 0)
        if size > limit_bytes:
            raise http.client.HTTPException(f"an answer of {size} bytes; at most {limit_bytes} are taken")
        body = bytearray()
        while chunk := answer.read(_CHUNK_BYTES):
            body += chunk
            if len(body) > limit_bytes:
                raise http.client.HTTPException(f"an answer of more than {limit_bytes} bytes")
            if time.monotonic() > deadline_s:
                raise TimeoutError
        if len(body) < size:
            raise http.client.HTTPException(f"the answer ended after {len(body)} of {size} bytes")
        return bytes(body)

    def _judge(self, path: str, answer: http.client.HTTPResponse, body: bytes) -> dict[str, Any]:
        where = f"slurmrestd at {self._address}: {path}"
        if answer.status == 401:
            raise ClusterUnavailable(f"{where}: it does not believe who we are; is the token current (scontrol token)?")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ClusterUnavailable(f"{where}: status {answer.status}, no JSON: {body[:80]!r}") from error
        if not isinstance(found, dict):
            raise ClusterUnavailable(f"{where}: status {answer.status}, no JSON object")
        refuse_errors(found, f"{where}: status {answer.status}")
        if answer.status != 200:
            raise ClusterUnavailable(f"{where}: status {answer.status}: no reason given")
        return found


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket; OSError as `socket.connect`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._timeout_s)
            sock.connect(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                sock.close()
            raise
        self.sock = sock


def _connection(address: RestAddress, timeout_s: float) -> http.client.HTTPConnection:
    if address.scheme == "unix":
        return _UnixConnection(address.path, timeout_s)
    if address.scheme == "https":
        return http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s)
    return http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
