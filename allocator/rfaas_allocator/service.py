"""The gRPC side of the allocator: four thin services over one engine, and where they listen.

Must not decide or remember anything. A unix socket in a 0700 directory; beyond this host TLS that accepts one
certificate. Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from rfaas.control.dial import MESSAGE_LIMIT_BYTES
from rfaas.control.hosts import HostList
from rfaas.control.links import Link, LinkBroken
from rfaas.control.messages import Host, JobsReport
from rfaas.control.proto import (
    admin_pb2,
    admin_pb2_grpc,
    agents_pb2_grpc,
    leases_pb2_grpc,
    offers_pb2,
    offers_pb2_grpc,
)
from rfaas.control.streams import StreamLink
from rfaas.control.tls import KeyPair
from rfaas.control.wire import FROM_AGENT, FROM_HOLDER, TO_AGENT, TO_HOLDER, Envelope, check_version, from_pb, to_pb
from rfaas_allocator.accounts import priced
from rfaas_allocator.engine import Engine
from rfaas_allocator.policy import Prices
from rfaas_transport.errors import ConfigError, ProtocolError, VersionMismatch

logger = logging.getLogger(__name__)

Out = TypeVar("Out")
In = TypeVar("In")

SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", -1),  # a snapshot may be large; its reader has a limit
    ("grpc.max_concurrent_streams", 100),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),  # gRPC measures bandwidth by pings too, and counted a busy peer's as an abuse
    ("grpc.so_reuseport", 0),  # two allocators must not share a port
)


async def _attend(
    context: Any,  # noqa: ANN401 - grpc.aio.ServicerContext
    serve: Callable[[Link[Out, In]], Awaitable[None]],
    outgoing: Envelope[Out],
    incoming: Envelope[In],
) -> None:
    """Serve one stream as a link, and end it with the status that it earned."""
    await context.send_initial_metadata(())  # the dialler waits for this: the allocator is there

    async def read() -> Any:  # noqa: ANN401
        envelope = await context.read()
        if envelope is grpc.aio.EOF:
            raise LinkBroken("the other side ended the stream")
        return envelope

    async def write(envelope: Any) -> None:  # noqa: ANN401
        try:
            await context.write(envelope)
        except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError) as error:
            raise LinkBroken(str(error)) from None

    async def end() -> None:
        """Nothing to do: the stream ends when the handler returns."""

    link = StreamLink(read=read, write=write, end=end, outgoing=outgoing, incoming=incoming)
    try:
        await serve(link)
    except asyncio.CancelledError:
        return  # grpc cancels a handler whose peer is gone, and when the server stops: there is nobody to tell
    finally:
        link.abandon()
    if link.error is not None:
        await _refuse(context, link.error)


async def _refuse(context: Any, error: VersionMismatch | ProtocolError | Any) -> None:  # noqa: ANN401
    mismatch = isinstance(error, VersionMismatch)
    code = grpc.StatusCode.FAILED_PRECONDITION if mismatch else grpc.StatusCode.INVALID_ARGUMENT
    await context.abort(code, error.message)


async def _check(context: Any, version: int) -> None:  # noqa: ANN401
    try:
        check_version(version)
    except VersionMismatch as error:
        await _refuse(context, error)


class Agents(agents_pb2_grpc.AgentsServicer):
    """Streams of agents."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Attend(self, _requests: object, context: Any) -> None:  # noqa: ANN401
        """Serve one agent as long as its stream lives."""
        await _attend(context, self._engine.attend_agent, TO_AGENT, FROM_AGENT)


class Leases(leases_pb2_grpc.LeasesServicer):
    """Streams of session processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Attend(self, _requests: object, context: Any) -> None:  # noqa: ANN401
        """Serve the holders of one session process as long as its stream lives."""
        await _attend(context, self._engine.attend_holder, TO_HOLDER, FROM_HOLDER)


class Offers(offers_pb2_grpc.OffersServicer):
    """Questions of the harvester."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Report(self, request: Any, context: Any) -> Any:  # noqa: ANN401
        """Take what the harvester learned of its jobs."""
        await _check(context, request.version)
        ended = await self._engine.report(from_pb(JobsReport, request))
        return offers_pb2.ReportReply(alloc_epoch=self._engine.alloc_epoch, slices_ended=ended)

    async def GetSnapshot(self, request: Any, context: Any) -> Any:  # noqa: ANN401
        """The whole view."""
        await _check(context, request.version)
        return to_pb(self._engine.snapshot())


