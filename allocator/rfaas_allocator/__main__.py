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

from rfaas.units import parse_duration_s
from rfaas_allocator.core import DEFAULT_TTL_S
from rfaas_allocator.policy import Policy, section_from_options
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
        "--ttl", default=DEFAULT_TTL_S, metavar="DURATION", help="a lease nobody renews ends after this (default 10s)"
    )
    parser.add_argument(
        "--quota",
        action="append",
        default=[],
        metavar="[USER:]LIMITS",
        help="of each user, or of this one; e.g. cores=8,memory=16GiB,workers=8,leases=4 (default: no limit)",
    )
    parser.add_argument(
        "--price", default="", metavar="PRICES", help="e.g. core_s=0.00002,gib_s=0.000002,byte=0,currency=EUR"
    )
    parser.add_argument(
        "--inventory", metavar="FILE", help="known hosts, as `rfaas inventory export` writes them; read at the start"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=os.environ.get("RFAAS_LOG", "INFO").upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # strangers' handshakes are no news
    from rfaas_allocator.daemon import AllocatorConfig, serve  # loads grpc, which reads that variable
    from rfaas_allocator.journal import JournalFailed

    try:
        ttl_s = parse_duration_s(arguments.ttl, name="--ttl")
        section = section_from_options(arguments.quota, arguments.price, arguments.inventory)
        policy = Policy.from_mapping(section)
        config = AllocatorConfig(arguments.state_dir.expanduser().absolute(), arguments.listen, ttl_s, policy)
        asyncio.run(serve(config))
    except ConfigError as error:
        print(f"rfaas allocator: {error}", file=sys.stderr)
        return EX_CONFIG
    except JournalFailed as error:
        print(f"rfaas allocator: {error}", file=sys.stderr)
        return EX_IOERR
    return 0


if __name__ == "__main__":
    sys.exit(main())
