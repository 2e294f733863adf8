"""Asks the site for slices while programs of a session process wait for workers: the shell around `borrowing`.

A question blocks (munged, the site's allocator, the start of an interpreter on a node), so it has a thread of its own,
one at a time. Must not decide how much is asked for. Spec: docs/spec/010-node-agent.md section 8.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rfaas.control.address import AllocatorAddress, check_private
from rfaas.settings import Settings
from rfaas.site.asking import GrantRefused, SiteAllocator
from rfaas.site.borrowing import Ask, Began, Borrowing, Event, Refused, Tell, Tick, Wanted
from rfaas.site.starting import StartRefused, request, start
from rfaas_transport.errors import ConfigError, RfaasError
from rfaas_transport.munge import Munge

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """Section `site` of the settings (docs/configuration.md).

    Attributes:
        allocator: "host:port" of the site's.
        allocator_uid: whose process it is, by munge's word.
        munge_socket: of this host; empty: munge's own.
        lasts_s: of one slice, at most.
        listen: address of this host that nodes reach; empty: that on the way to the site's allocator.
        keep_s: how long slices are kept after the last program.
    """

    allocator: str
    allocator_uid: int = 0
    munge_socket: str = ""
    lasts_s: float = 3600.0
    listen: str = ""
    keep_s: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> SiteSettings:
        """Those that are set."""
        value = {name: settings.value(f"site.{name}") for name in cls.__slots__}
        return cls(**{"allocator": ""} | {name: one for name, one in value.items() if one is not None})


class Borrower:
    """Made inside a running event loop.

    Args:
        site: whom to ask.
        state_dir: of the user's allocator, which slices register with.
        tell: why no slice comes, or that one does.
    """

    def __init__(self, site: SiteSettings, state_dir: Path, tell: Callable[[Tell], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._site, self._state_dir, self._tell = site, state_dir, tell
        self._core = Borrowing()
        self._seen: Wanted | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def see(self, wanted: Wanted) -> None:
        """Take note of what is missing now; cheap where nothing has changed."""
        if wanted != self._seen:
            self._seen = wanted
            self._step(wanted)

    def close(self) -> None:
        """Ask no more. A question under way is not waited for: a slice that nobody uses leaves by itself."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _step(self, event: Event) -> None:
        if self._closed:
            return
        for effect in self._core.step(event, time.monotonic()):
            if isinstance(effect, Ask):
                threading.Thread(target=self._ask, args=(effect,), name="rfaas-site", daemon=True).start()
            else:
                self._tell(effect)
        if self._timer is not None:
            self._timer.cancel()
        next_s = self._core.next_s
        pause_s = None if next_s is None else max(0.0, next_s - time.monotonic())
        self._timer = None if pause_s is None else self._loop.call_later(pause_s, self._step, Tick())

    def _ask(self, ask: Ask) -> None:
        """In a thread of its own: one question and its answer."""
        try:
            answer: Event = Began(self._borrow(ask))
            log.info("borrowed from the site workers=%d cores=%d", ask.workers, ask.size.cores)
        except (GrantRefused, StartRefused) as error:
            answer = Refused(error.refusal, f"{error.message}: {error.hint}" if error.hint else error.message)
        except RfaasError as error:
            answer = Refused(error.code, f"{error.message}; {error.hint}" if error.hint else error.message)
        except Exception as error:  # an answer is awaited: without one nothing would ever be asked for again
            log.exception("a question to the site failed")
            answer = Refused("failed", repr(error))
        if isinstance(answer, Refused):
            log.info("nothing from the site workers=%d code=%s why=%s", ask.workers, answer.code, answer.hint)
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self._step, answer)

    def _borrow(self, ask: Ask) -> bytes:
        """Id of the slice, as the allocator will name it.

        Raises:
            RfaasError: nothing was started, unless an allocator or a node fell silent in the middle.
        """
        if not AllocatorAddress.load(self._state_dir).tls:
            raise ConfigError(
                f"the allocator of {self._state_dir} listens on this host only, so nodes of the site can't reach it",
                hint="rfaas down; then rfaas up --listen ADDRESS, or let the first program start one",
            )
        check_private(self._state_dir / "secret")
        munge, secret = Munge(self._site.munge_socket), (self._state_dir / "secret").read_bytes()
        cores, memory_bytes = ask.workers * ask.size.cores, ask.workers * ask.size.memory_bytes
        with SiteAllocator(self._site.allocator, munge, allocator_uid=self._site.allocator_uid) as site:
            granted = site.want(cores, memory_bytes, max(1, int(self._site.lasts_s)))
            try:
                payload = request(granted.signed, secret, str(self._state_dir))
                started = start(granted.address, payload, munge)
            except StartRefused:
                site.unused(granted.grant.slice_id)
                raise
        return hashlib.sha256(f"site:{started.slice_id.hex()}".encode()).digest()[:16]
