"""A small world around one AllocatorCore: agents that tell the truth, holders, links that lose what they carry, a disk.

Everything is plain values and one thread; a test delivers messages one at a time, or all with `settle`.
"""

import itertools
from collections import deque

from rfaas.control import messages as m
from rfaas_allocator.core import AllocatorCore
from rfaas_allocator.events import (
    AccountIs,
    AgentLinkBroke,
    AgentSaid,
    CloseLink,
    CounterIs,
    Happened,
    HolderLinkBroke,
    HolderSaid,
    HostsAre,
    LeaseIs,
    LeaseIsOver,
    LinkId,
    PairIs,
    PairIsForgotten,
    Persist,
    Recovered,
    SliceIs,
    SliceIsForgotten,
    SliceIsOver,
    ToAgent,
    ToHolder,
)

MIB = 2**20
_numbers = itertools.count(1)


def some_id(prefix=b"x"):
    """16 bytes, different each time."""
    return prefix[:8].ljust(8, b".") + next(_numbers).to_bytes(8, "big")


def only(items):
    """The one item there is."""
    (item,) = items
    return item


class Disk:
    """What was made durable, record by record: the meaning of a journal in a few lines."""

    def __init__(self, counters_rise=True):
        self.counters, self.slices, self.leases, self.over = {}, {}, {}, {}
        self.accounts, self.hosts, self.pairs = {}, {}, {}
        self.counters_rise = counters_rise

    def commit(self, records):
        for record in records:
            match record:
                case CounterIs():
                    rises = record.value > self.counters.get(record.name, 0)
                    assert rises or not self.counters_rise, "counters only rise (I14)"
                    self.counters[record.name] = record.value
                case SliceIs():
                    self.slices[record.slice.slice_id] = record
                case SliceIsOver():
                    self.slices.pop(record.slice_id, None)
                    self.over.pop(record.slice_id, None)
                    self.over[record.slice_id] = None
                case SliceIsForgotten():
                    self.slices.pop(record.slice_id, None)
                case LeaseIs():
                    self.leases[record.held.terms.lease_id] = record
                case LeaseIsOver():
                    self.leases.pop(record.lease_id, None)
                case AccountIs():
                    before = self.accounts.get(record.account.lease_id, record.account)
                    assert record.account.usage.highest(before.usage) == record.account.usage, "numbers only rise"
                    self.accounts[record.account.lease_id] = record.account
                case HostsAre():
                    self.hosts[record.source] = record.hosts
                case PairIs():
                    self.pairs[record.host, record.kind] = record
                case PairIsForgotten():
                    self.pairs.pop((record.host, record.kind), None)

    def recovered(self):
        return Recovered(
            dict(self.counters),
            list(self.slices.values()),
            list(self.over),
            list(self.leases.values()),
            list(self.accounts.values()),
            dict(self.hosts),
            sorted(self.pairs.values(), key=lambda pair: pair.until_unix_s),
        )


class Link:
    """Both directions of a stream."""

    def __init__(self, end):
        self.number = LinkId(next(_numbers))
        self.end = end
        self.up, self.down = deque(), deque()


