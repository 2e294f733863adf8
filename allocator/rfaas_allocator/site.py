"""The command `python -m rfaas_allocator.site`: the site's allocator for capacity outside of allocations.

Grants, and signs what it grants; starts nothing, holds nobody's secret, needs no root. Who asks is what munged says
(004 section 1.1). Spec: docs/spec/010-node-agent.md section 7; use: docs/site.md.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rfaas.site.grant import load_key
from rfaas.units import parse_size_bytes
from rfaas_allocator.site_book import Refusal, SiteBook, SiteLimits, SiteNode, SiteWant
from rfaas_transport.errors import ConfigError, NotFound, RfaasError
from rfaas_transport.handshake import handshake_streams
from rfaas_transport.messages import LENGTH_BYTES, Message, decode, pack
from rfaas_transport.munge import Munge
from rfaas_transport.munge_handshake import MungeAccepter

EX_CONFIG = 78
LIMIT_BYTES = 4096
SILENCE_S = 60.0  # between two messages of a user
MOST_CONNECTIONS = 1024

log = logging.getLogger(__name__)


class SiteService:
    """Answers users over their connections.

    Args:
        book: what is granted.
        key: signs it.
        munge: of this host.
        min_uid: nobody below is granted anything.
    """

    def __init__(self, book: SiteBook, key: Ed25519PrivateKey, munge: Munge, *, min_uid: int = 1000) -> None:
        self._book, self._key, self._munge, self._min_uid = book, key, munge, min_uid
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        async with self._room:
            try:
                machine = MungeAccepter(self._admit, munge=self._munge)
                await handshake_streams(reader, writer, machine)
                await self._serve(machine.peer_uid, reader, writer)
            except (RfaasError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                log.info("connection ended error=%s", error)
            finally:
                writer.close()

    def _admit(self, uid: int, role: str, params: Mapping[str, Any]) -> None:
        if params.get("service") != "grants":
            raise NotFound("no such service here")

    async def _serve(self, uid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(SILENCE_S):
                head = await reader.read(1)
                if not head:
                    return
                length = int.from_bytes(head + await reader.readexactly(LENGTH_BYTES - 1), "little")
                if not 1 <= length <= LIMIT_BYTES:
                    return
                message = decode(await reader.readexactly(length), LIMIT_BYTES)
            writer.write(pack(self._answer(uid, message), LIMIT_BYTES))
            await writer.drain()

    def _answer(self, uid: int, message: Message) -> dict[str, Any]:
        if message["m"] == "want":
            return self._granted(uid, message)
        if message["m"] == "unused":
            slice_id = message.get("slice")
            known = isinstance(slice_id, bytes) and self._book.give_back(uid, slice_id)
            return {"m": "noted", "known": known}
        return _refused(Refusal("bad-want", "no such message"))

    def _granted(self, uid: int, message: Message) -> dict[str, Any]:
        if uid < self._min_uid:
            return _refused(Refusal("quota", f"uid {uid} is a user of the system"))
        try:
            cores, memory_bytes, lasts_s = (_whole(message, key) for key in ("cores", "memory_bytes", "lasts_s"))
        except ValueError as error:
            return _refused(Refusal("bad-want", str(error)))
        want = SiteWant(uid, cores, memory_bytes, lasts_s, str(message.get("node", "")))
        chosen = self._book.choose(want, int(time.time()), secrets.token_bytes(32))
        if isinstance(chosen, Refusal):
            log.info("refused uid=%d code=%s", uid, chosen.code)
            return _refused(chosen)
        grant, node = chosen
        log.info("granted uid=%d node=%s cores=%d slice=%s", uid, node.name, grant.cores, grant.slice_id.hex())
        return {"m": "granted", "grant": grant.sign(self._key), "address": node.address}


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {"m": "refused", "code": refusal.code, "hint": refusal.hint}


def _whole(message: Message, key: str) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{key} is no whole number")
    return value


def read_nodes(path: Path) -> list[SiteNode]:
    """The nodes of a file: `name address:port cores memory` a line, `#` begins a remark.

    Raises:
        ConfigError: it can't be read, or a line is none.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    nodes = []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            name, address, cores, memory = words
            nodes.append(SiteNode(name, address, int(cores), parse_size_bytes(memory, name="memory")))
        except ValueError as error:
            raise ConfigError(
                f"{path}:{number}: {line.strip()!r}: {error}", hint="a line is: name address:port cores memory"
            ) from error
    return nodes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rfaas_allocator.site", description="Grant capacity of nodes to users."
    )
    add = parser.add_argument
    add("--listen", required=True, metavar="HOST:PORT", help="an address of the fabric")
    add("--key", type=Path, required=True, help="file with the signing key (`rfaas site key`)")
    add("--nodes", type=Path, required=True, help="file: name address:port cores memory")
    add("--munge-socket", default="", help="munge's own if not given")
    add("--min-uid", type=int, default=1000, help="nobody below gets anything")
    add("--most-cores", type=int, default=SiteLimits().cores, help="of one user at once")
    add("--most-memory-bytes", type=int, default=SiteLimits().memory_bytes, help="of one user at once")
    add("--longest-s", type=int, default=SiteLimits().lasts_s, help="of one grant")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; 78: it could not begin."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        return asyncio.run(_run(options))
    except RfaasError as error:
        print(f"rfaas site: {error}", file=sys.stderr)
        return EX_CONFIG


async def _run(options: argparse.Namespace) -> int:
    limits = SiteLimits(options.most_cores, options.most_memory_bytes, options.longest_s)
    service = SiteService(
        SiteBook.of(read_nodes(options.nodes), limits),
        load_key(options.key),
        Munge(options.munge_socket),
        min_uid=options.min_uid,
    )
    host, _, port = options.listen.rpartition(":")
    if host.strip("[]") in ("", "*", "0.0.0.0", "::"):
        raise ConfigError(f"--listen {options.listen} means every interface", hint="name an address of the fabric")
    try:
        server = await asyncio.start_server(service.meet, host.strip("[]"), int(port))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--listen {options.listen}: {error}", hint="give an address of this host and a port"
        ) from error
    stopped = asyncio.Event()
    for signo in signal.SIGTERM, signal.SIGINT:
        asyncio.get_running_loop().add_signal_handler(signo, stopped.set)
    log.info("serving listen=%s nodes=%d", options.listen, len(read_nodes(options.nodes)))
    await stopped.wait()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
