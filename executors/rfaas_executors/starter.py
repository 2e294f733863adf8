"""Whoever started an agent, as its standard input: a secret comes from there, and at its end the starter is gone.

Must not read anything else. Afterwards standard input is nothing, for the agent and for what it starts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from rfaas_transport.errors import ConfigError
from rfaas_transport.handshake_machine import SECRET_BYTES

A_READ_BYTES: Final = 4096


def told_secret() -> bytes:
    """The secret, from standard input: what starts an agent for somebody else tells it so.

    Raises:
        ConfigError: standard input ended before it.
    """
    secret = b""
    while len(secret) < SECRET_BYTES:
        more = os.read(0, SECRET_BYTES - len(secret))
        if not more:
            raise ConfigError(f"standard input ended after {len(secret)} of the secret's {SECRET_BYTES} bytes")
        secret += more
    _empty_standard_input()
    return secret


def take_standard_input() -> int:
    """Standard input under another descriptor, which no process inherits: the caller's from now on."""
    taken = os.dup(0)
    _empty_standard_input()
    return taken


def when_it_ends(descriptor: int, callback: Callable[[], None]) -> None:
    """Call back in the running loop once the starter has closed its end of a pipe, as it does when it dies.

    Args:
        descriptor: from `take_standard_input`; closed after that.
    """
    loop = asyncio.get_running_loop()

    def read() -> None:
        if os.read(descriptor, A_READ_BYTES):  # nobody asked for it
            return
        loop.remove_reader(descriptor)
        os.close(descriptor)
        callback()

    loop.add_reader(descriptor, read)


def _empty_standard_input() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