class Admin(admin_pb2_grpc.AdminServicer):
    """Questions of the commands.

    Args:
        stop: called with the number of seconds to wait for slices to end, or 0, when the allocator is to leave.
        prices: of what leases cost.
    """

    def __init__(self, engine: Engine, stop: Callable[[float], None], prices: Prices) -> None:
        self._engine = engine
        self._stop = stop
        self._prices = prices

    async def GetSnapshot(self, request: Any, context: Any) -> Any:  # noqa: ANN401
        """The whole view."""
        await _check(context, request.version)
        return to_pb(self._engine.snapshot())

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401
        """Events as they happen."""
        await _check(context, request.version)
        async for event in self._engine.watch(request.from_seq):
            yield to_pb(event)

    async def SetInventory(self, request: Any, context: Any) -> Any:  # noqa: ANN401
        """Replace the hosts that a file named."""
        await _check(context, request.version)
        hosts = tuple(replace(from_pb(Host, host), source="file") for host in request.hosts)
        known = await self._engine.name_hosts("file", HostList(hosts, request.complete))
        return admin_pb2.InventoryReply(hosts=known)

    async def GetAccounts(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401
        """What leases cost, with its price."""
        await _check(context, request.version)
        async for account in self._engine.accounts(request.since_unix_s):
            yield to_pb(priced(account, self._prices))

    async def Stop(self, request: Any, context: Any) -> Any:  # noqa: ANN401
        """Give slices back, leave, or both."""
        await _check(context, request.version)
        slices = 0
        if request.end_slices:
            slices = await self._engine.end_slices(request.reason_code, for_good=request.end_allocator)
        if request.end_allocator:
            self._stop(request.timeout_s if request.end_slices else 0.0)
        return admin_pb2.StopReply(slices=slices)


class Server:
    """Listens and serves.

    Args:
        engine: started; somebody else runs it.
        stop, prices: see `Admin`.
    """

    def __init__(self, engine: Engine, stop: Callable[[float], None], prices: Prices) -> None:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        agents_pb2_grpc.add_AgentsServicer_to_server(Agents(engine), self._server)
        leases_pb2_grpc.add_LeasesServicer_to_server(Leases(engine), self._server)
        offers_pb2_grpc.add_OffersServicer_to_server(Offers(engine), self._server)
        admin_pb2_grpc.add_AdminServicer_to_server(Admin(engine, stop, prices), self._server)

    def listen_unix(self, path: str) -> None:
        """Listen on a unix socket; whoever may enter its directory is trusted.

        Raises:
            ConfigError: the socket can't be made there.
        """
        self._bind(f"unix:{path}", lambda where: self._server.add_insecure_port(where), path)

    def listen_tls(self, host: str, port: int, pair: KeyPair) -> int:
        """Listen on one interface for those who show this certificate; return the port.

        Raises:
            ConfigError: the address is not this host's, or the port is taken.
        """
        credentials = grpc.ssl_server_credentials(
            [(pair.key_pem, pair.certificate_pem)],
            root_certificates=pair.certificate_pem,
            require_client_auth=True,
        )
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return self._bind(where, lambda where: self._server.add_secure_port(where, credentials), where)

    def _bind(self, where: str, add: Callable[[str], int], shown: str) -> int:
        hint = "choose another with --listen, or --state-dir"
        try:
            port = add(where)
        except RuntimeError as error:
            raise ConfigError(f"can't listen on {shown}: {error}", hint=hint) from error
        if not port:
            raise ConfigError(f"can't listen on {shown}", hint=hint)
        return port

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse what is new, and break after `grace_s` what still runs; repeatable."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._server.stop(grace_s)
