"""The session process around its core: sockets, timers and the link to the allocator, in one event loop.

Must not decide anything, never unpickle, and load gRPC only through the `dial` it is given (docs/spec/004-session.md).
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rfaas.control.links import Dial, Link, LinkBroken
from rfaas.control.messages import AllocatorToHolder, HolderMessage, Snapshot
from rfaas.session.clients import ClientSockets
from rfaas.session.core import SessionCore
from rfaas.session.dialling import AgentConnections
from rfaas.session.events import (
    AgentSaid,
    AllocatorDown,
    AllocatorSaid,
    AllocatorUp,
    ClientJoined,
    ClientSaid,
    CloseAgent,
    CloseData,
    DialAgent,
    DialData,
    DropClient,
    Effect,
    Event,
    Leave,
    SiteSaid,
    Stop,
    Tick,
    ToAgent,
    ToAllocator,
    ToClient,
)
from rfaas.site.borrowing import Tell, Wanted
from rfaas_transport.errors import RfaasError
from rfaas_transport.socket_options import KERNELS_OPTIONS, SocketOptions

if TYPE_CHECKING:
    from rfaas.site.borrower import Borrower

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
LAST_WORDS_S: Final = 0.2

HolderLink = Link[HolderMessage, AllocatorToHolder]
DialHolder = Dial[HolderMessage, AllocatorToHolder]


def boot_s() -> float:
    """Seconds on the clock that all durations count on; it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SessionProcess:
    """The shell of one SessionCore. Made and run inside a running event loop.

    Args:
        core: decides.
        listener: bound and listening, non-blocking; owned from here on.
        dial: makes a link to the allocator.
        secret: shared with the agents (004 section 1).
        snapshot: what to show who asks for it; None: there is nothing here that an allocator elsewhere doesn't show.
        interface, options: as of AgentConnections.
    """

    def __init__(
        self,
        core: SessionCore,
        listener: socket.socket,
        dial: DialHolder,
        secret: bytes,
        snapshot: Callable[[], Snapshot] | None = None,
        interface: str = "",
        options: SocketOptions = KERNELS_OPTIONS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._core = core
        self._dial = dial
        self._link: HolderLink | None = None
        self._clients = ClientSockets(listener, self.post, core.channels, snapshot)
        self._agents = AgentConnections(secret, self.post, interface, options)
        self._events: deque[Event] = deque()
        self._stepping = False
        self._timer: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()
        self._borrower: Borrower | None = None

    def borrow_by(self, borrower: Borrower) -> None:
        """Have it told from now on what programs wait for; owned from here on."""
        self._borrower = borrower

    def told_by_site(self, told: Tell) -> None:
        """Why the site lends nothing of this size, or that it does."""
        size = (told.size.cores, told.size.memory_bytes)
        self.post(SiteSaid(*size, told.code, told.hint, for_good=told.for_good))

    async def run(self) -> None:
        """Serve until the last client has gone or `stop` is called, and close everything."""
        linking = self._loop.create_task(self._keep_link())
        self.post(Tick())
        try:
            await self._left.wait()
            await self._agents.close()
            if self._link is not None:
                await self._link.flush(LAST_WORDS_S)
        finally:
            linking.cancel()
            if self._borrower is not None:
                self._borrower.close()
            if self._link is not None:
                self._link.close()
            self._clients.close()

    def stop(self) -> None:
        """Give everything back and leave; `run` then returns within a second or so."""
        self.post(Stop())

    def stop_on_signals(self) -> None:
        """Stop at SIGTERM and SIGINT; at a second one leave without waiting for anything."""
        asked = False

        def stop() -> None:
            nonlocal asked
            self.post(Stop(at_once=asked))
            asked = True

        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop)

    # --- events and effects -----------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Have the core take an event, after those that came before."""
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events and not self._left.is_set():
                self._step(self._events.popleft())
        finally:
            self._stepping = False
        self._set_timer()
        if self._borrower is not None and not self._left.is_set():
            self._borrower.see(Wanted(self._core.shortfalls(), self._core.slices()))

    def _step(self, event: Event) -> None:
        try:
            effects = self._core.step(event, boot_s())
        except (KeyError, TypeError, ValueError) as error:
            if not isinstance(event, ClientJoined | ClientSaid | AgentSaid):
                raise
            log.warning("bad message, its sender is given up event=%s why=%r", event, error)
            if isinstance(event, AgentSaid):
                self._agents.break_off(event.address, f"it sent a bad message: {error!r}")
            else:
                self._clients.give_up(event.conn)
            return
        for effect in effects:
            self._apply(effect)

    def _apply(self, effect: Effect) -> None:
        match effect:
            case ToClient(conn, message, channel):
                sock, key = self._agents.take_data(channel) if channel else (None, b"")
                self._clients.send(conn, {**message, "key": key} if key else message, sock)
            case ToAgent(address, message):
                self._agents.send(address, message)
            case ToAllocator(message):
                if self._link is not None:
                    self._link.send(message)
            case DialAgent(address):
                self._agents.dial(address)
            case CloseAgent(address):
                self._agents.hang_up(address)
            case DialData():
                self._agents.dial_data(effect)
            case CloseData(channel):
                self._agents.close_data(channel)
            case DropClient(conn):
                self._clients.drop(conn)
            case Leave():
                self._left.set()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_s = self._core.next_s
        if next_s is not None and not self._left.is_set():
            self._timer = self._loop.call_later(max(next_s - boot_s(), 0.0), self.post, Tick())

    # --- the allocator ----------------------------------------------------------------------------------------

    async def _keep_link(self) -> None:
        """Dial the allocator, read until the link breaks, and again, with growing pauses."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                self._link = await self._dial()
            except RfaasError as error:
                self.post(AllocatorDown(str(error), error.code))
            except OSError as error:
                self.post(AllocatorDown(str(error) or type(error).__name__))
            else:
                pause_s = FIRST_PAUSE_S
                await self._read_link(self._link)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _read_link(self, link: HolderLink) -> None:
        self.post(AllocatorUp())
        try:
            while True:
                self.post(AllocatorSaid(await link.receive()))
        except LinkBroken as error:
            self._link = None
            self.post(AllocatorDown(str(error)))
