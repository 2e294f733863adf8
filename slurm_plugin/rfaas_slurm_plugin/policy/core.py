"""Which harvest jobs to submit: a pure function from (view, history, settings, now) to actions, with a reason a node.

No I/O, no clock: time comes in. Slurm takes back whole jobs, so an idle node becomes one slice unless `slice_cores`
says otherwise. The parts: `settings` what it is told, `rules` what is left alone, `idle_time` how long something will
stay idle, `caps` how much is allowed. The same code runs in the harvester and in the simulation.
Source: docs/slurm.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rfaas_slurm_plugin.policy.caps import Allowance
from rfaas_slurm_plugin.policy.idle_time import Expectation, Forecast, GapBook
from rfaas_slurm_plugin.policy.rules import Verdict, Why, rule_against, unwelcome_company
from rfaas_slurm_plugin.policy.settings import JOB_NAME, Caps, HarvestPolicy, Submit
from rfaas_slurm_plugin.views.view import ClusterView, Job, Node, Reservation

__all__ = ["JOB_NAME", "Caps", "Decision", "HarvestPolicy", "History", "Submit", "is_ours", "overdue", "plan"]

MAX_PER_CYCLE_S = 10.0
"""Submissions are planned for so many seconds at the most: what was true then may not be later."""


@dataclass(slots=True)
class History:
    """What the harvester remembers between cycles. Times are seconds of CLOCK_BOOTTIME."""

    taken_back_boot_s: dict[str, float] = field(default_factory=dict)  # by node
    rests: Mapping[str, str] = field(default_factory=dict)  # nodes that a neighbour guard left a while ago, and why
    last_submission_boot_s: float = float("-inf")
    submitted: list[tuple[float, Submit]] = field(default_factory=list)  # that a view may not show yet
    gaps: GapBook = field(default_factory=GapBook)

    def see(self, view: ClusterView, policy: HarvestPolicy) -> None:
        """Take a new view, before `plan` is asked about it."""
        self.gaps.look(view.nodes, _lent(view, policy), view.taken_boot_s)
        self.submitted = [(at_s, what) for at_s, what in self.submitted if at_s >= view.taken_boot_s]

    def submit(self, action: Submit, now_s: float) -> None:
        """One action of a plan was carried out."""
        self.last_submission_boot_s = now_s
        self.submitted.append((now_s, action))


@dataclass(frozen=True, slots=True)
class Decision:
    """What to submit, in this order, and the verdict on each node of the view."""

    submit: tuple[Submit, ...] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


def plan(view: ClusterView, policy: HarvestPolicy, history: History, now_s: float, now_wall_s: float) -> Decision:
    """Decide what to submit now; at most what the rate allows in a cycle.

    Asked again about the same view, after `history.submit` of what was submitted, it does not ask for that again.

    Args:
        view: the cluster, and when it was read.
        policy: the settings.
        history: what was seen and done before; not changed.
        now_s: CLOCK_BOOTTIME.
        now_wall_s: wall clock, which Slurm's times are in.
    """
    age_s = now_s - view.taken_boot_s
    if age_s > policy.max_view_age_s:
        return Decision((), dict.fromkeys((n.name for n in view.nodes), Verdict(Why.OLD_VIEW, f"{age_s:.0f} s")))
    return _Planner(view, policy, history, now_s, now_wall_s).decide()


def overdue(view: ClusterView, policy: HarvestPolicy, limit_s: float, now_wall_s: float) -> list[int]:
    """Harvest jobs that Slurm chose as victims longer than `limit_s` ago and that are still there.

    A job preempted while it was still being configured is never signalled again (slurm pull request 216): cancel it.
    """
    return [
        job.job_id
        for job in view.jobs
        if is_ours(job, policy) and not job.ended and 0 < job.preempt_time_s < now_wall_s - limit_s
    ]


def is_ours(job: Job, policy: HarvestPolicy) -> bool:
    """True for harvest jobs, whoever submitted them: they never count as somebody who waits."""
    return job.name == JOB_NAME and job.partition == policy.partition


class _Planner:
    """One decision under way."""

    def __init__(
        self, view: ClusterView, policy: HarvestPolicy, history: History, now_s: float, now_wall_s: float
    ) -> None:
        self._view = view
        self._policy = policy
        self._history = history
        self._now_s = now_s
        self._now_wall_s = now_wall_s
        ours = [job for job in view.jobs if is_ours(job, policy) and not job.ended]
        unseen = [what for at_s, what in history.submitted if at_s >= view.taken_boot_s]
        self._claims = _claims(ours, unseen)
        self._lent = _lent(view, policy)
        self._allowance = Allowance(policy, ours, unseen)
        self._forecast = Forecast(view, history.gaps, lambda job: is_ours(job, policy), now_s, now_wall_s)
        self._reservations = _next_reservations(view.reservations, now_wall_s)
        self._verdicts: dict[str, Verdict] = {}

    def decide(self) -> Decision:
        """Judge every node, then serve those that are left, the ones that will likely be of most use first."""
        company = unwelcome_company(self._view, self._policy)
        found: list[tuple[Node, int, Expectation]] = []
        for node in self._view.nodes:
            verdict = rule_against(node, self._policy, company) or self._nothing_idle(node)
            judged = verdict or self._timely(node)
            if isinstance(judged, Verdict):
                self._verdicts[node.name] = judged
            else:
                found.append((node, *judged))
        found.sort(key=lambda entry: (-entry[2].seconds * entry[0].idle_cores, -entry[0].idle_cores, entry[0].name))
        held = self._held([node for node, _, _ in found])
        actions: list[Submit] = []
        allowed = _allowed(self._policy, self._history, self._now_s)
        for node, time_limit_min, expected in found:
            if node.name in held:
                self._verdicts[node.name] = held[node.name]
            elif len(actions) >= allowed:
                self._verdicts[node.name] = Verdict(Why.RATE, f"{self._policy.max_submissions_per_s:g}")
            else:
                actions += self._slices(node, time_limit_min, expected, allowed - len(actions))
        return Decision(tuple(actions), self._verdicts)

    def _nothing_idle(self, node: Node) -> Verdict | None:
        cores, memory_mib = self._room(node)
        if cores > 0 and memory_mib >= self._policy.min_memory_mib_per_core:
            return None
        if node.name in self._claims:
            return Verdict(Why.HARVESTED, "a slice has been submitted and has not started yet")
        if lent := self._lent.get(node.name):
            return Verdict(Why.HARVESTED, f"{lent} of {node.cores} cores are in slices")
        return Verdict(Why.NO_MEMORY, f"{max(0, memory_mib)} MiB") if cores > 0 else Verdict(Why.ALLOCATED)

    def _room(self, node: Node) -> tuple[int, int]:
        """Cores and MiB that are idle there, less what our jobs will take and what is to be left."""
        cores, memory_mib = self._claims.get(node.name, (0, 0))
        policy = self._policy
        return (
            node.idle_cores - cores - policy.leave_cores,
            node.idle_memory_mib - memory_mib - policy.leave_memory_mib,
        )

    def _timely(self, node: Node) -> Verdict | tuple[int, Expectation]:
        """Is this a time to harvest the node: a slice's time limit and how long it will stay idle, or why not."""
        policy = self._policy
        since_s = self._now_s - self._history.taken_back_boot_s.get(node.name, -math.inf)
        if since_s < policy.backoff_s:
            return Verdict(Why.RESTING)
        if (words := self._history.rests.get(node.name)) is not None:
            return Verdict(Why.NEIGHBOURS, words)
        time_limit_min = policy.time_limit_min
        if (reservation := self._reservations.get(node.name)) is not None:
            limit_min = _time_limit_min(reservation, policy, self._now_wall_s)
            if limit_min is None:
                return Verdict(Why.RESERVATION, reservation.name)
            time_limit_min = limit_min
        expected = self._forecast.of(node)
        if expected.seconds < policy.min_idle_s:
            return Verdict(Why.TOO_SHORT, f"{expected.seconds:.0f} s ({expected.basis})")
        return time_limit_min, expected

    def _held(self, nodes: list[Node]) -> dict[str, Verdict]:
        """Nodes that are left to jobs which just began to wait: they are being given what our slices leave.

        As many as each asks for: those that were taken back last, then those of the least use to us. A job that asks
        for nodes by name holds these; one that does not say how many it asks for, all of its partition.
        """
        taken_s = self._history.taken_back_boot_s
        order = sorted(reversed(nodes), key=lambda node: -taken_s.get(node.name, -math.inf))
        held: dict[str, Verdict] = {}
        for job in self._view.jobs:
            if not _just_began_to_wait(job, self._policy, self._now_wall_s):
                continue
            named, verdict = frozenset(job.required_nodes), Verdict(Why.HELD, str(job.job_id))
            wanted = len(named) or job.node_count or len(order)
            for node in order:
                if wanted <= 0:
                    break
                if node.name not in held and (
                    node.name in named or (not named and job.partitions & set(node.partitions))
                ):
                    held[node.name] = verdict
                    wanted -= 1
        return held

    def _slices(self, node: Node, time_limit_min: int, expected: Expectation, allowed: int) -> Iterator[Submit]:
        """Cut what is idle on a node into slices; memory goes with the cores, in equal shares."""
        policy = self._policy
        cores, memory_mib = self._room(node)
        per_core_mib = memory_mib // cores
        if policy.max_memory_mib_per_core:
            per_core_mib = min(per_core_mib, policy.max_memory_mib_per_core)
        if per_core_mib < policy.min_memory_mib_per_core:
            cores = memory_mib // policy.min_memory_mib_per_core
            per_core_mib = policy.min_memory_mib_per_core
        lasts = "" if expected.seconds == math.inf else f" for {expected.seconds:.0f} s, it is expected"
        self._verdicts[node.name] = Verdict(Why.HARVESTED, f"its turn is now{lasts} ({expected.basis})")
        first_cores = cores
        while cores > 0 and allowed > 0:
            take = min(policy.slice_cores or cores, cores)
            fits, cap = self._allowance.cores(node.name, take, per_core_mib)
            if fits < take and (policy.slice_cores or not fits):  # slices of a given size are not cut smaller
                if cores == first_cores:
                    self._verdicts[node.name] = Verdict(Why.CAP, cap)
                return
            action = Submit(node.name, fits, fits * per_core_mib, time_limit_min)
            self._allowance.take(action)
            yield action
            cores, allowed = cores - fits, allowed - 1


