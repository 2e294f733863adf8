"""`python -m rfaas.librfaas`: what librfaas runs to find the session process of its program (004 section 6).

Settings, state directories and the start of session processes are known in Python alone; so a program in C means by
them what one in Python would. Answers on descriptor 3 with one msgpack map, and ends.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Final

import msgpack

from rfaas.config import ExecutorConfig, configure
from rfaas.session import environment
from rfaas.session.start import serving
from rfaas_transport.errors import ConfigError, RfaasError

ANSWER_FD: Final = 3
TIMEOUT_S: Final = 30.0

_OF_EXECUTOR: Final = (
    *("allocator", "max_workers", "cores", "memory", "transport", "placement", "hot_for_s"),
    *("acquire_timeout_s", "call_timeout_s", "idempotent", "retries", "load"),
)


def main() -> int:
    """Answer; the exit status says the same for people who try it by hand."""
    try:
        answer = _answer(_parse())
    except RfaasError as error:
        answer = {"m": "failed", "code": error.code, "message": error.message, "hint": error.hint}
    except Exception as error:  # whatever it is, the program waits for an answer
        answer = {"m": "failed", "code": "allocator-unavailable", "message": repr(error), "hint": ""}
    with os.fdopen(ANSWER_FD, "wb") as out:
        out.write(msgpack.packb(answer))
    return 0 if answer["m"] == "ready" else 1


def _answer(options: argparse.Namespace) -> dict[str, Any]:
    arguments = {name: getattr(options, name) for name in _OF_EXECUTOR}
    without = {name: 0.0 for name in ("acquire_timeout_s", "call_timeout_s") if arguments[name] == 0.0}
    config = configure(**{**arguments, **dict.fromkeys(without)})
    if config.transport_security == "encrypt":  # never a plain channel where the user wanted another
        raise ConfigError(
            "a client in C can't encrypt its data connections, which transport_security asks for",
            hint="call from Python, or set RFAAS_EXECUTOR_TRANSPORT_SECURITY=trusted for this program",
        )
    client = (options.client_pid, options.client_start)
    name = serving(config.choice, client, daemon_python=config.daemon_python, timeout_s=options.timeout_s)
    return {"m": "ready", "socket": name.encode(), "env": environment.current(), **_settings(config), **without}


def _settings(config: ExecutorConfig) -> dict[str, Any]:
    return {
        "workers": config.max_workers,
        "cores": config.cores,
        "memory_bytes": config.memory_bytes,
        "placement": config.placement,
        "load": config.load,
        "transport": config.transport,
        "hot_for_s": config.hot_for_s,
        "acquire_timeout_s": config.acquire_timeout_s or 0.0,
        "output_limit_bytes": config.output.limit_bytes,
        "idempotent": config.calls.idempotent,
        "retries": config.calls.retries,
        "call_timeout_s": config.calls.call_timeout_s or 0.0,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rfaas.librfaas", description=__doc__, exit_on_error=False)
    parser.add_argument("--client-pid", type=int, required=True, help="the program")
    parser.add_argument("--client-start", type=int, required=True, help="its start time in clock ticks after boot")
    parser.add_argument("--timeout-s", type=float, default=TIMEOUT_S, help="for all of it")
    parser.add_argument("--allocator")
    parser.add_argument("--transport")
    parser.add_argument("--placement")
    parser.add_argument("--load")
    for name in ("--max-workers", "--cores", "--memory", "--retries"):
        parser.add_argument(name, type=int)
    for name in ("--hot-for-s", "--acquire-timeout-s", "--call-timeout-s"):
        parser.add_argument(name, type=float)
    parser.add_argument("--idempotent", type=_truth)
    try:
        return parser.parse_args()
    except argparse.ArgumentError as error:
        raise ConfigError(f"librfaas and the Python that it starts are of different versions: {error}") from error


def _truth(text: str) -> bool:
    return text == "true"


if __name__ == "__main__":
    sys.exit(main())
