"""Random schedules against the client's core: every call resolves once, and none runs twice that must not.

The world below knows the truth: which worker really ran what. It crashes, reclaims and loses workers in every phase,
tells the truth in farewells or says nothing, and lets results overtake verdicts.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rfaas.client.answers import CHECKPOINT, EXCEPTION, NOT_STARTED, RESULT, TAKEN
from rfaas.client.chores import Chores
from rfaas.client.core import ClientCore
from rfaas.client.effects import (
    Broke,
    CloseChannel,
    Connect,
    Deliver,
    Dispatch,
    Examine,
    Fail,
    GiveBack,
    SendInterrupt,
    TakeBack,
    Withdrawn,
)
from rfaas.client.events import (
    Break,
    Cancel,
    CancelOverdue,
    ChannelEnded,
    ChannelOpened,
    ChannelsCondemned,
    Denied,
    Examined,
    FrameArrived,
    LeaseEnded,
    LeaseGranted,
    Notice,
    Resize,
    SendFailed,
    SessionFailed,
    SessionLost,
    SessionUp,
    Shutdown,
    Submit,
    Tick,
)
from rfaas.client.records import Call, ChannelInfo, Lease, Verdict
from rfaas.config import RECLAIM_BUDGET, CallSettings
from rfaas_transport.errors import AllocatorUnavailable, ChannelBroken, ExecutorBroken, PayloadTooLarge, ReasonCode

HELLO = 96
LEASE = b"l" * 16
RARELY = st.integers(0, 4).map(lambda n: n == 4)  # disasters; with more of them no call would ever run


class Frame:
    def __init__(self, kind, call_id=0, status=0, credits=0, segments=()):
        self.kind, self.call_id, self.status, self.credits, self.text = kind, call_id, status, credits, ""
        self.segments = segments


@dataclass
class Worker:
    """What a worker has really done."""

    number: int
    inbox: list = field(default_factory=list)  # dispatches not read
    running: Dispatch | None = None
    outbox: list = field(default_factory=list)  # frames sent, not received by the client
    wanted_back: list = field(default_factory=list)  # take-backs not read
    started: int = 0
    done: int = 0
    dead: bool = False
    ended: bool = False  # the client has read the end
    credits: int = 0  # what its channel really has left
    sent: dict = field(default_factory=dict)  # calls by the id they were sent with, in order
    lease: bytes = LEASE


class World(RuleBasedStateMachine):
    def make_chores(self):
        return Chores()

    def __init__(self):
        super().__init__()
        self.core = ClientCore(max_workers=4, acquire_timeout_s=None, seed=0, chores=self.make_chores())
        self.now_s = 0.0
        self.workers = {}
        self.next_channel = 1
        self.calls = []
        self.executions = Counter()
        self.endings = {}
        self.saved = {}  # by call: the checkpoint that reached the client last
        self.saves = 0
        self.names = {}  # by call: what names its invocation, at each dispatch
        self.asked = []  # interrupts on their way to the agent
        self.examining = []
        self.refuse_next = None  # an error for the next dispatch
        self.connecting = False
        self.up = False
        self.resumed = []
        self.submit(False, 0, None)
        self.joined()
        for _ in range(2):
            self.some_worker_comes(True)

    # --- plumbing ---------------------------------------------------------------------------------

    def step(self, event):
        if isinstance(event, FrameArrived) and event.channel in self.workers:
            self.workers[event.channel].credits += event.frame.credits
            if event.frame.kind == CHECKPOINT:
                call = self.workers[event.channel].sent[event.frame.call_id]
                if not call.resolved:
                    self.saved[call] = event.frame.segments[0]
        self.do(self.core.step(event, self.now_s))

    def do(self, effects):
        events = []
        while effects or events:
            for effect in effects or self.core.step(events.pop(0), self.now_s):
                if isinstance(effect, Dispatch):
                    events += self.dispatch(effect)
                elif isinstance(effect, Deliver | Fail | Withdrawn):
                    self.endings.setdefault(effect.call, []).append(effect)
                elif isinstance(effect, Broke):
                    events.append(Break(ExecutorBroken("no worker can be initialized")))
                elif isinstance(effect, Examine):
                    self.examining.append(effect)
                elif isinstance(effect, SendInterrupt):
                    assert self.up
                    self.asked.append(effect)
                elif isinstance(effect, TakeBack):
                    if effect.channel in self.workers:
                        self.workers[effect.channel].wanted_back.append(effect.call_id)
                elif isinstance(effect, CloseChannel):
                    self.workers.pop(effect.channel, None)
                elif isinstance(effect, GiveBack):
                    self.lease_is_given_back(effect.lease)
                elif isinstance(effect, Connect):
                    self.resumed = [(lease.lease, [c.number for c in channels]) for lease, channels in effect.resume]
                    assert not self.up
                    assert not self.connecting
                    self.connecting = True
            effects = []

    def lease_is_given_back(self, lease):
        raise AssertionError("nobody has resized")

    def dispatch(self, effect):
        if self.refuse_next is not None:
            error, self.refuse_next = self.refuse_next, None
            return [SendFailed(effect.channel, effect.call_id, error, broken=isinstance(error, ChannelBroken))]
        worker = self.workers[effect.channel]
        assert not worker.ended, "sent on a channel that was read to its end"
        assert not effect.call.interrupted
        assert effect.call.checkpoint == self.saved.get(effect.call)
        names = self.names.setdefault(effect.call, [])
        names.append(effect.call.first_call_id)
        assert len(set(names)) == 1
        worker.sent[effect.call_id] = effect.call
        worker.inbox.append(effect)
        worker.credits -= 1
        assert worker.credits >= 0
        return []

    def start(self, worker):
        worker.running = worker.inbox.pop(0)
        worker.started = worker.running.call_id
        self.executions[worker.running.call] += 1

    def answer(self, worker, credits, status=0):
        work = worker.running.call.work
        if work == "leave":
            worker.dead = True
            return
        if work == "init":
            status = 0  # or there would be little else to see than broken executors; test_chores.py has those
        worker.done = worker.running.call_id
        worker.outbox.append(Frame(RESULT, worker.running.call_id, status, credits=credits))
        worker.running = None

    def pick(self, data, predicate):
        found = [w for w in self.workers.values() if predicate(w)]
        return data.draw(st.sampled_from(found)) if found else None

    # --- what users do ------------------------------------------------------------------------------

    @rule(
        idempotent=st.booleans(),
        retries=st.integers(0, 3),
        timeout_s=st.sampled_from([None, None, None, 1.0]),
        follows=st.sampled_from([b"", b"f", b"f"]),
    )
    def submit(self, idempotent, retries, timeout_s, follows=b"f"):
        kinds = (OSError,) if idempotent and retries else ()
        call = Call(len(self.calls), "work", CallSettings(idempotent, retries if idempotent else 0, timeout_s, kinds))
        call.follows = follows
        self.calls.append(call)
        self.step(Submit(call))

    @rule(idempotent=st.booleans())
    def submit_is_interrupted(self, idempotent):
        """None of the step's effects is carried out; then the core is told what is true."""
        call = Call(len(self.calls), "work", CallSettings(idempotent, 0, 30.0))
        self.calls.append(call)
        self.core.step(Submit(call), self.now_s)
        if call.resolved:  # a broken executor's; the engine ends what lost its end like this
            self.endings[call] = [Withdrawn(call)]
        unresolved = [call for call in self.calls if not call.resolved]
        credits = {worker.number: worker.credits for worker in self.workers.values()}
        self.do(self.core.recover(unresolved, credits, self.now_s, is_joining=self.connecting))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), rarely=RARELY, interrupt=st.booleans())
    def cancel(self, data, rarely, interrupt):
        if not rarely:
            return
        call = data.draw(st.sampled_from(self.calls))
        self.step(Cancel(call, interrupt))
        if interrupt:
            assert call.resolved or call.interrupted

    @precondition(lambda self: any(call.withdrawing for call in self.calls))
    @rule(data=st.data())
    def cancel_is_overdue(self, data):
        self.step(CancelOverdue(data.draw(st.sampled_from([call for call in self.calls if call.withdrawing]))))

    @rule(data=st.data(), again=st.booleans())
    def exception_is_examined(self, data, again):
        if self.examining:
            question = self.examining.pop(data.draw(st.integers(0, len(self.examining) - 1)))
            self.step(Examined(question.call, question.frame, question.info, again))

    @rule(data=st.data(), lost=RARELY)
    def interrupt_reaches_its_agent(self, data, lost):
        """The agent kills who runs the call; a worker that has not begun it gives it back and takes no other."""
        if not self.asked:
            return
        wish = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        worker = self.workers.get(wish.channel)
        if worker is None or worker.dead or lost:
            return
        if worker.running is not None and worker.running.call_id == wish.call_id:
            worker.dead = True
        for effect in [effect for effect in worker.inbox if effect.call_id == wish.call_id]:
            worker.inbox.remove(effect)
            worker.outbox.append(Frame(RESULT, wish.call_id, NOT_STARTED))

    @rule(duration_s=st.sampled_from([0.01, 0.3, 0.6, 1.0, 2.5]))
    def wait(self, duration_s):
        self.now_s += duration_s
        self.step(Tick())

    # --- what workers do ----------------------------------------------------------------------------

    def worker_comes(self):
        number, self.next_channel = self.next_channel, self.next_channel + 1
        self.workers[number] = Worker(number)
        self.step(ChannelOpened(ChannelInfo(number, LEASE, 1, 1, number, 1, "n")))
        if number in self.workers:  # else the client is drained and has closed it
            self.workers[number].outbox.append(Frame(HELLO, credits=1))

    @precondition(lambda self: self.up and len(self.workers) < 4)
    @rule(greets=st.booleans())
    def some_worker_comes(self, greets):
        self.worker_comes()
        worker = self.workers.get(self.next_channel - 1)
        if greets and worker is not None:
            self.step(FrameArrived(worker.number, worker.outbox.pop(0)))

    @precondition(lambda self: any(w.inbox and not w.running and not w.dead for w in self.workers.values()))
    @rule(data=st.data())
    def worker_starts(self, data):
        worker = self.pick(data, lambda w: w.inbox and not w.running and not w.dead)
        self.start(worker)

    @rule(data=st.data())
    def worker_saves(self, data):
        worker = self.pick(data, lambda w: w.running and not w.dead)
        if worker is not None:
            self.saves += 1
            worker.outbox.append(Frame(CHECKPOINT, worker.running.call_id, segments=(b"%d" % self.saves,)))

    @rule(data=st.data(), last=st.booleans(), status=st.sampled_from([0, 0, EXCEPTION]))
    def worker_answers(self, data, last, status):
        worker = self.pick(data, lambda w: w.running and not w.dead)
        if worker is not None:
            self.answer(worker, credits=0 if last else 1, status=status)

    @rule(data=st.data())
    def worker_gives_back(self, data):
        worker = self.pick(data, lambda w: w.inbox and not w.running and not w.dead)
        if worker is not None:
            worker.outbox.append(Frame(RESULT, worker.inbox.pop(0).call_id, NOT_STARTED))

    @precondition(lambda self: any(w.wanted_back and not w.dead for w in self.workers.values()))
    @rule(data=st.data())
    def worker_reads_a_take_back(self, data):
        """Also while it runs a call: another thread of it does that."""
        self.give_back(self.pick(data, lambda w: w.wanted_back and not w.dead))

    def give_back(self, worker):
        call_id = worker.wanted_back.pop(0)
        if call_id == 0:
            worker.outbox.append(Frame(TAKEN, credits=7))
        for effect in [effect for effect in worker.inbox if effect.call_id == call_id]:
            worker.inbox.remove(effect)
            worker.outbox.append(Frame(TAKEN, call_id, credits=1))

    @rule(data=st.data())
    def frame_arrives(self, data):
        worker = self.pick(data, lambda w: w.outbox)
        if worker is not None:
            self.step(FrameArrived(worker.number, worker.outbox.pop(0)))

    @precondition(lambda self: any(w.running and not w.dead for w in self.workers.values()))
    @rule(data=st.data(), reason=st.sampled_from([ReasonCode.WORKER_CRASHED, ReasonCode.SLURM_PREEMPT]))
    def worker_dies_in_a_call_and_all_is_told(self, data, reason):
        worker = self.pick(data, lambda w: w.running and not w.dead)
        worker.dead = True
        self.end_channel(worker, loses_tail=False)
        verdict = Verdict(reason, last_started=worker.started, last_done=worker.done)
        self.step(ChannelsCondemned((worker.number,), verdict))

    @rule(data=st.data(), rarely=RARELY)
    def worker_dies(self, data, rarely):
        worker = self.pick(data, lambda w: not w.dead)
        if worker is not None and rarely:
            worker.dead = True

    @rule(data=st.data(), loses_tail=st.booleans())
    def channel_ends(self, data, loses_tail):
        worker = self.pick(data, lambda w: w.dead and not w.ended)
        if worker is not None:
            self.end_channel(worker, loses_tail)

    def end_channel(self, worker, loses_tail):
        while worker.outbox and not loses_tail and worker.number in self.workers:
            self.step(FrameArrived(worker.number, worker.outbox.pop(0)))
        worker.ended = True
        self.step(ChannelEnded(worker.number))

    @rule(
        data=st.data(),
        reason=st.sampled_from([ReasonCode.WORKER_CRASHED, ReasonCode.SLURM_PREEMPT, ReasonCode.WORKER_EXITED]),
    )
    def farewell(self, data, reason):
        worker = self.pick(data, lambda w: w.dead)
        if worker is not None:
            verdict = Verdict(reason, last_started=worker.started, last_done=worker.done)
            self.step(ChannelsCondemned((worker.number,), verdict))

    @rule(data=st.data(), reason=st.sampled_from([ReasonCode.AGENT_LOST, ReasonCode.NODE_DOWN]), rarely=RARELY)
    def agent_is_lost(self, data, reason, rarely):
        worker = self.pick(data, lambda w: True)
        if worker is not None and rarely:
            worker.dead = True
            self.step(ChannelsCondemned((worker.number,), Verdict(reason)))

    @rule(data=st.data(), rarely=RARELY)
    def notice(self, data, rarely):
        worker = self.pick(data, lambda w: True)
        if worker is not None and rarely:
            self.step(Notice(b"another", (worker.number,), ReasonCode.SLURM_PREEMPT, 1.0))

    @rule(error=st.sampled_from([ChannelBroken("reset"), PayloadTooLarge("large")]), rarely=RARELY)
    def next_send_fails(self, error, rarely):
        self.refuse_next = error if rarely else None

    # --- the session process ------------------------------------------------------------------------

    @precondition(lambda self: self.connecting)
    @rule(fails=RARELY)
    def joined(self, fails=False):
        self.connecting = False
        self.up = not fails
        self.step(SessionFailed(AllocatorUnavailable("no")) if fails else SessionUp(embedded=True))

    @precondition(lambda self: self.up)
    @rule(rarely=RARELY)
    def session_dies(self, rarely):
        if not rarely:
            return
        self.up = False
        self.asked.clear()
        for worker in self.workers.values():
            worker.dead = True
        self.step(SessionLost())

    @precondition(lambda self: self.up)
    @rule(rarely=RARELY)
    def denied(self, rarely):
        if rarely:
            self.step(Denied("quota", ""))

    # --- the end, and what must hold ----------------------------------------------------------------

    def teardown(self):
        self.refuse_next = None
        self.step(Shutdown())
        for _ in range(2_000):
            # a call past its deadline has failed, and its worker may run it still
            if all(call.resolved for call in self.calls) and not self.core.statistics()["running"]:
                break
            self.finish_a_bit()
        self.check_all()

    def finish_a_bit(self):
        """Good weather: everything alive answers, everything dead ends with its farewell."""
        if self.connecting:
            self.joined()
        for worker in list(self.workers.values()):
            self.finish_worker(worker)
        while self.examining:
            question = self.examining.pop()
            self.step(Examined(question.call, question.frame, question.info, False))
        if self.up and not any(not worker.dead for worker in self.workers.values()):
            self.worker_comes()
        self.wait(0.5)

    def finish_worker(self, worker):
        if worker.dead:
            if not worker.ended:
                self.end_channel(worker, loses_tail=True)
            verdict = Verdict(ReasonCode.ADMIN, last_started=worker.started, last_done=worker.done)
            self.step(ChannelsCondemned((worker.number,), verdict))
            return
        while worker.wanted_back:
            self.give_back(worker)
        while worker.outbox and worker.number in self.workers:
            self.step(FrameArrived(worker.number, worker.outbox.pop(0)))
        if worker.inbox and not worker.running:
            self.start(worker)
        if worker.running and worker.running.call.work == "init":  # what waits needs it alive
            self.answer(worker, credits=1)
            self.step(FrameArrived(worker.number, worker.outbox.pop()))
            return
        if worker.running:
            self.answer(worker, credits=0)
            worker.dead = True
        self.end_channel(worker, loses_tail=False)

    def check_all(self):
        for call in self.calls:
            (ending,) = self.endings[call]
            runs = self.executions[call]
            if isinstance(ending, Withdrawn):
                assert runs == 0
            if isinstance(ending, Fail) and not ending.error.may_have_run:
                assert runs == 0
            if isinstance(ending, Fail):
                assert ending.error.checkpoint == self.saved.get(call)
            if not call.settings.idempotent:
                assert runs <= 1
            assert runs <= 1 + call.settings.retries + RECLAIM_BUDGET
        statistics = self.core.statistics()
        assert (statistics["queued"], statistics["running"]) == (0, 0)

    @invariant()
    def no_call_ends_twice(self):
        assert all(len(endings) == 1 for endings in self.endings.values())

    @invariant()
    def every_resolved_call_has_its_ending(self):
        assert {call for call in self.calls if call.resolved} == set(self.endings)

    @invariant()
    def unresolved_calls_are_somewhere(self):
        core = self.core
        found = list(core._calls.queue)
        found += [call for call in core._timers.pending(core._calls.on_pause_over) if not call.resolved]
        found += [
            call
            for channel in core._channels
            for call in channel.running.values()
            if not call.resolved and call is not channel.chore
        ]
        found += [e.call for e in self.examining if e.call.examining is e.frame and not e.call.resolved]
        assert len(found) == len(set(found))
        assert set(found) == {call for call in self.calls if not call.resolved}
        assert core._calls.outstanding == len(found)
        for channel in core._channels:
            assert [call.behind for call in channel.running.values()] == [i > 0 for i in range(len(channel.running))]
        assert not any(call.behind for call in [*core._calls.queue, *self.calls] if call.queued)
        assert len(core._calls.queue) == sum(call.queued for call in found)


