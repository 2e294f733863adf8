"""A gRPC proxy between real processes and a real allocator that loses and doubles messages, of every RPC there is.

gRPC's streams are reliable: what is lost is lost with its stream. So `request lost` breaks the stream before a message
is passed on, `reply lost` passes it on and breaks the stream before anything comes back, `duplicate` passes it on
twice. Of a unary RPC the duplicate runs at the same time as the first. Bytes are passed on as they are.
`python -m support.faulty_proxy STATE_DIR DIRECTORY FAULTS_FILE SEED SHARE LIMIT` is one with faults at random.
"""

import asyncio
import json
import random
import shutil
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from rfaas.control.dial import CHANNEL_OPTIONS
from rfaas.control.proto import admin_pb2, agents_pb2, leases_pb2, offers_pb2

FAULTS = ("request lost", "reply lost", "duplicate")
FILES = (agents_pb2, leases_pb2, offers_pb2, admin_pb2)
REPLY_S = 0.05  # for what a message causes, before its stream breaks


@dataclass(frozen=True)
class Rpc:
    """One method of one service, and the kinds of messages on its streams; none if it is a question and its answer."""

    method: str
    request: type
    reply: type
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()

    @property
    def kinds(self):
        """What can be lost or doubled: `Agents.register` on a stream, else `Admin.Stop`."""
        service, _, name = self.method.rpartition("/")
        service = service.rpartition(".")[2]
        return [f"{service}.{kind}" for kind in (*self.up, *self.down)] or [f"{service}.{name}"]


