"""`python -m rfaas.session`: a session process that detaches itself. Started by clients (`rfaas.session.start`).

Binding the socket's name is the lock: who loses it says so and ends. Heavy modules are loaded after the fork.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from rfaas.session.daemon import Status, configure_logging, detach, occupy_standard_descriptors
from rfaas.session.names import embedded_key, socket_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, unless somebody does already; returns in the daemon only, when it is done."""
    occupy_standard_descriptors()
    options = _parse(arguments)
    status = Status(options.status_fd)
    key = embedded_key(options.client_pid, options.client_start) if options.embedded else options.key
    listener = _bind(socket_name(os.getuid(), key))
    if listener is None:
        status.say("ok")
        return 0
    if not options.foreground:
        detach({listener.fileno(), options.status_fd})
    if not options.embedded:
        os.umask(0o077)  # embedded keeps the program's: functions inherit it
    configure_logging("ERROR" if options.embedded else "INFO")  # embedded: the terminal is the program's
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # a daemon that restarts is no news of gRPC's
    from rfaas.session.serve import serve  # here: neither the loser nor the forks need asyncio

    return serve(options, listener, status)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rfaas.session", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--key", help="32 hex digits that name the session (docs/spec/004-session.md section 3)")
    what.add_argument("--embedded", action="store_true", help="serve one program, with an allocator and agent inside")
    parser.add_argument("--state-dir", type=Path, help="state directory of the allocator; needed with --key")
    parser.add_argument("--site", action="store_true", help="start that allocator if need be, and borrow from the site")
    parser.add_argument("--client-pid", type=int, help="the program; needed with --embedded")
    parser.add_argument("--client-start", type=int, help="its start time in clock ticks; needed with --embedded")
    parser.add_argument("--linger-s", type=float, help="how long to stay after the last client (5; embedded: 0)")
    parser.add_argument("--status-fd", type=int, default=-1, help="descriptor that takes `ok` or what went wrong")
    parser.add_argument("--foreground", action="store_true", help="do not detach")
    options = parser.parse_args(arguments)
    needed = ("client_pid", "client_start") if options.embedded else ("state_dir",)
    missing = [f"--{name.replace('_', '-')}" for name in needed if getattr(options, name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} must be given")
    return options


def _bind(name: str) -> socket.socket | None:
    """Take the name and listen on it; None if somebody has it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(name)
    except OSError:  # EADDRINUSE is all that an abstract name can answer
        listener.close()
        return None
    listener.setblocking(False)
    listener.listen(128)
    return listener


if __name__ == "__main__":
    sys.exit(main())