def _lent(view: ClusterView, policy: HarvestPolicy) -> dict[str, int]:
    """Cores that harvest jobs have, by node; each has one node."""
    lent: dict[str, int] = defaultdict(int)
    for job in view.jobs:
        if len(job.nodes) == 1 and is_ours(job, policy) and not job.ended:
            lent[job.nodes[0]] += job.cores
    return lent


def _just_began_to_wait(job: Job, policy: HarvestPolicy, now_wall_s: float) -> bool:
    return (
        job.state == "PENDING"
        and job.reason in ("None", "Resources", "Priority", "")
        and not is_ours(job, policy)
        and now_wall_s - job.submit_time_s < policy.hold_for_pending_s
    )


def _claims(ours: Iterable[Job], unseen: Iterable[Submit]) -> Mapping[str, tuple[int, int]]:
    """Cores and MiB that our pending jobs will take on each node; running ones are in the node's own figures."""
    claims: dict[str, tuple[int, int]] = {}
    for job in ours:
        if job.state == "PENDING":
            for name in job.required_nodes:
                cores, memory = claims.get(name, (0, 0))
                claims[name] = (cores + job.cores, memory + job.memory_per_node_mib)
    for what in unseen:
        cores, memory = claims.get(what.node, (0, 0))
        claims[what.node] = (cores + what.cores, memory + what.memory_mib)
    return claims


