"""Any order of events: a core is held by one lease, and freed only after the proof; the agent never spins."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit.executors.agent_model import ENV, Shell

from rfaas.control.messages import EndLease, EndSlice, Propose, Refused
from rfaas_executors import agent_events as on

SESSIONS = st.integers(1, 2)
PICK = st.integers(0, 1000)

NS = st.integers(0, 10**12)
USAGE = st.builds(on.WorkerUsage, running_ns=NS, hot_ns=NS, cpu_ns=NS, calls=NS, bytes_in=NS, bytes_out=NS)


class Slice(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.shell = Shell(cores=4, end_in_s=300.0, usage_every_s=5.0)
        self.shell.up()
        self.terms = []

    def pick(self, things, n):
        return sorted(things)[n % len(things)]

    @rule(
        workers=st.integers(1, 3),
        cores=st.integers(1, 2),
        memory=st.sampled_from([1, 1 << 28, 1 << 29]),
        stale=st.booleans(),
    )
    def propose(self, workers, cores, memory, stale):
        before = self.shell.core.draining
        epoch = self.shell.core.epoch + (1 if stale else 0)
        terms = self.shell.propose(f"l{len(self.terms)}".encode(), workers, cores, memory, epoch=epoch)
        self.terms.append(terms)
        if before or stale:
            assert isinstance(self.shell.told[-1], Refused)

    @precondition(lambda self: self.terms)
    @rule(n=PICK)
    def propose_again(self, n):
        self.shell.step(on.AllocatorSaid(Propose(self.terms[n % len(self.terms)])))

    @precondition(lambda self: self.terms)
    @rule(n=PICK, session=SESSIONS, where=st.sampled_from(["/a", "/b"]))
    def attach(self, n, session, where):
        self.shell.attach(self.terms[n % len(self.terms)], session, env=ENV | {"cwd": where})

    @precondition(lambda self: self.terms)
    @rule(n=PICK, session=SESSIONS, m=st.sampled_from(["heartbeat", "release"]))
    def speak(self, n, session, m):
        lease_id = self.terms[n % len(self.terms)].lease_id
        self.shell.step(on.SessionSaid(session, {"m": m, "lease": lease_id, "leases": [lease_id], "reason_code": 6}))

    @rule(session=SESSIONS)
    def hang_up(self, session):
        self.shell.step(on.SessionGone(session))

    @precondition(lambda self: self.terms)
    @rule(n=PICK)
    def end_lease(self, n):
        self.shell.step(on.AllocatorSaid(EndLease(self.terms[n % len(self.terms)].lease_id, 12)))

    @rule(up=st.booleans())
    def link(self, up):
        self.shell.step(on.AllocatorUp() if up else on.AllocatorDown())

    @rule()
    def fork(self):
        self.shell.fork_all()

    @precondition(lambda self: self.shell.living)
    @rule(n=PICK, signo=st.sampled_from([0, 9, 11]), usage=USAGE)
    def die(self, n, signo, usage):
        self.shell.die(self.pick(self.shell.living, n), 0, signo, usage=usage)

    @rule(usages=st.lists(USAGE, max_size=4))
    def read_usage(self, usages):
        self.shell.step(on.UsageRead(dict(zip(sorted(self.shell.living), usages, strict=False))))

    @precondition(lambda self: self.shell.living)
    @rule(n=PICK)
    def overdue(self, n):
        self.shell.step(on.CallOverdue(self.pick(self.shell.living, n)))

    @precondition(lambda self: self.shell.living)
    @rule(n=PICK)
    def interrupted(self, n):
        self.shell.step(on.CallInterrupted(self.pick(self.shell.living, n)))

    @precondition(lambda self: self.terms)
    @rule(n=PICK, session=SESSIONS, slot=st.integers(0, 3), generation=st.integers(1, 3), channel=st.integers(1, 3))
    def interrupt(self, n, session, slot, generation, channel):
        words = {"m": "interrupt", "slot": slot, "generation": generation, "channel": channel, "call_id": n}
        self.shell.step(on.SessionSaid(session, words | {"lease": self.terms[n % len(self.terms)].lease_id}))

    @precondition(lambda self: self.shell.living)
    @rule(n=PICK, channel=st.integers(1, 3), had_it=st.booleans())
    def channel_ends(self, n, channel, had_it):
        self.shell.step(on.ChannelEnded(self.pick(self.shell.living, n), channel, (n, 0) if had_it else None))

    @precondition(lambda self: self.terms)
    @rule(n=PICK, slot=st.integers(0, 3), generation=st.integers(1, 3), channel=st.integers(1, 3))
    def offer(self, n, slot, generation, channel):
        terms = self.terms[n % len(self.terms)]
        answers = self.shell.step(on.DataOffered(1, terms.lease_id, slot, generation, channel))
        assert sum(isinstance(a, on.HandOver | on.TurnAway) for a in answers) == 1

    @precondition(lambda self: self.shell.templates)
    @rule(n=PICK, killed=st.booleans())
    def template_dies(self, n, killed):
        template = self.pick(self.shell.templates, n)
        mine = [w for w, worker in self.shell.core._book.workers.items() if worker.template == template]
        if any(self.shell.core._book.workers[w].pid for w in mine):
            self.shell.template_gone(template)
            for worker in mine:
                self.shell.die(worker)
        else:  # it never came up: none of its workers ever lived
            self.shell.living -= set(mine)
            self.shell.templates.discard(template)
            self.shell.step(on.TemplateFailed(template, "broken", killed))

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 10.0, 100.0]))
    def time(self, seconds):
        self.shell.pass_time(seconds)

    @rule(by_allocator=st.booleans())
    def reclaim(self, by_allocator):
        self.shell.step(on.AllocatorSaid(EndSlice(5)) if by_allocator else on.ReclaimAsked(1))

    @invariant()
    def cores_are_held_by_the_lease_that_lists_them_and_by_nobody_else(self):
        core = self.shell.core
        held = {number: lease_id for lease_id, h in core.leases.items() for number in h.core_ids}
        assert len(held) == sum(len(h.core_ids) for h in core.leases.values())
        assert [core.cores.owner(number) for number in range(4)] == [held.get(number) for number in range(4)]

    @invariant()
    def memory_is_never_held_beyond_the_slice(self):
        core = self.shell.core
        assert sum(held.terms.memory_bytes for held in core.leases.values()) <= core.config.slice.memory_bytes

    @invariant()
    def every_living_worker_sits_in_a_lease_that_is_held(self):
        assert set(self.shell.core._book.workers) == self.shell.living
        for worker in self.shell.living:
            assert self.shell.lease_of[worker] in self.shell.core.leases

    @invariant()
    def it_never_wants_to_wake_in_the_past(self):
        wake_at_s = self.shell.core.wake_at_s
        assert wake_at_s is None or wake_at_s > self.shell.now_s or self.shell.left

    @invariant()
    def it_leaves_exactly_when_nothing_lives_any_more(self):
        if self.shell.core.draining and not self.shell.core.leases and not self.shell.templates:
            assert self.shell.left

    def teardown(self):
        """From wherever it is, a reclaim ends it once everything told to die has died."""
        self.shell.step(on.ReclaimAsked(1))
        self.shell.pass_time(1000.0)
        self.shell.kill_all()
        self.shell.template_gone()
        assert self.shell.left


Slice.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestSlice = Slice.TestCase