class Agent:
    """An agent as the allocator meets it: it accepts what fits, and knows what it holds."""

    def __init__(self, slice_, instance=None):
        self.slice = slice_
        self.instance = instance or some_id(b"inst")
        self.epoch = 0
        self.held = {}  # lease id -> HeldLease
        self.used = {}  # lease id -> Usage, of ended ones too
        self.link = None
        self.draining = False
        self.told_to_leave = []  # reason codes
        self.clean = False
        self.dead = False
        self.refuse_with = None

    def say(self, message):
        if self.link is not None:
            self.link.up.append(message)

    def register(self, *, clean=False):
        held = tuple(self.held.values())
        self.clean = self.clean or clean  # what it has proven once it says each time
        self.say(m.Register(self.slice, self.instance, self.epoch, held, self.draining, self.clean))

    def free_cores(self):
        used = {core for lease in self.held.values() for core in lease.core_ids}
        return [core for core in range(self.slice.cores) if core not in used]

    def free_memory_bytes(self):
        return self.slice.memory_bytes - sum(lease.terms.memory_bytes for lease in self.held.values())

    def hear(self, message):
        match message:
            case m.Registered():
                assert message.epoch >= self.epoch, "an agent's epoch never decreases (I14)"
                self.epoch = message.epoch
                if self.used:
                    self.report_usage()
            case m.Propose():
                self._propose(message.terms)
            case m.EndLease():
                if message.lease_id in self.held:
                    self.free(message.lease_id, "released", message.reason_code)
            case m.EndSlice():
                self.draining = True
                self.told_to_leave.append(message.reason_code)

    def _propose(self, terms):
        known = self.held.get(terms.lease_id)
        free = self.free_cores()
        code = self.refuse_with
        if terms.epoch != self.epoch:
            code = "stale-epoch"
        elif self.draining:
            code = "draining"
        elif known is None and (len(free) < terms.cores or self.free_memory_bytes() < terms.memory_bytes):
            code = "no-room"
        if code:
            self.say(m.Refused(terms.lease_id, self.epoch, code))
            return
        if known is None:
            known = self.held[terms.lease_id] = m.HeldLease(terms, tuple(free[: terms.cores]), "GRANTED")
        self.say(m.Accepted(terms.lease_id, self.epoch, known.core_ids))

    def to(self, lease_id, state):
        held = self.held[lease_id]
        self.held[lease_id] = m.HeldLease(held.terms, held.core_ids, state)
        self.say(m.StateChanged(lease_id, self.epoch, state))

    def use(self, lease_id, ns):
        """A lease costs so much more."""
        before = self.used.get(lease_id, m.Usage())
        self.used[lease_id] = m.Usage(before.allocated_ns + ns, calls=before.calls + 1)

    def report_usage(self):
        pairs = tuple(m.LeaseUsage(lease_id, usage) for lease_id, usage in self.used.items())
        self.say(m.UsageReport(self.epoch, pairs))

    def free(self, lease_id, reason, code=0):
        del self.held[lease_id]
        self.say(m.Freed(lease_id, self.epoch, reason, code, self.used.get(lease_id, m.Usage())))

    def empty(self):
        for lease_id in list(self.held):
            self.free(lease_id, "reclaimed", 1)
        self.say(m.SliceEmpty(self.slice.slice_id, self.epoch))


class Holder:
    """A client, with what it was told."""

    def __init__(self, name="holder", uid=1000):
        self.holder = some_id(b"hold")
        self.uid = uid
        self.name = name
        self.link = None
        self.granted = {}  # lease id -> Granted
        self.wants = {}  # request -> Want
        self.heard = []
        self.gone = False

    def say(self, message):
        if self.link is not None:
            self.link.up.append(message)

    def hello(self):
        self.say(m.HolderHello(self.holder, self.uid, self.name, tuple(self.granted)))
        for want in self.wants.values():
            self.say(want)

    def want(self, workers, request=1, cores=1, memory=MIB, placement="", kind="", lease_workers=0, load=""):
        self.wants[request] = m.Want(self.holder, request, workers, cores, memory, placement, kind, lease_workers, load)
        self.say(self.wants[request])

    def release(self, lease_id, code=6):
        self.say(m.ReleaseLease(self.holder, lease_id, code))

    def hear(self, message):
        self.heard.append(message)
        match message:
            case m.Granted():
                assert message.terms.holder == self.holder
                self.granted[message.terms.lease_id] = message
            case m.Ended():
                self.granted.pop(message.lease_id, None)

    @property
    def workers(self):
        return sum(granted.terms.workers for granted in self.granted.values())


