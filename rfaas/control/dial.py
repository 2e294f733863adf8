"""Reaching the allocator over gRPC: links for agents and session processes, calls for harvester and commands.

On the allocator's own host through its unix socket, beyond it over TLS with certificates on both sides, never else.
Daemons and commands only: a user's process must not import this. Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio

from rfaas.control.address import AllocatorAddress, check_private
from rfaas.control.hosts import HostList
from rfaas.control.links import Link, LinkBroken
from rfaas.control.messages import (
    Account,
    AgentMessage,
    AllocatorToAgent,
    AllocatorToHolder,
    Event,
    HolderMessage,
    JobEnded,
    JobEnding,
    JobRef,
    JobsReport,
    Snapshot,
)
from rfaas.control.proto import admin_pb2, admin_pb2_grpc, agents_pb2_grpc, leases_pb2_grpc, offers_pb2, offers_pb2_grpc
from rfaas.control.streams import StreamLink
from rfaas.control.tls import SERVER_NAME, load_key_pair
from rfaas.control.wire import (
    FROM_AGENT,
    FROM_HOLDER,
    PROTOCOL_VERSION,
    TO_AGENT,
    TO_HOLDER,
    Envelope,
    from_pb,
    to_pb,
)
from rfaas_transport.errors import AllocatorUnavailable, ConfigError, VersionMismatch

__all__ = ["AdminClient", "AllocatorAddress", "OffersClient", "dial_agent", "dial_holder"]

Out = TypeVar("Out")
In = TypeVar("In")

MESSAGE_LIMIT_BYTES: Final = 4 << 20
SNAPSHOT_LIMIT_BYTES: Final = 64 << 20  # the one big answer: 10,000 slices and their leases
LINK_TIMEOUT_S: Final = 15.0  # for an allocator that is slow, or cut off: a dead one's host refuses at once
END_TIMEOUT_S: Final = 1.0  # for the other side to answer a farewell

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", SNAPSHOT_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),  # compute nodes have proxies for the world outside; the allocator is inside
    ("grpc.use_local_subchannel_pool", 1),  # a new link is a new connection: the old one may hang
    ("grpc.ssl_target_name_override", SERVER_NAME),
)


async def dial_agent(
    address: AllocatorAddress, *, timeout_s: float = LINK_TIMEOUT_S
) -> Link[AgentMessage, AllocatorToAgent]:
    """Open an agent's stream; register on it next.

    Raises:
        AllocatorUnavailable: (an OSError) nobody answered within `timeout_s`, or refused; nothing is open.
        ConfigError: the key pair can't be used, or the address has no way in from this host.
    """
    channel = _channel(address)
    call = agents_pb2_grpc.AgentsStub(channel).Attend()
    return await _link(address, channel, call, FROM_AGENT, TO_AGENT, timeout_s)


async def dial_holder(
    address: AllocatorAddress, *, timeout_s: float = LINK_TIMEOUT_S
) -> Link[HolderMessage, AllocatorToHolder]:
    """Open a session process's stream; say hello for each holder next.

    Raises: as `dial_agent`.
    """
    channel = _channel(address)
    call = leases_pb2_grpc.LeasesStub(channel).Attend()
    return await _link(address, channel, call, FROM_HOLDER, TO_HOLDER, timeout_s)


def _channel(address: AllocatorAddress) -> grpc.aio.Channel:
    if address.local:
        if Path(address.unix).parent.exists():
            check_private(Path(address.unix).parent, directory=True)
        return grpc.aio.insecure_channel(f"unix:{address.unix}", options=CHANNEL_OPTIONS)
    if not address.tls:
        raise ConfigError(
            f"the allocator runs on {address.host} and can only be reached there",
            hint="start it with --listen ADDRESS of an interface that the other hosts reach",
        )
    pair = load_key_pair(address.key_file, address.certificate_file)
    credentials = grpc.ssl_channel_credentials(pair.certificate_pem, pair.key_pem, pair.certificate_pem)
    return grpc.aio.secure_channel(address.tls, credentials, options=CHANNEL_OPTIONS)


async def _link(
    address: AllocatorAddress,
    channel: grpc.aio.Channel,
    call: Any,  # noqa: ANN401 - grpc.aio.StreamStreamCall
    outgoing: Envelope[Out],
    incoming: Envelope[In],
    timeout_s: float,
) -> Link[Out, In]:
    try:
        # The allocator sends its metadata before any message, so this returns when it answers or can't be reached.
        async with asyncio.timeout(timeout_s):
            await call.initial_metadata()
            if call.done():
                raise _unavailable(address, await call.details())
    except TimeoutError:
        await channel.close()
        raise _unavailable(address, f"no answer within {timeout_s} s") from None
    except BaseException:
        await channel.close()
        raise

    async def read() -> Any:  # noqa: ANN401
        return await _read(call)

    async def write(envelope: Any) -> None:  # noqa: ANN401
        await _write(call, envelope)

    async def end() -> None:
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await call.done_writing()
                await call.code()
        await channel.close()

    return StreamLink(read=read, write=write, end=end, outgoing=outgoing, incoming=incoming)


async def _read(call: Any) -> Any:  # noqa: ANN401
    try:
        envelope = await call.read()
    except grpc.aio.AioRpcError as error:
        raise LinkBroken(f"{error.code().name}: {error.details()}") from None
    except asyncio.CancelledError:
        raise _broken_or_cancelled() from None
    if envelope is grpc.aio.EOF:
        raise LinkBroken(f"{(await call.code()).name}: {await call.details() or 'the allocator ended the stream'}")
    return envelope


async def _write(call: Any, envelope: Any) -> None:  # noqa: ANN401
    try:
        await call.write(envelope)
    except grpc.aio.AioRpcError as error:
        raise LinkBroken(f"{error.code().name}: {error.details()}") from None
    except asyncio.InvalidStateError:  # the RPC is over; reading says why
        raise LinkBroken("the stream ended") from None
    except asyncio.CancelledError:
        raise _broken_or_cancelled() from None


def _broken_or_cancelled() -> BaseException:
    """Tell a cancelled task from a cancelled RPC: grpc raises CancelledError for both."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return LinkBroken("the stream was closed here")


