"""The command `python -m rfaas_allocator.site`: the site's allocator for capacity outside of allocations.

Grants, and signs what it grants; starts nothing, holds nobody's secret, needs no root. Who asks is what munged says
(004 section 1.1). Spec: docs/spec/010-node-agent.md section 7; use: docs/site.md.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfaas.site.grant import load_key
from rfaas.units import parse_size_bytes
from rfaas_allocator.daemon import JOURNAL_NAME, prepare_state_dir
from rfaas_allocator.journal import JournalFailed, JournalFull, MemoryJournal
from rfaas_allocator.journal_sqlite import SqliteJournal
from rfaas_allocator.policy import Policy, section_from_options
from rfaas_allocator.site_book import SiteBook, SiteLimits, SiteNode
from rfaas_allocator.site_ledger import SiteLedger
from rfaas_allocator.site_service import SiteService
from rfaas_transport.errors import ConfigError, RfaasError
from rfaas_transport.munge import Munge

EX_CONFIG = 78
EX_IOERR = 74
log = logging.getLogger(__name__)


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
    add("--state-dir", type=Path, help="keep grants and accounts there, 0700 [nothing outlives this process]")
    add("--price", default="", metavar="PRICES", help="of accounts, e.g. core_s=0.00002,gib_s=0.000002,currency=EUR")
    add("--look-s", type=float, default=10.0, help="between two questions to nodes what they lend; 0: none is asked")
    add(
        "--trust-s", type=int, default=0, help="grant nothing so long after `site-watch` fell silent; 0: nobody watches"
    )
    add("--longest-s", type=int, default=SiteLimits().lasts_s, help="of one grant")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; 74: its disk failed; 78: it could not begin."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        return asyncio.run(_run(options))
    except (JournalFailed, JournalFull) as error:
        print(f"rfaas site: {error}", file=sys.stderr)
        return EX_IOERR
    except RfaasError as error:
        print(f"rfaas site: {error}", file=sys.stderr)
        return EX_CONFIG


def _ledger(options: argparse.Namespace) -> SiteLedger:
    section = section_from_options([], options.price, None)
    prices = Policy.from_mapping(section).prices
    if options.state_dir is None:
        return SiteLedger(MemoryJournal(), prices)
    directory = options.state_dir.absolute()
    prepare_state_dir(directory)
    return SiteLedger(SqliteJournal(directory / JOURNAL_NAME), prices)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if host.strip("[]") in ("", "*", "0.0.0.0", "::"):
        raise ConfigError(f"--listen {listen} means every interface", hint="name an address of the fabric")
    try:
        return host.strip("[]"), int(port)
    except ValueError as error:
        raise ConfigError(f"--listen {listen}: {error}", hint="give an address of this host and a port") from error


async def _run(options: argparse.Namespace) -> int:
    limits = SiteLimits(options.most_cores, options.most_memory_bytes, options.longest_s)
    host, port = _address(options.listen)
    book, key = SiteBook.of(read_nodes(options.nodes), limits), load_key(options.key)
    book.trust_s = options.trust_s
    ledger = _ledger(options)
    try:
        book.take_over(ledger.recover(), int(time.time()))
        ledger.keep(book.taken_changes())
        service = SiteService(book, ledger, key, Munge(options.munge_socket), min_uid=options.min_uid)
        try:
            server = await asyncio.start_server(service.meet, host, port)
        except OSError as error:
            hint = "give an address of this host and a port"
            raise ConfigError(f"--listen {options.listen}: {error}", hint=hint) from error
        log.info("serving listen=%s nodes=%d grants=%d", options.listen, len(book.nodes), len(book.grants))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, _change_key, service, options.key)
        await _until_stopped(service, options.look_s)
        server.close()
    finally:
        ledger.close()
    return 0


def _change_key(service: SiteService, path: Path) -> None:
    """Take the key from its file again; whatever is wrong with that, the one before goes on signing."""
    try:
        key = load_key(path)
    except ConfigError as error:
        log.error("the key stays as it was: %s", error)
        return
    service.sign_with(key)
    log.info("signs with another key public=%s", key.public_key().public_bytes_raw().hex())


async def _until_stopped(service: SiteService, look_s: float) -> None:
    """Serve until SIGTERM or SIGINT; grants live on.

    Raises:
        JournalFailed: the disk failed, so what would be granted next might be forgotten.
    """
    stopped = asyncio.Event()
    for signo in signal.SIGTERM, signal.SIGINT:
        asyncio.get_running_loop().add_signal_handler(signo, stopped.set)
    waiting: set[asyncio.Future[Any]] = {asyncio.ensure_future(stopped.wait()), service.failed}
    if look_s > 0:
        waiting.add(asyncio.ensure_future(service.look_for_ever(look_s)))
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for one in waiting - done:
        one.cancel()
    for one in done:
        one.result()


if __name__ == "__main__":
    sys.exit(main())
