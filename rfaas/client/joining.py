"""Joining a session process in a thread of its own: starting one takes a while, and results must not wait for it.

Must not touch the core; the I/O thread takes what came of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rfaas.client.effects import Connect
from rfaas.client.records import ChannelInfo, Lease
from rfaas.config import ExecutorConfig
from rfaas.session import environment, modules
from rfaas.session.connection import SessionConnection
from rfaas.session.start import PATIENCE_S, connect
from rfaas_transport.errors import AllocatorUnavailable, RfaasError


class Joiner:
    """Makes one session connection at a time.

    Args:
        config: of the executor.
        client_id: 16 bytes, the same at every join.
        executor: our number of the executor.
        notify: called from the joining thread when there is an outcome.
    """

    def __init__(self, config: ExecutorConfig, client_id: bytes, executor: int, notify: Callable[[], None]) -> None:
        self._config = config
        self._client_id = client_id
        self._executor = executor
        self._lock = threading.Lock()
        self._outcome: SessionConnection | RfaasError | None = None
        self._closed = False
        self._notify = notify
        self.busy = False  # from begin to the take that brings the outcome

    def begin(self, wish: Connect) -> None:
        """Start joining; never blocks. The outcome comes with `take`."""
        self.busy = True
        resume = [_resumed(lease, channels, self._executor) for lease, channels in wish.resume]
        threading.Thread(target=self._join, args=(resume,), name="rfaas-join", daemon=True).start()

    def take(self) -> SessionConnection | RfaasError | None:
        """What came of it: a connection, which is the caller's, or an error; None: nothing yet."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
            self.busy = self.busy and outcome is None
            return outcome

    def close(self) -> None:
        """Want no outcome any more; one that comes late is closed."""
        with self._lock:
            self._closed = True
            if isinstance(self._outcome, SessionConnection):
                self._outcome.close()
            self._outcome = None

    def _options(self) -> dict[str, Any]:
        """What else agents are to know of this executor, which no template depends on."""
        options: dict[str, Any] = {"output_limit_bytes": self._config.output.taken_bytes}
        if self._config.check_modules != "ignore":
            options["modules"] = modules.imported(without=self._config.shipped_modules)
            options["modules_strict"] = self._config.check_modules == "error"
        return options

    def _join(self, resume: list[dict[str, Any]]) -> None:
        outcome: SessionConnection | RfaasError
        try:
            outcome = connect(
                self._config.choice,
                client_id=self._client_id,
                env=environment.current(),
                options=self._options(),
                resume=resume,
                daemon_python=self._config.daemon_python,
                timeout_s=PATIENCE_S,
                wanted=lambda: not self._closed,
            )
        except RfaasError as error:
            outcome = error
        except Exception as error:  # every failure must reach the futures that wait for this
            outcome = AllocatorUnavailable(f"the session process can't be joined: {error!r}")
            outcome.__cause__ = error
        with self._lock:
            if self._closed:
                if isinstance(outcome, SessionConnection):
                    outcome.close()
                return
            self._outcome = outcome
        self._notify()


def _resumed(lease: Lease, channels: tuple[ChannelInfo, ...], executor: int) -> dict[str, Any]:
    return {
        "lease": lease.lease,
        "lease_seq": lease.lease_seq,
        "epoch": lease.epoch,
        "slice": lease.slice,
        "address": lease.address,
        "node": lease.node,
        "executor": executor,
        "workers": lease.workers,
        "ttl_s": lease.ttl_s,
        "channels": [[channel.number, channel.slot, channel.generation] for channel in channels],
    }
