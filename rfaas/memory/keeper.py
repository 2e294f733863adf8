"""The thread of one borrowed region: joins, hears, changes the way, copies; the core decides.

It sleeps in C without the GIL, and moves no bytes itself: whoever reads or writes does, in his own thread. Copies of a
whole region have a thread while they last, so that a loss is heard meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections import deque
from typing import Any, Final

from rfaas.client import lifetime
from rfaas.client.events import ChannelOpened, SessionFailed
from rfaas.client.reclaims import Reclaims
from rfaas.client.session_line import LEAVE_WAIT_S, SessionLine
from rfaas.memory import events as on
from rfaas.memory.core import MemoryCore, Stage
from rfaas.memory.gate import Gate, Wire, copy
from rfaas.memory.options import MemoryOptions
from rfaas.memory.spill import SpillFile
from rfaas.memory.trials import Trials
from rfaas.session.connection import SessionConnection
from rfaas.session.start import PATIENCE_S, connect
from rfaas_transport import shared_memory, tls, verbs
from rfaas_transport._core import Channel, Poller, RegionClient
from rfaas_transport.errors import AllocatorUnavailable, ChannelBroken, ChannelClosed, ProtocolError, RfaasError

log = logging.getLogger(__name__)

EXECUTOR: Final = 1  # the session process's number of our only want
_SESSION: Final = 1  # the poller's token
CLOSED: Final = "the remote memory is closed"


class Keeper:
    """Keeps one region. `start` once; `close` at the end."""

    def __init__(self, options: MemoryOptions) -> None:
        self._options = options
        self._client_id = secrets.token_bytes(16)
        self._poller = Poller()
        self._line = SessionLine(self._poller, _SESSION)
        self._core = MemoryCore(
            options.when_reclaimed, options.acquire_timeout_s, _now_s(), rdma_only=options.transport == "verbs"
        )
        self._events: deque[on.Event] = deque()
        self._joined: deque[SessionConnection] = deque()
        self._wires: dict[int, Wire] = {}
        self._trials = Trials()
        self._no_verbs = (
            verbs.why_not() if options.transport in ("auto", "verbs") else f'transport="{options.transport}"'
        )
        self._spill: SpillFile | None = None
        self._copier: threading.Thread | None = None
        self._over = False
        self._pid = os.getpid()
        self.gate = Gate(options.size_bytes, lambda number: self.post(on.ChannelFailed(number)))
        self.reclaims = Reclaims()
        self.medium = ""
        self._thread = threading.Thread(target=self._run, name="rfaas-memory", daemon=True)

    def start(self) -> None:
        """Begin to join and to wait for a lender; returns at once."""
        lifetime.register(self)
        self._thread.start()

    def post(self, event: on.Event) -> None:
        """Have the core take an event; any thread."""
        if self._over:
            return
        self._events.append(event)
        with contextlib.suppress(OSError, ValueError):  # its thread ends at this moment
            self._poller.wake()

    @property
    def stage(self) -> Stage:
        """Where the region is."""
        return self._core.stage

    @property
    def node(self) -> str:
        """Where the lender is; empty: there is none."""
        return self._core.node

    @property
    def lease_id(self) -> bytes:
        """Of the lease that has the content; empty: there is none."""
        return self._core.lease_id

    # --- the end ------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Have everything given back; never blocks."""
        self.gate.hold()
        self.post(on.CloseAsked())

    def close(self) -> None:
        """Give everything back and wait for that; repeatable."""
        if self._pid != os.getpid():
            return
        self.gate.fail(RuntimeError(CLOSED))
        if not self._over:
            self.abandon()
        self._thread.join()

    def shutdown(self, *, wait: bool, cancel_queued: bool, why: str) -> None:
        """At the interpreter's exit."""
        self.close()

    def forget_in_forked_child(self, error: BaseException) -> None:
        """Drop what belongs to the parent."""
        self.gate.forget_in_child(RuntimeError(f"the memory is not this process's after {lifetime.FORKED}"))
        self._over = True
        for wire in self._wires.values():
            wire.drop_in_child()
        self._line.close_in_forked_child()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._carry_out(self._core.start())
            while not self._over:
                timeout_s = self._patience_s()
                if not self._events:
                    self._poller.wait(timeout_s)
                self._take_joined()
                self._hear()
                self._events.extend(map(on.ChannelFailed, self._trials.overdue(_now_s())))
                while self._events and not self._over:
                    self._step(self._events.popleft())
                if not self._over:
                    self._step(on.Tick())
        except BaseException as error:  # whoever reads or writes must not wait for ever
            log.exception("the thread of a remote memory failed")
            self.gate.fail(RuntimeError(f"the thread of the remote memory failed: {error!r}"))
        finally:
            self._finish()

    def _patience_s(self) -> float | None:
        """How long nothing is due."""
        due_s = [due_s for due_s in (self._trials.due_s, self._core.wake_at_s) if due_s is not None]
        return max(0.0, min(due_s) - _now_s()) if due_s else None

    def _step(self, event: on.Event) -> None:
        failed = self._trials.end(event.channel) if isinstance(event, on.ChannelFailed) else None
        if failed is not None and isinstance(event, on.ChannelFailed):
            self._say_unusable(*failed)
            event = on.Unusable(event.channel, failed[1])
        self._carry_out(self._core.step(event, _now_s()))

    def _carry_out(self, effects: list[on.Effect]) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: on.Effect) -> None:
        match effect:
            case on.Join():
                threading.Thread(target=self._join, args=(effect,), name="rfaas-join", daemon=True).start()
            case on.SayWant(regions, keep):
                self._say(self._want(regions, keep=keep))
            case on.GiveBack(lease):
                self._say({"m": "cancel-lease", "lease": lease})
            case on.Use(0):
                assert self._spill is not None
                self.medium = self._spill.medium
                self.gate.open(self._spill, 0)
            case on.Use(number) if number in self._wires:
                self.medium = self._wires[number].medium
                self.gate.open(self._wires[number], number)
            case on.Hold():
                self.gate.hold()
            case on.Fail(error):
                for wire in self._wires.values():
                    wire.abort()
                self.gate.fail(error)
            case on.Copy(source, to):
                self._copier = threading.Thread(
                    target=self._copy, args=(source, to), name="rfaas-memory-copy", daemon=True
                )
                self._copier.start()
            case on.Drop(number):
                dropped = self._wires.pop(number, None)
                if dropped is not None:
                    dropped.close()
            case on.Tell(notice):
                self.reclaims.tell(notice)
            case on.Leave():
                self._over = True

    def _finish(self) -> None:
        for wire in self._wires.values():
            wire.abort()
        self.gate.fail(RuntimeError(CLOSED))
        if self._copier is not None:
            self._copier.join()
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        self._over = True
        self._leave()
        self.reclaims.close()
        if self._spill is not None:
            self._spill.close()
        self._poller.close()

    def _leave(self) -> None:
        self._take_joined()
        self._line.leave(LEAVE_WAIT_S if self._line.mode == "embedded" else 0)

    # --- the session process ------------------------------------------------------------------------------------

    def _join(self, wish: on.Join) -> None:
        """Runs in a thread of its own: starting a session process takes a while."""
        try:
            connection = connect(
                self._options.choice,
                client_id=self._client_id,
                env={},
                resume=[_resumed(*pair) for pair in wish.resume],
                daemon_python=self._options.daemon_python,
                timeout_s=PATIENCE_S,
                wanted=lambda: not self._over,
            )
        except RfaasError as error:
            self.post(SessionFailed(error))
        except Exception as error:
            failed = AllocatorUnavailable(f"the session process can't be joined: {error!r}")
            failed.__cause__ = error
            self.post(SessionFailed(failed))
        else:
            self._joined.append(connection)
            if self._over:  # too late for the thread to see it
                with contextlib.suppress(IndexError):
                    self._joined.pop().close()
            else:
                self._poller.wake()

    def _take_joined(self) -> None:
        while self._joined:
            self._events.appendleft(self._line.take(self._joined.popleft()))

    def _want(self, regions: int, *, keep: bool) -> dict[str, Any]:
        options = self._options
        return {
            "m": "want",
            "executor": EXECUTOR,
            "kind": "memory",
            "workers": regions,
            "cores": 0,
            "memory_bytes": options.size_bytes,
            "placement": options.placement,
            "transport": options.transport,
            "transport_security": options.transport_security,
            "can_encrypt": tls.is_built(),
            "no_verbs": self._no_verbs,
            "keep": keep,
        }

    def _say_unusable(self, lease: bytes, why: str) -> None:
        """RDMA to this lender could not be set up: the session process dials it again, over another medium."""
        log.warning("no RDMA to borrowed memory lease=%s why=%s", lease.hex(), why)
        self._say({"m": "unusable", "lease": lease, "why": why})

    def _say(self, message: dict[str, Any]) -> None:
        lost = self._line.say(message)
        if lost is not None:
            self._events.append(lost)

    def _hear(self) -> None:
        """Take what the session process says."""
        for event, descriptor in self._line.hear():
            if isinstance(event, ChannelOpened) and descriptor is not None:
                self._open(event, descriptor)
            elif isinstance(event, on.Event):
                self._events.append(event)

    def _open(self, opened: ChannelOpened, descriptor: int) -> None:
        """Make a channel of a connection; one that can't be is the core's to hear of."""
        info = opened.info
        try:
            if info.medium == "shm":
                channel = shared_memory.offer(descriptor, self._options.arena_bytes)
            elif info.medium == "verbs":
                channel = verbs.adopt(descriptor)
            else:
                key = opened.key if info.medium == "tls" else None
                channel = Channel.from_fd(descriptor, key=key, is_dialer=True)
        except (OSError, RfaasError, MemoryError) as error:
            os.close(descriptor)
            log.warning("channel to borrowed memory not opened why=%s", error)
            if info.medium == "verbs":  # another medium will do, or the session process says why none does
                self._say_unusable(info.lease, str(error))
                self._events.extend((opened, on.Unusable(info.number, str(error))))
            else:
                self._events.append(on.OpenFailed(f"{type(error).__name__}: {error}"))
            return
        wire = self._wires[info.number] = Wire(RegionClient(channel, info.lease_seq, info.epoch))
        self._trials.begin(info.number, info.lease, wire, _now_s())
        self._events.append(opened)

    # --- copying ------------------------------------------------------------------------------------------------

    def _copy(self, source: int, to: int) -> None:
        """Runs in a thread of its own, while reads and writes are held."""
        problem = ""
        try:
            self.gate.wait_idle()
            if to == 0:
                self._spill = self._spill or SpillFile(self._options.spill_dir, self._options.size_bytes)
            target = self._spill if to == 0 else self._wires.get(to)
            wire = self._wires.get(source)
            if wire is None or target is None:
                problem = "a channel ended before the copy began"
            else:
                copy(wire, target, self.gate.written())
        except (ChannelClosed, ChannelBroken, ProtocolError) as error:
            problem = f"the copy was cut off: {error}"
        except OSError as error:
            problem = f"the spill file could not be written: {error}"
        except Exception as error:  # whoever reads or writes must not wait for ever
            problem = f"the copy failed: {error!r}"
        for number in (source, to):
            wire = self._wires.get(number)
            if wire is not None and wire.closed:
                self.post(on.ChannelFailed(number))
        if problem:
            log.warning("borrowed memory not copied why=%s", problem)
        self.post(on.CopyEnded(to, problem))


def _resumed(lease: Any, opened: ChannelOpened | None) -> dict[str, Any]:  # noqa: ANN401 - a client.records.Lease
    channels = [] if opened is None else [[opened.info.number, opened.info.slot, opened.info.generation]]
    return {
        "lease": lease.lease,
        "lease_seq": lease.lease_seq,
        "epoch": lease.epoch,
        "slice": lease.slice,
        "address": lease.address,
        "node": lease.node,
        "executor": EXECUTOR,
        "workers": lease.workers,
        "ttl_s": lease.ttl_s,
        "kind": "memory",
        "channels": channels,
    }


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
