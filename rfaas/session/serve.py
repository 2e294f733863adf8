"""From a bound socket to a session process that serves, and to its end. Imported in the daemon only."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket

from rfaas.control.data_sockets import socket_options
from rfaas.control.descriptors import raise_limit, require_some
from rfaas.control.route import own_address
from rfaas.session.core import SessionCore
from rfaas.session.daemon import Status
from rfaas.session.hosting import EmbeddedGround, Ground, Personal
from rfaas.session.names import process_start
from rfaas.session.process import SessionProcess
from rfaas.settings import Settings
from rfaas_transport.errors import RfaasError

log = logging.getLogger(__name__)


def serve(options: argparse.Namespace, listener: socket.socket, status: Status) -> int:
    """Run until the session is over; returns the exit code."""
    try:
        return asyncio.run(_serve(options, listener, status))
    except Exception as error:
        log.exception("session process failed")
        status.say(f"{type(error).__name__}: {error}")
        return 1


async def _serve(options: argparse.Namespace, listener: socket.socket, status: Status) -> int:
    try:
        settings = Settings.load()
        interface = settings.value("session.interface") or ""
        own_address(interface, name="session.interface")  # a wrong one is said now, not at each dial
        ground = await _ground(options)
    except (RfaasError, OSError, ImportError) as error:
        log.error("session process can't start why=%s", error)
        status.say(str(error))
        return 1
    try:
        session = SessionProcess(
            _core(options, ground),
            listener,
            ground.dial,
            ground.secret,
            ground.snapshot,
            interface=interface,
            options=socket_options(settings),
        )
        session.stop_on_signals()
        if options.site:
            _borrow(options, session)
        ground.when_over(session.stop)
        if options.embedded:
            _end_with(options.client_pid, options.client_start, session)
        log.info("session process serves pid=%d allocator=%s", os.getpid(), ground.allocator)
        status.say("ok")
        await session.run()
    finally:
        await ground.close()
    log.info("session process leaves pid=%d", os.getpid())
    return 0


async def _ground(options: argparse.Namespace) -> Ground:
    programs_limit = raise_limit()
    require_some()
    if options.embedded:
        return await EmbeddedGround.start(programs_limit)
    if options.site:
        from rfaas.site.borrower import SiteSettings  # here, and below: others need neither munge nor these
        from rfaas.site.ground import SiteGround

        return await SiteGround.start(options.state_dir, SiteSettings.of(Settings.load()))
    return Personal(options.state_dir)


def _borrow(options: argparse.Namespace, session: SessionProcess) -> None:
    """Have the site's slices asked for while programs wait for workers."""
    from rfaas.site.borrower import Borrower, SiteSettings

    session.borrow_by(Borrower(SiteSettings.of(Settings.load()), options.state_dir, session.told_by_site))


def _core(options: argparse.Namespace, ground: Ground) -> SessionCore:
    linger_s = options.linger_s
    if linger_s is None:
        linger_s = 0.0 if options.embedded else Settings.load().value("session.linger_s")
    mode = "embedded" if options.embedded else "personal"
    return SessionCore(mode=mode, uid=os.getuid(), pid=os.getpid(), allocator=ground.allocator, linger_s=linger_s)


def _end_with(pid: int, start: int, session: SessionProcess) -> None:
    """Stop when this process ends, also before it has joined."""
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(pid)
        alive = process_start(pid) == start
    except OSError:
        alive = False
    if not alive:
        loop.call_soon(session.stop)
        return

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        session.stop()

    loop.add_reader(pidfd, ended)
