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
from typing import Any, Final

from rfaas.control.descriptors import raise_limit
from rfaas.settings import Settings
from rfaas.settings.pairs import split_quotas
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
        "--ttl", metavar="DURATION", help="a lease nobody renews ends after this (default: leases.ttl_s, 10s)"
    )
    parser.add_argument(
        "--quota",
        action="append",
        default=[],
        metavar="[USER:]LIMITS",
        help="of each user, or of this one; e.g. cores=8,memory=16GiB,workers=8,leases=4 (default: no limit)",
    )
    parser.add_argument("--price", metavar="PRICES", help="e.g. core_s=0.00002,gib_s=0.000002,byte=0,currency=EUR")
    parser.add_argument(
        "--inventory", metavar="FILE", help="known hosts, as `rfaas inventory export` writes them; read at the start"
    )
    parser.add_argument(
        "--leave-after-s",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="leave, and end all slices, so long after the last session process (default: stay)",
    )
    arguments = parser.parse_args(argv)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # strangers' handshakes are no news
    from rfaas_allocator.daemon import AllocatorConfig, serve  # loads grpc, which reads that variable
    from rfaas_allocator.journal import JournalFailed

    try:
        raise_limit()
        settings = Settings.load(options=_named(arguments))
        level = (settings.value("log") or "info").upper()
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        ttl_s = settings.value("leases.ttl_s")
        policy = Policy.from_mapping(_section(settings))
        directory = arguments.state_dir.expanduser().absolute()
        config = AllocatorConfig(directory, arguments.listen, ttl_s, policy, arguments.leave_after_s)
        asyncio.run(serve(config))
    except ConfigError as error:
        print(f"rfaas allocator: {error}", file=sys.stderr)
        return EX_CONFIG
    except (JournalFailed, OSError) as error:  # the latter: a disk that is full before anything serves
        print(f"rfaas allocator: {error}", file=sys.stderr)
        return EX_IOERR
    return 0


def _named(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command line as settings."""
    quota, quotas = split_quotas(arguments.quota)
    return {
        "leases.ttl_s": arguments.ttl,
        "policy.quota": quota,
        "policy.quotas": quotas,
        "policy.prices": arguments.price,
        "policy.inventory": arguments.inventory,
    }


def _section(settings: Settings) -> dict[str, Any]:
    """What the policy is made of, from wherever it is said."""
    quota, quotas, prices, inventory = (
        settings.value(f"policy.{key}") for key in ("quota", "quotas", "prices", "inventory")
    )
    return section_from_options([*([quota] if quota else []), *quotas], prices or "", inventory)


if __name__ == "__main__":
    sys.exit(main())
