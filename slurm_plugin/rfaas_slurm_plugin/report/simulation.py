"""The harvest policy on a cluster that is made of recorded gaps: the same code as in the harvester, a clock that jumps.

Every cycle the policy is given a view of the nodes that are in a gap, with the slices that it has there, and what it
submits begins to serve `start_s` later. Jobs take their nodes when the gap ends, whatever runs there: that is a
preemption. Nodes that are wholly allocated, to jobs or (without caps, which count them) to slices that an earlier view
has shown, are left out of the view: the policy never submits anything there. A cycle in which nothing changed and
nothing was left to do would decide the same again, and is skipped.

What it does not know: how long slurmctld takes, jobs that use a node's cores partly, and whatever the record does not
show (`gaps`). Pure but for the progress that it reports.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from rfaas_slurm_plugin.policy.core import History, plan
from rfaas_slurm_plugin.policy.settings import JOB_NAME, HarvestPolicy, Submit
from rfaas_slurm_plugin.report.gaps import Gap
from rfaas_slurm_plugin.views.view import ClusterView, Job, Node

QUIET_CYCLES: Final = 2
"""After so many cycles without a submission and without a change the next change is waited for."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the real system takes, as measured on it."""

    start_s: float = 3.0  # from sbatch to workers that serve
    give_back_s: float = 0.5  # of a slice's end that serves nobody: notice, drain, proof of death


@dataclass(slots=True)
class Outcome:
    """What came of it. Core-seconds are cores times seconds in which workers could serve."""

    idle_core_s: float = 0.0  # of all gaps
    idle_long_core_s: float = 0.0  # of gaps of at least `long_s`
    recovered_core_s: float = 0.0
    recovered_long_core_s: float = 0.0
    submissions: int = 0
    preemptions: int = 0
    useless: int = 0  # of these: before a worker could serve
    ended_by_limit: int = 0
    leases_s: list[float] = field(default_factory=list)  # how long each slice served
    cycles: int = 0
    idle_nodes: tuple[list[float], list[int]] = field(default_factory=lambda: ([], []))
    serving_nodes: tuple[list[float], list[int]] = field(default_factory=lambda: ([], []))

    @property
    def share_of_long(self) -> float:
        """Recovered share of the idle core-seconds in long gaps."""
        return self.recovered_long_core_s / self.idle_long_core_s if self.idle_long_core_s else 0.0


@dataclass(slots=True)
class _Slice:
    """One harvest job under way."""

    job: Job
    gap: Gap
    began_s: float
    serves_s: float
    limit_s: float  # when its time limit ends it; infinite: never