class World:
    """The core, its disk, and everybody who talks to it."""

    def __init__(self, ttl_s=10.0, policy=None):
        self.disk = Disk()
        self.policy = policy
        self.now_s = 1000.0
        self.ttl_s = ttl_s
        self.links = {}
        self.agents, self.holders = [], []
        self.happened = []
        self.seen_seqs = set()
        self.core = None
        self.start()

    def start(self):
        self.core = AllocatorCore(
            self.disk.recovered(),
            now_s=self.now_s,
            ttl_s=self.ttl_s,
            new_id=some_id,
            policy=self.policy,
            unix_offset_s=1_000_000.0,
        )
        self._carry_out(self.core.start())

    def crash(self):
        """The allocator dies: links break, what was not durable is gone. `start` begins anew."""
        for link in list(self.links.values()):
            link.end.link = None
        self.links.clear()
        self.core = None
        self.start()

    # --- people ----------------------------------------------------------------------------------

    def agent(self, cores=4, memory=1024 * MIB, node="n1", job_id="", register=True, slice_id=None, **about):
        slice_ = m.Slice(slice_id or some_id(b"slice"), node, cores, memory, "unix:@agent", job_id=job_id, **about)
        agent = Agent(slice_)
        self.agents.append(agent)
        if register:
            self.connect(agent)
            self.settle()
        return agent

    def holder(self, hello=True, uid=1000):
        holder = Holder(uid=uid)
        self.holders.append(holder)
        if hello:
            self.connect(holder)
            self.settle()
        return holder

    def connect(self, end, **how):
        link = Link(end)
        self.links[link.number] = link
        end.link = link
        if isinstance(end, Agent):
            end.register(**how)
        else:
            end.hello()
        return link

    def cut(self, end):
        """A link breaks: what it still carried is lost, both sides notice."""
        self.cut_link(end.link)

    def cut_link(self, link):
        """As `cut`, of a link that may not be its owner's newest."""
        del self.links[link.number]
        if link.end.link is link:
            link.end.link = None
        broke = AgentLinkBroke if isinstance(link.end, Agent) else HolderLinkBroke
        self.step(broke(link.number))

    # --- delivery --------------------------------------------------------------------------------

    def step(self, event):
        self._carry_out(self.core.step(event, self.now_s))

    def _carry_out(self, effects):
        self.disk.commit([effect.record for effect in effects if isinstance(effect, Persist)])
        for effect in effects:
            match effect:
                case ToAgent() | ToHolder():
                    if effect.link in self.links:
                        self._check_durable(effect.message)
                        self.links[effect.link].down.append(effect.message)
                case CloseLink():
                    if effect.link in self.links:
                        self.cut_link(self.links[effect.link])
                case Happened():
                    self.happened.append(effect)

    def _check_durable(self, message):
        """Nothing is said that a restart would not know (I8)."""
        match message:
            case m.Registered():
                assert message.epoch <= self.disk.counters["epoch"]
                assert message.alloc_epoch == self.disk.counters["alloc_epoch"]
            case m.Propose():
                assert message.terms.lease_seq <= self.disk.counters["lease_seq"]
                assert message.terms.lease_seq not in self.seen_seqs, "a lease_seq is used once"
                self.seen_seqs.add(message.terms.lease_seq)
                self._check_quota(message.terms.uid)
            case m.Granted():
                assert message.terms.lease_id in self.disk.leases

    def _check_quota(self, uid):
        """Nothing is proposed that takes a user beyond the quota."""
        if self.policy is not None:
            terms = [lease.terms for view in self.snapshot().slices for lease in view.leases if lease.terms.uid == uid]
            quota = self.policy.quota_of(uid)
            held = (
                (quota.leases, len(terms)),
                (quota.workers, sum(each.workers for each in terms)),
                (quota.cores, sum(each.cores for each in terms)),
                (quota.memory_bytes, sum(each.memory_bytes for each in terms)),
            )
            assert all(limit is None or used <= limit for limit, used in held), "granted beyond the quota"

    def deliver(self, link, direction):
        """Deliver the oldest message of one direction, if there is one."""
        if direction == "up" and link.up:
            said = AgentSaid if isinstance(link.end, Agent) else HolderSaid
            self.step(said(link.number, link.up.popleft()))
        elif direction == "down" and link.down:
            link.end.hear(link.down.popleft())

    def deliver_at_once(self, count):
        """The allocator reads the oldest messages of all links in one go, up to `count` of each."""
        events = []
        for link in self.links.values():
            said = AgentSaid if isinstance(link.end, Agent) else HolderSaid
            events += [said(link.number, link.up.popleft()) for _ in range(min(count, len(link.up)))]
        self._carry_out(self.core.steps(events, self.now_s))

    def settle(self):
        """Deliver everything until nobody has anything to say."""
        while busy := [link for link in self.links.values() if link.up or link.down]:
            for link in busy:
                self.deliver(link, "up")
                self.deliver(link, "down")

    # --- questions -------------------------------------------------------------------------------

    def snapshot(self):
        return self.core.snapshot(self.now_s)

    def view(self, agent):
        return next(view for view in self.snapshot().slices if view.slice.slice_id == agent.slice.slice_id)

    def kinds(self):
        return [one.kind for one in self.happened]


def reclaimable(world, job_id="17", submit_time_s=5):
    """An agent of a Slurm job, a holder of two of its cores, and the lease."""
    agent, holder = world.agent(cores=2, job_id=job_id, submit_time_s=submit_time_s), world.holder()
    holder.want(2)
    world.settle()
    return agent, holder, only(holder.granted)
