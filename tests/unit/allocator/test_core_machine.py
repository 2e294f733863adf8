"""Any order of messages, breaks, deaths and restarts keeps I1, I2, I8, I14, I17, quotas and accounts."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from rfaas.control import messages as m
from rfaas.control.lease import SERVING, LeaseState
from rfaas_allocator.policy import Policy, Quota

from .world import MIB, Agent, World

PICK = st.integers(0, 1_000_000)
POLICY = Policy(quotas={1001: Quota(cores=3, leases=2), 1002: Quota(memory_bytes=3 * MIB, workers=2)})


class Machine(RuleBasedStateMachine):
    """Rules are what may happen to the world; each delivers at most one message."""

    agents = Bundle("agents")
    holders = Bundle("holders")

    @initialize()
    def begin(self):
        self.world = World(policy=POLICY)
        self.jobs = 0
        self.dead_cores = {}  # slice id -> cores of leases whose agent died without proof

    # --- who there is ----------------------------------------------------------------------------

    @rule(
        target=agents,
        cores=st.integers(1, 4),
        memory_mib=st.integers(1, 6),
        node=st.sampled_from(["n1", "n2"]),
        has_job=st.booleans(),
    )
    def agent_starts(self, cores, memory_mib, node, has_job):
        self.jobs += 1
        job_id = str(self.jobs) if has_job else ""
        agent = self.world.agent(cores=cores, node=node, job_id=job_id, register=False, memory=memory_mib * MIB)
        self.world.connect(agent)
        return agent

    @rule(target=holders, uid=st.sampled_from([1000, 1001, 1002]))
    def holder_starts(self, uid):
        holder = self.world.holder(hello=False, uid=uid)
        self.world.connect(holder)
        return holder

    # --- what they do ----------------------------------------------------------------------------

    @rule(
        holder=holders,
        workers=st.integers(0, 6),
        request=st.integers(1, 2),
        cores=st.integers(1, 2),
        memory_mib=st.integers(1, 3),
        placement=st.sampled_from(["", "pack", "spread"]),
        lease_workers=st.integers(0, 2),
    )
    def want(self, holder, workers, request, cores, memory_mib, placement, lease_workers):
        if not holder.gone:
            holder.want(workers, request, cores, memory_mib * MIB, placement, lease_workers=lease_workers)

    @rule(holder=holders, pick=PICK)
    def release(self, holder, pick):
        if holder.granted:
            holder.release(sorted(holder.granted)[pick % len(holder.granted)])

    @rule(holder=holders)
    def holder_ends(self, holder):
        if holder.link is not None:
            holder.gone = True
            holder.wants.clear()
            holder.say(m.HolderGone(holder.holder, 12))

    @rule(agent=agents, pick=PICK, state=st.sampled_from(["ACTIVE", "DRAINING", "FENCED"]))
    def lease_moves_on(self, agent, pick, state):
        if agent.held and not agent.dead:
            agent.to(sorted(agent.held)[pick % len(agent.held)], state)

    @rule(agent=agents, pick=PICK, reason=st.sampled_from(["released", "expired", "reclaimed", "lost"]))
    def lease_ends(self, agent, pick, reason):
        if agent.held and not agent.dead:
            agent.free(sorted(agent.held)[pick % len(agent.held)], reason)

    @rule(agent=agents, pick=PICK, ns=st.integers(0, 10**12))
    def lease_costs(self, agent, pick, ns):
        if agent.held and not agent.dead:
            agent.use(sorted(agent.held)[pick % len(agent.held)], ns)

    @rule(agent=agents)
    def agent_reports_usage(self, agent):
        if not agent.dead and agent.epoch:
            agent.report_usage()

    @rule(agent=agents)
    def slice_is_reclaimed(self, agent):
        if not agent.dead and agent.epoch:
            agent.draining = True
            agent.say(m.Ending(agent.slice.slice_id, agent.epoch, 1, 5.0))

    @rule(agent=agents)
    def agent_has_its_last_word(self, agent):
        if not agent.dead and agent.draining and agent.epoch:
            agent.empty()
            agent.dead = True  # its link lives until it is read or breaks

    @rule(agent=agents)
    def agent_dies(self, agent):
        if not agent.dead:
            self._die(agent)

    def _die(self, agent):
        agent.dead = True
        for link in [link for link in self.world.links.values() if link.end is agent]:
            self.world.cut_link(link)

    @rule(agent=agents)
    def slurm_says_that_the_job_is_over(self, agent):
        if agent.slice.job_id:
            self._end_job(agent, "PREEMPTED")

    def _end_job(self, agent, why):
        for other in self.world.agents:
            if other.slice.job_id == agent.slice.job_id:
                self._die(other)
                other.held.clear()
        self.world.step(m.JobsReport(ended=(m.JobEnded(agent.slice.job_id, 0, why),)))

    @rule(target=agents, agent=agents)
    def another_agent_takes_over(self, agent):
        successor = Agent(agent.slice)
        earlier = [other for other in self.world.agents if other.slice is agent.slice]
        if all(other.dead for other in earlier):
            for other in earlier:
                other.held.clear()  # it proved that before it registered
            self.world.agents.append(successor)
            self.world.connect(successor, clean=True)
        else:
            successor.dead = True  # one lives: it has no business here
        return successor

    # --- the network and the allocator -----------------------------------------------------------

    @precondition(lambda self: self.world.links)
    @rule(pick=PICK, up=st.booleans())
    def deliver(self, pick, up):
        links = list(self.world.links.values())
        self.world.deliver(links[pick % len(links)], "up" if up else "down")

    @rule(count=st.integers(1, 4))
    def deliver_at_once(self, count):
        self.world.deliver_at_once(count)

    @rule()
    def deliver_all(self):
        self.world.settle()

    @precondition(lambda self: self.world.links)
    @rule(pick=PICK)
    def link_breaks(self, pick):
        links = list(self.world.links.values())
        self.world.cut_link(links[pick % len(links)])

    @rule(agent=agents)
    def agent_reconnects(self, agent):
        if not agent.dead:
            self.world.connect(agent)

    @rule(holder=holders)
    def holder_reconnects(self, holder):
        if not holder.gone:
            self.world.connect(holder)

    @rule()
    def allocator_crashes(self):
        self.world.crash()

    @rule(seconds=st.floats(0.1, 100))
    def time_passes(self, seconds):
        self.world.now_s += seconds

    # --- what must always hold -------------------------------------------------------------------

    @invariant()
    def a_core_belongs_to_one_lease(self):
        for agent in self.world.agents:
            cores = [core for lease in agent.held.values() for core in lease.core_ids]
            assert len(cores) == len(set(cores)), "granted twice (I1)"

    @invariant()
    def no_slice_is_given_out_beyond_its_size(self):
        for view in self.world.snapshot().slices:
            assert sum(lease.terms.cores for lease in view.leases) <= view.slice.cores
            assert sum(lease.terms.memory_bytes for lease in view.leases) <= view.slice.memory_bytes

    @invariant()
    def what_a_holder_was_told_is_durable_until_its_end(self):
        for holder in self.world.holders:
            if not holder.gone and holder.link is not None and not self._hello_is_under_way(holder):
                assert holder.granted.keys() - self._ends_under_way(holder) <= self.world.disk.leases.keys()

    def _hello_is_under_way(self, holder):
        return any(isinstance(message, m.HolderHello) for message in holder.link.up)

    def _ends_under_way(self, holder):
        links = [link for link in self.world.links.values() if link.end is holder]
        return {message.lease_id for link in links for message in link.down if isinstance(message, m.Ended)}

    @invariant()
    def a_restart_would_recover_exactly_what_is_held(self):
        held = {
            lease.terms.lease_id
            for view in self.world.snapshot().slices
            for lease in view.leases
            if lease.state != "REQUESTED"
        }
        assert held == set(self.world.disk.leases)

    @invariant()
    def what_is_kept_as_it_changes_is_what_looking_through_all_finds(self):
        inventory, now_s = self.world.core._inventory, self.world.now_s
        for entry in inventory.slices.values():
            leases = [lease.terms for lease in entry.leases.values()]
            assert entry.leased_cores == sum(terms.cores for terms in leases)
            assert entry.leased_memory_bytes == sum(terms.memory_bytes for terms in leases)
        for key, entry in inventory.wants.items():
            serving = [lease for lease in inventory.leases.values() if lease.want_key == key and self._counts(lease)]
            assert inventory.missing(key) == entry.want.workers - sum(lease.terms.workers for lease in serving)
        lacking = [key for key in inventory.wants if inventory.missing(key) > 0]
        assert [key for key, _ in inventory.lacking()] == lacking
        entries = inventory.slices.values()
        rooms = {entry.slice_id: entry.room() for entry in entries if entry.open(now_s, self.world.ttl_s)}
        found = inventory.rooms(now_s, self.world.ttl_s, without_slurm=False)
        assert {room.slice_id: room for room in found} == rooms

    def _counts(self, lease):
        if lease.lease.state is LeaseState.REQUESTED:
            return not lease.cancelled and self.world.core._inventory.slices[lease.terms.slice_id].link is not None
        return lease.lease.state in SERVING

    def teardown(self):
        """Heal everything: what the agents hold is what the allocator knows, and every want is met that can be."""
        world = getattr(self, "world", None)
        if world is None:
            return
        for holder in world.holders:
            if holder.link is None and not holder.gone:
                world.connect(holder)
        for agent in world.agents:
            alive = [other for other in world.agents if other.slice is agent.slice and not other.dead]
            if agent.slice.job_id and not alive:
                self._end_job(agent, "FAILED")
            elif agent.link is None and not agent.dead:
                world.connect(agent)
        world.settle()
        self._check_truth(world)
        self._check_accounts(world)
        self._check_wants(world)

    def _check_accounts(self, world):
        """What an agent that lives has measured is what is durable, whatever broke: nothing lost, nothing twice."""
        for agent in world.agents:
            if agent.link is not None and agent.epoch and not agent.dead:
                agent.report_usage()
                world.settle()
                for lease_id, usage in agent.used.items():
                    if lease_id in world.disk.accounts:
                        assert world.disk.accounts[lease_id].usage == usage
        living = {lease_id for lease_id, account in world.disk.accounts.items() if account.end_unix_s is None}
        assert living == set(world.disk.leases), "an account is open as long as its lease"

    def _check_truth(self, world):
        views = {view.slice.slice_id: view for view in world.snapshot().slices}
        for agent in world.agents:
            if agent.link is not None and agent.epoch and not agent.dead:
                known = {lease.terms.lease_id for lease in views[agent.slice.slice_id].leases}
                assert known == set(agent.held)

    def _check_wants(self, world):
        views = [view for view in world.snapshot().slices if view.state == "up"]
        waiting = {(entry.holder, entry.request) for entry in world.snapshot().waiting}
        for holder in world.holders:
            for want in holder.wants.values():
                serving = sum(
                    lease.terms.workers
                    for view in world.snapshot().slices
                    for lease in view.leases
                    if (lease.terms.holder, lease.terms.request) == (want.holder, want.request)
                    and lease.state in ("GRANTED", "ACTIVE")
                )
                if serving < want.workers and not self._is_beyond_quota(world, holder, want):
                    assert (want.holder, want.request) in waiting
                    room = [view for view in views if view.free_cores >= want.cores_per_worker]
                    full = [v for v in room if v.free_memory_bytes >= want.memory_bytes_per_worker]
                    assert not full, "somebody waits although there is room"

    def _is_beyond_quota(self, world, holder, want):
        """True if not one worker more is allowed: then the request waits, or was denied."""
        quota = POLICY.quota_of(holder.uid)
        terms = [x.terms for view in world.snapshot().slices for x in view.leases if x.terms.uid == holder.uid]
        wanted = (
            (quota.leases, len(terms) + 1),
            (quota.workers, sum(x.workers for x in terms) + 1),
            (quota.cores, sum(x.cores for x in terms) + want.cores_per_worker),
            (quota.memory_bytes, sum(x.memory_bytes for x in terms) + want.memory_bytes_per_worker),
        )
        return any(limit is not None and needed > limit for limit, needed in wanted)


Machine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = Machine.TestCase