def _rpcs():
    """From the services' descriptors: an RPC that is added is one that must be tried."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                types = [message_class(one) for one in (method.input_type, method.output_type)]
                bodies = [_bodies(one.DESCRIPTOR) for one in types]
                yield Rpc(f"/{service.full_name}/{method.name}", *types, *bodies)


def message_class(descriptor):
    """The class of a message of one of the files."""
    return next(getattr(file, descriptor.name) for file in _all_files() if hasattr(file, descriptor.name))


def _all_files():
    from rfaas.control.proto import common_pb2

    return (*FILES, common_pb2)


def _bodies(descriptor):
    oneof = descriptor.oneofs_by_name.get("body")
    return tuple(field.name for field in oneof.fields) if oneof else ()


RPCS = {rpc.method: rpc for rpc in _rpcs()}
KINDS = sorted(kind for rpc in RPCS.values() for kind in rpc.kinds)


class Broken(Exception):
    """The proxy breaks this stream now."""


class FaultyProxy:
    """Listens in a state directory of its own, which is a copy of the allocator's but for the socket.

    Args:
        state_dir: the allocator's.
        directory: made.
        choose: told a kind, returns a fault or None.
    """

    def __init__(self, state_dir, directory, choose):
        self.directory = Path(directory)
        self.injected = Counter()
        self._state_dir, self._choose = Path(state_dir), choose
        self._server = self._upstream = None

    async def start(self):
        """Listen, and publish where."""
        about = json.loads((self._state_dir / "allocator.json").read_text())
        self.directory.mkdir(mode=0o700)
        shutil.copy(self._state_dir / "secret", self.directory / "secret")
        socket = self.directory / "proxy.sock"
        options = [*CHANNEL_OPTIONS, ("grpc.max_send_message_length", -1)]
        self._upstream = grpc.aio.insecure_channel(f"unix:{about['unix']}", options=options)
        self._server = grpc.aio.server(options=[("grpc.http2.max_ping_strikes", 0)])
        self._server.add_generic_rpc_handlers((_Everything(self._serve),))
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()
        file = self.directory / "allocator.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps({**about, "unix": str(socket)}))

    async def stop(self):
        """Break every stream and leave."""
        await self._server.stop(0)
        await self._upstream.close()

    def _fault(self, kind):
        fault = self._choose(kind)
        if fault is not None:
            self.injected[kind, fault] += 1
        return fault

    async def _serve(self, method, context):
        """One call, whatever its form: all are streams to the wire."""
        rpc = RPCS[method]
        stream = _Stream(rpc, self._upstream.stream_stream(method)(), context, self._fault)
        try:
            await (stream.attend() if rpc.up else stream.ask(self._upstream.stream_stream(method)))
        except Broken as broken:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(broken))
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        finally:
            stream.call.cancel()


class _Everything(grpc.GenericRpcHandler):
    def __init__(self, serve):
        self._serve = serve

    def service(self, details):
        async def handle(_requests, context):
            await self._serve(details.method, context)

        return grpc.stream_stream_rpc_method_handler(handle) if details.method in RPCS else None


class _Stream:
    """One call through the proxy."""

    def __init__(self, rpc, call, context, fault):
        self.rpc, self.call, self._context, self._fault = rpc, call, context, fault
        self._service = rpc.method.rpartition("/")[0].rpartition(".")[2]
        self._muted = set()  # directions in which nothing is passed on any more

    async def ask(self, make_call):
        """A question with one answer, or with a stream of them."""
        [kind] = self.rpc.kinds
        request = await self._context.read()
        fault = self._fault(kind)
        if fault == "request lost":
            raise Broken("the request is lost")
        calls = [self.call] + ([make_call()] if fault == "duplicate" else [])
        for call in calls:
            await call.write(request)
            await call.done_writing()
        if fault == "reply lost":
            await self.call.read()
            raise Broken("the reply is lost")
        while (reply := await self.call.read()) is not grpc.aio.EOF:
            await self._context.write(reply)
        if await self.call.code() is not grpc.StatusCode.OK:
            await self._context.abort(await self.call.code(), await self.call.details() or "")
        for call in calls[1:]:
            while await call.read() is not grpc.aio.EOF:
                pass

    async def attend(self):
        """Messages both ways until either side ends it."""
        await self.call.initial_metadata()
        await self._context.send_initial_metadata(())
        ways = [asyncio.ensure_future(way) for way in (self._pass_up(), self._pass_down())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if ways[0] in done and ways[0].exception() is None:  # the caller said its last; the allocator may answer
                await self.call.done_writing()
                done, _ = await asyncio.wait(ways[1:])
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_up(self):
        while (data := await self._context.read()) is not grpc.aio.EOF:
            await self._pass("up", self.rpc.request, data, self.call.write)

    async def _pass_down(self):
        while (data := await self.call.read()) is not grpc.aio.EOF:
            await self._pass("down", self.rpc.reply, data, self._context.write)
        code = await self.call.code()
        if code is not grpc.StatusCode.OK:
            await self._context.abort(code, await self.call.details() or "")

    async def _pass(self, way, message, data, write):
        if way in self._muted:
            return
        name = message.FromString(data).WhichOneof("body")
        fault = self._fault(f"{self._service}.{name}") if name else None
        if fault == "request lost":
            raise Broken("the message is lost")
        await write(data)
        if fault == "duplicate":
            await write(data)
        if fault == "reply lost":
            self._muted.add("down" if way == "up" else "up")
            await asyncio.sleep(REPLY_S)
            raise Broken("what came back is lost")


class Random:
    """Chooses faults at random until there were so many; each is a line of a file.

    Args:
        path: `KIND<tab>FAULT` a line.
        share: of the messages, up to 1.
    """

    def __init__(self, path, seed, share, limit):
        self._path, self._share, self._left = path, share, limit
        self._random = random.Random(seed)

    def choose(self, kind):
        if not self._left or self._random.random() > self._share:
            return None
        fault = self._random.choice(FAULTS)
        self._left -= 1
        with open(self._path, "a") as file:
            file.write(f"{kind}\t{fault}\n")
        return fault


async def main(state_dir, directory, path, seed, share, limit):
    """Be the proxy until SIGTERM."""
    proxy = FaultyProxy(state_dir, directory, Random(path, int(seed), float(share), int(limit)).choose)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await proxy.start()
    await over.wait()
    await proxy.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