class WorldWithChores(World):
    """Each worker is initialized before its first call and leaves after its third."""

    def make_chores(self):
        return Chores(initializer="init", leave="leave", max_calls=3)

    @invariant()
    def workers_are_asked_in_order(self):
        for worker in self.workers.values():
            asked = "".join(call.work[0] for call in worker.sent.values())  # i, w, l
            assert re.fullmatch("(i(w{0,3}|w{1,3}l)?)?", asked), asked


class WorldThatResizes(World):
    """Each worker has a lease of its own; session processes die and are replaced while workers live on.

    The world remembers every lease that was given back, whoever was told: from then on its worker may die at any time,
    and the allocator may grant it once more to a session process that has not heard of it.
    """

    def __init__(self):
        self.leases = {}  # by id: number of the worker's newest channel
        self.given_back = set()
        self.heard = set()  # given back, and the session process of that moment was told
        self.target = None
        super().__init__()

    def lease_is_given_back(self, lease):
        for worker in self.workers.values():
            if worker.lease == lease:
                assert not worker.sent.keys() & set(self.core_runs(worker.number)), "given back with calls on it"
        self.given_back.add(lease)
        if self.up:
            self.heard.add(lease)

    def core_runs(self, number):
        channel = self.core._channels.get(number)
        return [] if channel is None else channel.running

    def dispatch(self, effect):
        lease = self.workers[effect.channel].lease
        assert lease not in self.given_back, "sent to a worker that was given back"
        return super().dispatch(effect)

    def worker_comes(self, lease=None):
        if lease is None:
            lease = b"lease%11d" % self.next_channel
            self.step(LeaseGranted(Lease(lease, 1, 1, b"s", "unix:@a", "n", 1, 10.0)))
        number, self.next_channel = self.next_channel, self.next_channel + 1
        self.workers[number] = Worker(number, lease=lease)
        self.leases[lease] = number
        self.step(ChannelOpened(ChannelInfo(number, lease, 1, 1, number, 1, "n")))
        if number in self.workers:
            self.workers[number].outbox.append(Frame(HELLO, credits=1))

    @rule(workers=st.sampled_from([0, 1, 1, 2, 3, 4, None]))
    def resize(self, workers):
        self.target = workers
        self.step(Resize(workers, 1))

    @precondition(lambda self: self.heard)
    @rule(data=st.data())
    def worker_that_was_given_back_dies(self, data):
        lease = data.draw(st.sampled_from(sorted(self.heard)))
        self.heard.discard(lease)
        self.end_lease(lease)

    def end_lease(self, lease):
        worker = self.workers.get(self.leases.pop(lease, 0))
        if worker is not None and not worker.ended:
            worker.dead = True
            self.end_channel(worker, loses_tail=False)
            self.farewell_of(worker)
        self.step(LeaseEnded(lease))

    def farewell_of(self, worker):
        verdict = Verdict(ReasonCode.OWNER_RELEASE, last_started=worker.started, last_done=worker.done)
        self.step(ChannelsCondemned((worker.number,), verdict))

    @precondition(lambda self: self.up)
    @rule(rarely=RARELY)
    def session_dies(self, rarely):
        """Its clients' workers live on; what it was told may have been passed on, or not."""
        if not rarely:
            return
        self.up = False
        self.asked.clear()
        self.heard.clear()
        self.step(SessionLost())

    @precondition(lambda self: self.connecting)
    @rule(fails=RARELY)
    def joined(self, fails=False):
        self.connecting = False
        self.up = not fails
        self.step(SessionFailed(AllocatorUnavailable("no")) if fails else SessionUp(embedded=False))
        if self.up:  # what was given back is said to the new one, which the allocator may grant it
            unheard = {lease for lease in self.given_back & self.leases.keys() if self.is_held(lease)}
            assert unheard <= self.heard

    def is_held(self, lease):
        return lease in self.core._leases

    @precondition(lambda self: self.up and self.given_back & self.leases.keys())
    @rule(data=st.data(), opens=st.booleans())
    def a_lease_that_was_given_back_is_offered_again(self, data, opens):
        """By an allocator, through a session process, neither of which has heard of it."""
        lease = data.draw(st.sampled_from(sorted(self.given_back & self.leases.keys())))
        self.step(LeaseGranted(Lease(lease, 1, 1, b"s", "unix:@a", "n", 1, 10.0)))
        worker = self.workers.get(self.leases[lease])
        if opens and (worker is None or worker.ended):
            self.worker_comes(lease)
            worker = self.workers.get(self.leases[lease])
            if worker is not None:
                self.step(FrameArrived(worker.number, worker.outbox.pop(0)))

    def agent_is_lost(self, data, reason, rarely):
        """Is no rule here: with it leases end, which `end_lease` says."""

    @invariant()
    def idle_workers_beyond_the_target_are_given_back(self):
        if self.target is None or self.core._calls.closing:
            return
        capacity = self.core.capacity()
        returns = self.core._returns
        kept = [one.lease for one in self.core._leases if returns.takes(one.lease)]
        if len(kept) > self.target:
            raise AssertionError(f"{len(kept)} leases take calls, {self.target} are wanted")
        for lease in returns.leaving:
            channels = self.core._channels.by_lease().get(lease, [])
            assert any(channel.running for channel in channels), "an idle worker waits to be given back"
        if returns.leaving:  # in the place of a busy one an idle one would have gone
            assert not any(channel.idle and channel.serves for channel in self.core._channels)
        assert capacity.have <= self.target

    def finish_a_bit(self):
        if self.target == 0:
            self.resize(1)
        if self.up and not any(self.is_of_use(worker) for worker in self.workers.values()):
            self.worker_comes()
        super().finish_a_bit()

    def is_of_use(self, worker):
        return not worker.dead and worker.lease not in self.given_back


WorldThatResizes.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestSchedulesThatResize = WorldThatResizes.TestCase


class WorldThatResizesWithChores(WorldThatResizes):
    """Workers that are about to go may still be in their initializer, or be asked to leave."""

    def make_chores(self):
        return Chores(initializer="init", leave="leave", max_calls=3)


WorldThatResizesWithChores.TestCase.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
TestSchedulesThatResizeWithChores = WorldThatResizesWithChores.TestCase

WorldWithChores.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestSchedulesWithChores = WorldWithChores.TestCase

World.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestSchedules = World.TestCase
