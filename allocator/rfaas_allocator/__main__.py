"""`python -m rfaas_allocator`: run one allocator in the foreground. Exit codes: 0, 2 usage, 74 disk, 78 configuration.

Must not be needed by users: `rfaas up` starts it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Final

from rfaas.settings import Settings
from rfaas_transport.errors import ConfigError

EX_IOERR: Final = 74
EX_CONFIG: Final = 78


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, serve, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rfaas_allocator",
        description="Decide who may use which slice: one allocator for one state directory, until SIGTERM.",
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="its directory, 0700; made if it is not there")
    parser.add_argument(
        "--listen",
        default="",
        metavar="HOST[:PORT]",
        help="also listen on this interface, with TLS and the key pair of the state directory",
    )
    parser.add_argument(
        "--ttl", metavar="DURATION", help="a lease nobody renews ends after this (default: leases.ttl_s, 10s)"
    )
    arguments = parser.parse_args(argv)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # strangers' handshakes are no news
    from rfaas_allocator.daemon import AllocatorConfig, serve  # loads grpc, which reads that variable
    from rfaas_allocator.journal import JournalFailed

    try:
        settings = Settings.load(options={"leases.ttl_s": arguments.ttl})
        level = (settings.value("log") or "info").upper()
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        ttl_s = settings.value("leases.ttl_s")
        config = AllocatorConfig(arguments.state_dir.expanduser().absolute(), arguments.listen, ttl_s)
        asyncio.run(serve(config))
    except ConfigError as error:
        print(f"rfaas allocator: {error}", file=sys.stderr)
        return EX_CONFIG
    except (JournalFailed, OSError) as error:  # the latter: a disk that is full before anything serves
        print(f"rfaas allocator: {error}", file=sys.stderr)
        return EX_IOERR
    return 0


if __name__ == "__main__":
    sys.exit(main())
