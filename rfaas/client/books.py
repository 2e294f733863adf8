"""The books of one executor: a lock around the core, the futures that have no end yet, and what the core asked for.

Must not decide anything about calls: `rfaas.client.core` does. Locks: this one first, then a future's; user code never
runs under either.

A KeyboardInterrupt can hit the main thread between any two lines, while it holds the lock too. Then `_mid_step` stays
set, and whoever steps next puts the books in order (`_recover`) from what is certain: the futures that have no end, and
the credits that the channels have really spent. A finalizer or a signal handler can hit there too, and submit or cancel
by itself: what comes from inside is left as a note to the I/O thread.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from typing import Any

from rfaas.client.chores import Chores
from rfaas.client.core import ClientCore
from rfaas.client.effects import (
    Broke,
    CloseChannel,
    Connect,
    Deliver,
    Dispatch,
    Drained,
    Effect,
    Examine,
    Fail,
    GiveBack,
    Lent,
    Recall,
    Requeued,
    SendInterrupt,
    SendWant,
    Started,
    Starving,
    TakeBack,
    TellGain,
    TellReclaim,
    Withdrawn,
)
from rfaas.client.endings import Ending
from rfaas.client.events import Event, SendFailed, Submit
from rfaas.client.futures import Future
from rfaas.client.history import History
from rfaas.client.lane import Lane
from rfaas.client.output_sinks import sink
from rfaas.client.ports import Ports, Work
from rfaas.client.printouts import Printouts
from rfaas.client.reclaims import Reclaims
from rfaas.client.records import Call
from rfaas.client.safe_log import SafeLogger
from rfaas.client.session_link import SessionLink
from rfaas.config import ExecutorConfig
from rfaas_transport._core import Poller
from rfaas_transport.errors import Cancelled, ChannelClosed

_log = SafeLogger(__name__)


class Books:
    """What is known of the calls of one executor, and what is to be done about them.

    Args:
        config: of the executor.
        chores: what workers do besides calls.
        client_id: 16 random bytes.
    """

    _poller: Poller  # these come with the I/O thread
    _ports: Ports
    _session: SessionLink
    _lane: Lane  # with the functions

    def __init__(self, config: ExecutorConfig, chores: Chores, client_id: bytes) -> None:
        self._config = config
        self._lock = threading.RLock()
        self._core = ClientCore(config.max_workers, config.acquire_timeout_s, chores=chores)
        self._history = History(client_id)
        output = config.output
        self._printouts = Printouts(sink(output, client_id), output.prefix, output.limit_bytes)
        self._calls: dict[Future[Any], Call] = {}  # every future that is not resolved
        self._endings: deque[Ending] = deque()  # for the I/O thread to carry out
        self._resolving: list[Ending] = []  # which it carries out now
        self._examinations: deque[Examine] = deque()  # exceptions for the I/O thread to look at
        self._interrupts: deque[SendInterrupt] = deque()  # not told yet
        self.reclaims = Reclaims()
        self._numbers = itertools.count(1)  # of calls
        self._notes: deque[Event] = deque()  # from inside, see above
        self._broke: Broke | None = None  # not looked into yet
        self._unread: deque[int] = deque()  # tokens of channels whose descriptor may not tell that something came
        self._word = threading.Condition(self._lock)  # told when a call that somebody cancels starts, or is given back
        self._n_cancelling = 0  # threads that wait for that
        self._mid_step = False
        self._suspect = False  # as _mid_step, set without the lock
        self._want: SendWant | None = None  # not told yet
        self._give_back: deque[bytes] = deque()  # leases, not told yet
        self._connect: Connect | None = None  # not begun yet
        self._thread: threading.Thread | None = None  # with it, the poller and what hangs on it
        self._asleep = False  # the I/O thread waits for channels, or is about to
        self._wake_by_s = float("inf")  # and wakes up by itself at this time
        self._drained = False

    def _inside(self) -> bool:
        """True if this thread holds the lock: a finalizer or a signal handler has interrupted it."""
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]  # as threading.Condition itself does

    def _note(self, event: Event) -> None:
        """Leave an event to the I/O thread."""
        self._notes.append(event)
        if self._thread is not None:
            self._poller.wake()

    def _apply(self, event: Event) -> None:
        """Step the core and do what it asks. Futures to resolve are left to the I/O thread, woken if it is asleep.

        Whoever has just taken the lock calls `_check_books` before.
        """
        self._mid_step = True
        try:
            if isinstance(event, Submit):
                self._calls[event.call.work.future] = event.call
                self._history.submit(event.call)
            self._do(self._core.step(event, time.monotonic()))
        except BaseException:
            self._poller.wake()  # the I/O thread recovers, for nobody else may come
            raise
        self._mid_step = False

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:  # grows while it is read: a dispatch that fails has effects of its own
            if isinstance(effect, Dispatch):
                failed = self._send(effect)
                if failed is not None:
                    effects += self._core.step(failed, time.monotonic())
            elif isinstance(effect, Deliver | Fail | Withdrawn):
                self._endings.append(effect)
            elif isinstance(effect, Examine):
                self._examinations.append(effect)
            else:
                self._keep(effect)
        if self._n_cancelling:
            self._word.notify_all()
        if self._asleep and self._is_wanted_by_s(self._wake_by_s):
            self._asleep = False
            self._poller.wake()

    def _send(self, dispatch: Dispatch) -> SendFailed | None:
        port = self._ports.get(dispatch.channel)
        if port is None:
            return SendFailed(dispatch.channel, dispatch.call_id, ChannelClosed("the channel is closed"), broken=True)
        work: Work = dispatch.call.work
        if work.future is not None:
            if not dispatch.call.behind:
                work.future._mark_running()
            self._history.sent(dispatch, port.info)
        return self._ports.send(port, dispatch, work)

    def _keep(self, effect: Effect) -> None:
        if isinstance(effect, Broke):
            self._broke = effect
        elif isinstance(effect, Requeued):
            effect.call.work.future._mark_pending()
        elif isinstance(effect, Started):
            effect.call.work.future._mark_running()
        elif isinstance(effect, TakeBack):
            self._ports.take_back(effect)
        elif isinstance(effect, Starving):
            _log.warning("%d calls wait, and there is no worker: %s", effect.n_calls, effect.why or "nobody says why")
        elif isinstance(effect, SendWant):
            self._want = effect
        elif isinstance(effect, GiveBack):
            self._give_back.append(effect.lease)
        elif isinstance(effect, TellGain):
            self.reclaims.tell_gain(effect.lease)
        elif isinstance(effect, SendInterrupt):
            self._interrupts.append(effect)
        elif isinstance(effect, TellReclaim):
            self.reclaims.tell(effect.notice)
        elif isinstance(effect, CloseChannel):
            self._ports.close(effect.channel)
        elif isinstance(effect, Connect):
            self._connect = effect
        elif isinstance(effect, Drained):
            self._drained = True
        elif isinstance(effect, Lent):
            self._lend(effect)
        elif isinstance(effect, Recall):
            self._lane.recall(time.monotonic())  # the I/O thread sees to the rest

    def _lend(self, effect: Lent) -> None:
        port = self._ports.get(effect.channel)
        assert port is not None, "a channel that the core knows is open"
        self._ports.unwatch(port)
        self._lane.add(port, effect.last_id_before)

    def _is_wanted_by_s(self, time_s: float) -> bool:
        """True if the I/O thread has something to do before this time."""
        if self._endings or self._notes or self._drained or self._broke is not None or self._unread:
            return True
        if self._examinations or self._interrupts or self._give_back:
            return True
        if self._want is not None or self._connect is not None:
            return True
        due_s = self._core.next_due_s()
        return due_s is not None and due_s < time_s

    def _check_books(self) -> None:
        """Put the books in order if an exception interrupted the last step (see the top of this file).

        Not between reading a frame and applying it: the channel has counted its credit, the core has not.
        """
        if self._mid_step or self._suspect:
            self._recover()

    def _recover(self) -> None:
        self._suspect = False
        held = [ending for ending, _ in list(self._printouts.held.values())]
        known = {id(ending.call) for ending in (*self._endings, *self._resolving, *held)}
        for call in list(self._calls.values()):
            if call.resolved and id(call) not in known:  # how it was to end is not known any more
                error = Cancelled("interrupted while it was resolved", may_have_run=True)
                ran = call.call_id or call.may_have_run
                self._endings.append(Fail(call, error) if ran else Withdrawn(call))
        unresolved = [call for call in self._calls.values() if not call.resolved]
        for call in unresolved:
            self._history.submit(call)
        is_joining = self._connect is not None or self._session.joining
        effects = self._core.recover(unresolved, self._ports.credits(), time.monotonic(), is_joining=is_joining)
        self._mid_step = False
        self._do(effects)