class Simulation:
    """One run.

    Args:
        gaps: by their start.
        cores: of each node.
        memory_mib: of each node.
        policy: with its cycle.
        costs: of a slice.
        long_s: gaps of at least so long are counted apart.
    """

    def __init__(
        self,
        gaps: Sequence[Gap],
        cores: int,
        memory_mib: int,
        policy: HarvestPolicy,
        costs: Costs | None = None,
        long_s: float = 60.0,
    ) -> None:
        self._gaps = gaps
        self._policy = policy
        self._costs = costs or Costs()
        self._long_s = long_s
        self._blank = Node("", "", frozenset({"IDLE"}), (policy.partition,), cores, 0, memory_mib, 0, 0)
        self._idle: dict[str, tuple[Gap, Node]] = {}
        self._ends: list[tuple[float, int, str]] = []  # of gaps under way
        self._slices: dict[str, list[_Slice]] = {}
        self._limits: list[tuple[float, int, str]] = []
        self._left: dict[str, Node] = {}  # nodes that a job has taken since the last view
        self._shown: dict[str, tuple[Node, list[Job]]] = {}  # as views show them
        self._open: dict[str, None] = {}  # idle nodes with idle cores, or whose slices no view has shown yet, in order
        self._full: list[str] = []  # of these: shown with nothing left to harvest
        self._capped = any(max(dataclasses.astuple(caps)) for caps in (policy.caps, policy.user_caps))
        self._history = History()
        self._next_id = 1
        self.outcome = Outcome()

    def run(self, progress: Callable[[float], None] = lambda share: None) -> Outcome:
        """From the first gap's start until the last one's end; `progress` hears of it now and then."""
        place, now_s = 0, self._gaps[0].start_s
        last_s = max(gap.end_s for gap in self._gaps)
        quiet = 0
        while now_s <= last_s:
            changed = False
            while place < len(self._gaps) and self._gaps[place].start_s <= now_s:
                self._begin(self._gaps[place])
                place, changed = place + 1, True
            changed |= self._end_until(now_s)
            acted = self._cycle(now_s)
            quiet = 0 if changed or acted else quiet + 1
            now_s += self._policy.cycle_s
            if quiet >= QUIET_CYCLES:
                now_s = max(now_s, self._next_change_s(place, now_s))
            if self.outcome.cycles % 1000 == 0:
                progress((now_s - self._gaps[0].start_s) / (last_s - self._gaps[0].start_s or 1.0))
        self._end_until(float("inf"))
        return self.outcome

    def _next_change_s(self, place: int, now_s: float) -> float:
        """The first cycle after something changes: a multiple of cycles from now."""
        at_s = min(
            self._gaps[place].start_s if place < len(self._gaps) else float("inf"),
            self._ends[0][0] if self._ends else float("inf"),
            self._limits[0][0] if self._limits else float("inf"),
        )
        if at_s == float("inf"):
            return now_s
        cycle_s = self._policy.cycle_s
        return now_s + max(0.0, -(-(at_s - now_s) // cycle_s)) * cycle_s

    # --- the cluster ------------------------------------------------------------------------------

    def _begin(self, gap: Gap) -> None:
        name = f"n{gap.node}"
        core_s = gap.length_s * self._blank.cores
        self.outcome.idle_core_s += core_s
        if gap.length_s >= self._long_s:
            self.outcome.idle_long_core_s += core_s
        self._end_until(gap.start_s)  # the gap before on the same node may not have been noticed yet
        self._left.pop(name, None)
        self._idle[name] = gap, replace(self._blank, name=name, address=name)
        self._open[name] = None
        heapq.heappush(self._ends, (gap.end_s, gap.node, name))
        self._note(gap.start_s)

    def _end_until(self, now_s: float) -> bool:
        """Jobs take their nodes, limits end slices, in the order of time; True if something did."""
        changed = False
        while self._ends or self._limits:
            by_limit = bool(self._limits) and (not self._ends or self._limits[0][0] < self._ends[0][0])
            at_s, _, name = (self._limits if by_limit else self._ends)[0]
            if at_s > now_s:
                break
            heapq.heappop(self._limits if by_limit else self._ends)
            changed = True
            if by_limit:
                self._limit(name, at_s)
            else:
                self._take(name, at_s)
        return changed

    def _take(self, name: str, at_s: float) -> None:
        """A job takes the node; slices that are there are preempted."""
        _, node = self._idle.pop(name)
        self._shown.pop(name, None)
        self._open.pop(name, None)
        slices = self._slices.pop(name, [])
        for one in slices:
            self.outcome.preemptions += 1
            self.outcome.useless += at_s - self._costs.give_back_s <= one.serves_s
            self._count(one, at_s)
        if slices:
            self._history.taken_back_boot_s[name] = at_s
        self._left[name] = replace(node, allocated_cores=node.cores, allocated_memory_mib=node.memory_mib)
        self._note(at_s)

    def _limit(self, name: str, at_s: float) -> None:
        slices = self._slices.get(name, [])
        for one in [one for one in slices if one.limit_s <= at_s]:
            self.outcome.ended_by_limit += 1
            slices.remove(one)
            self._count(one, at_s)
        self._shown.pop(name, None)
        self._open[name] = None
        if not slices:
            self._slices.pop(name, None)
        self._note(at_s)

    def _count(self, one: _Slice, at_s: float) -> None:
        served_s = max(0.0, at_s - self._costs.give_back_s - one.serves_s)
        core_s = served_s * one.job.cores
        self.outcome.leases_s.append(served_s)
        self.outcome.recovered_core_s += core_s
        if one.gap.length_s >= self._long_s:
            self.outcome.recovered_long_core_s += core_s

    def _note(self, at_s: float) -> None:
        for curve, value in (
            (self.outcome.idle_nodes, len(self._idle)),
            (self.outcome.serving_nodes, len(self._slices)),
        ):
            if curve[0] and curve[0][-1] == at_s:
                curve[1][-1] = value
            else:
                curve[0].append(at_s)
                curve[1].append(value)

    # --- the harvester ----------------------------------------------------------------------------

    def _cycle(self, now_s: float) -> bool:
        """One view, one plan; True if the policy had more to submit or will, once something has rested."""
        self.outcome.cycles += 1
        nodes, jobs = list(self._left.values()), []
        self._left.clear()
        for name in self._idle if self._capped else self._open:
            node, its_jobs = self._shown.get(name) or self._show(name)
            nodes.append(node)
            jobs += its_jobs
        for name in self._full:
            self._open.pop(name, None)
        self._full.clear()
        view = ClusterView(now_s, tuple(nodes), tuple(jobs))
        self._history.see(view, self._policy)
        actions = plan(view, self._policy, self._history, now_s, now_s).submit
        for n, action in enumerate(actions):
            at_s = now_s + n / self._policy.max_submissions_per_s
            self._history.submit(action, at_s)
            self._submit(action, at_s)
        resting = any(now_s - at_s < self._policy.backoff_s for at_s in self._history.taken_back_boot_s.values())
        if not resting:
            self._history.taken_back_boot_s.clear()
        return bool(actions) or resting

    def _show(self, name: str) -> tuple[Node, list[Job]]:
        """The node as a view shows it, with the slices that it has; kept until that changes."""
        _, node = self._idle[name]
        jobs = [one.job for one in self._slices.get(name, ())]
        if jobs:
            taken = sum(job.cores for job in jobs), sum(job.memory_per_node_mib for job in jobs)
            node = replace(node, allocated_cores=taken[0], allocated_memory_mib=taken[1])
        self._shown[name] = node, jobs
        if not node.idle_cores:
            self._full.append(name)
        return node, jobs

    def _submit(self, action: Submit, at_s: float) -> None:
        self.outcome.submissions += 1
        gap, _ = self._idle[action.node]
        if at_s >= gap.end_s:
            return  # the node has gone meanwhile: the job waits and is cancelled
        job = Job(
            *(self._next_id, JOB_NAME, "sim", self._policy.partition, "RUNNING", "", (action.node,), ()),
            *(action.cores, action.memory_mib, "", int(at_s), int(at_s), 0),
        )
        limit_s = at_s + 60.0 * action.time_limit_min if action.time_limit_min else float("inf")
        one = _Slice(job, gap, at_s, at_s + self._costs.start_s, limit_s)
        self._slices.setdefault(action.node, []).append(one)
        self._shown.pop(action.node, None)
        self._open[action.node] = None
        if limit_s < float("inf"):
            heapq.heappush(self._limits, (limit_s, self._next_id, action.node))
        self._next_id += 1
        self._note(at_s)