def _unavailable(address: AllocatorAddress, why: str) -> AllocatorUnavailable:
    where = address.unix if address.local else address.tls
    return AllocatorUnavailable(
        f"the allocator at {where} does not answer: {why}",
        hint=f"`rfaas up` starts it again if it has ended; its state directory is {address.state_dir}",
    )


class _Client:
    """A channel for single questions."""

    def __init__(self, address: AllocatorAddress, *, timeout_s: float = 5.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = _channel(address)

    async def close(self) -> None:
        """Close the channel; repeatable."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _ask(self, method: Any, request: Any) -> Any:  # noqa: ANN401
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None

    def _error(self, error: grpc.aio.AioRpcError) -> Exception:
        details = error.details() or error.code().name
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            return VersionMismatch(details, hint="install versions of rfaas that lie no further apart than one")
        return _unavailable(self._address, details)


class OffersClient(_Client):
    """The harvester's way to the allocator: `async with OffersClient(address) as offers`.

    Every call raises AllocatorUnavailable if nobody answers in time: it may or may not have had its effect (repeat it,
    that is harmless); VersionMismatch if the allocator refuses this version.
    """

    def __init__(self, address: AllocatorAddress, *, timeout_s: float = 5.0) -> None:
        super().__init__(address, timeout_s=timeout_s)
        self._stub = offers_pb2_grpc.OffersStub(self._channel)

    async def report(
        self,
        ended: Sequence[JobEnded] = (),
        alive: Sequence[JobRef] | None = None,
        *,
        alive_age_s: float = 0.0,
        ending: Sequence[JobEnding] = (),
        trusted_for_s: float | None = None,
        hosts: HostList | None = None,
        given_nodes: Sequence[str] = (),
    ) -> int:
        """Tell of ended jobs, and of all that live; durable when it returns.

        Args:
            ended: jobs that Slurm has ended; repeating one is harmless.
            alive: Slurm's whole list of the harvester's jobs, None if it was not read.
            alive_age_s: seconds since that list was read.
            ending: slices that must leave their nodes; repeating one is harmless.
            trusted_for_s: seconds from now for which the allocator may grant on this picture of Slurm; None: unsaid.
            hosts: every host that Slurm could give, None if it was not read.
            given_nodes: those that a job is about to start on.
        Returns:
            How many slices this ended.
        """
        known = hosts or HostList()
        jobs = None if alive is None else tuple(alive)
        report = JobsReport(
            *(tuple(ended), jobs, alive_age_s, tuple(ending), trusted_for_s, known.hosts, known.complete),
            given_nodes=tuple(given_nodes),
        )
        request = to_pb(report)
        request.version = PROTOCOL_VERSION
        reply = await self._ask(self._stub.Report, request)
        return int(reply.slices_ended)

    async def snapshot(self) -> Snapshot:
        """What the allocator holds and what its holders wait for."""
        request = offers_pb2.OffersSnapshotRequest(version=PROTOCOL_VERSION)
        return from_pb(Snapshot, await self._ask(self._stub.GetSnapshot, request))


class AdminClient(_Client):
    """What commands ask: `async with AdminClient(address) as admin`. Errors: as OffersClient."""

    def __init__(self, address: AllocatorAddress, *, timeout_s: float = 5.0) -> None:
        super().__init__(address, timeout_s=timeout_s)
        self._stub = admin_pb2_grpc.AdminStub(self._channel)

    async def snapshot(self) -> Snapshot:
        """The allocator's whole view at one moment."""
        request = admin_pb2.SnapshotRequest(version=PROTOCOL_VERSION)
        return from_pb(Snapshot, await self._ask(self._stub.GetSnapshot, request))

    async def watch(self, from_seq: int = 0) -> AsyncIterator[Event]:
        """Events as they happen; from_seq 0 begins with what comes now, another with that event if it is still kept.

        The last `seq` plus one resumes after a break; an event of kind `gap` says that some are not kept any more.
        """
        call = self._stub.Watch(admin_pb2.WatchRequest(version=PROTOCOL_VERSION, from_seq=from_seq))
        try:
            async for event in call:
                yield from_pb(Event, event)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        finally:
            call.cancel()

    async def accounts(self, since_unix_s: float = 0.0) -> AsyncIterator[Account]:
        """What leases that lived at or after a time cost, by lease_seq, with the cost by the prices set now."""
        call = self._stub.GetAccounts(admin_pb2.AccountsRequest(version=PROTOCOL_VERSION, since_unix_s=since_unix_s))
        try:
            async for account in call:
                yield from_pb(Account, account)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        finally:
            call.cancel()

    async def set_inventory(self, hosts: HostList) -> int:
        """Replace the hosts that a file named; durable when it returns how many are known from all sources."""
        request = admin_pb2.InventoryRequest(
            version=PROTOCOL_VERSION, hosts=[to_pb(host) for host in hosts.hosts], complete=hosts.complete
        )
        reply = await self._ask(self._stub.SetInventory, request)
        return int(reply.hosts)

    async def stop(
        self,
        *,
        end_slices: bool = True,
        end_allocator: bool = True,
        timeout_s: float = 30.0,
        reason_code: int = 5,
    ) -> int:
        """Tell agents to drain and leave, the allocator to leave after them, or both; returns at once.

        Args:
            end_slices: every agent drains and leaves.
            end_allocator: the allocator leaves; with end_slices after the last agent has gone.
            timeout_s: it leaves after so long at the latest.
            reason_code: a ReasonCode; 5 is `admin`.
        Returns:
            How many slices were told to end.
        """
        request = admin_pb2.StopRequest(
            version=PROTOCOL_VERSION,
            end_slices=end_slices,
            end_allocator=end_allocator,
            timeout_s=timeout_s,
            reason_code=reason_code,
        )
        reply = await self._ask(self._stub.Stop, request)
        return int(reply.slices)