def _allowed(policy: HarvestPolicy, history: History, now_s: float) -> int:
    """Submissions that the rate permits until the next view is due: whoever carries them out spreads them over that.

    At least a second's worth, and no more than that of MAX_PER_CYCLE_S.
    """
    cycle_s = min(max(1.0, policy.cycle_s), MAX_PER_CYCLE_S)
    wait_s = max(0.0, history.last_submission_boot_s + 1.0 / policy.max_submissions_per_s - now_s)
    return int(max(0.0, cycle_s - wait_s) * policy.max_submissions_per_s + 1e-9)


def _next_reservations(reservations: Iterable[Reservation], now_wall_s: float) -> dict[str, Reservation]:
    """By node: the first reservation that is not over."""
    found: dict[str, Reservation] = {}
    for reservation in sorted(reservations, key=lambda r: r.start_time_s):
        if reservation.end_time_s > now_wall_s:
            for name in reservation.nodes:
                found.setdefault(name, reservation)
    return found


def _time_limit_min(reservation: Reservation, policy: HarvestPolicy, now_wall_s: float) -> int | None:
    """Time limit for a slice such that it ends before the reservation; None: no slice fits.

    Slurm starts no job that could run into a reservation, so one without a limit would wait in the queue for ever.
    """
    room_min = int((reservation.start_time_s - now_wall_s - policy.reservation_margin_s) // 60)
    if room_min < policy.min_time_min:
        return None
    return min(room_min, policy.time_limit_min or room_min)
