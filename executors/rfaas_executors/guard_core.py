"""The neighbour guard's decisions: do functions slow the host job, and what is done about it.

`step(look, now_s) -> effects`, sans-IO: the shell looks (`guard_watch`), paces the workers (`pacing`) and carries
verdicts to the agent's core. The host is compared with itself, beside functions and without: times in which none runs
are used, and where there are none a short *probe* holds them. Ladder: throttle (the share of time in which each worker
runs), move (drain the leases, refuse others for a while), leave (give back the slice). Every step down follows a
measured slowdown. Source: docs/adr/0028.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from rfaas.control.messages import Neighbours
from rfaas_executors.guard_samples import LEAST, Comparison, Samples

ACTS: Final = ("off", "watch", "throttle", "move", "leave")
"""How far the guard may go."""

LEAST_SHARE: Final = 0.1  # below, throttling costs the functions more than moving does
PROBE_S: Final = 0.2  # the shortest; long enough for LEAST iterations of most codes at a step of a few milliseconds
LONGEST_PROBE_S: Final = 4.0
PROBE_PART: Final = 0.04  # of the time at most is spent on probes while nothing is felt
SETTLE_S: Final = 0.5  # after a change of pace, before its effect is judged
EASE_S: Final = 5.0  # without complaint before functions get more; doubled each time that was wrong
LONGEST_EASE_S: Final = 300.0
STRIKES: Final = 2  # judgements at the least share before leases are moved
MOVES: Final = 2  # before the slice is left
FIRST_CLOSED_S, LONGEST_CLOSED_S = 30.0, 3600.0
MOST_STEAL: Final = 0.05  # of a look: more, and somebody above this machine slows everybody
BUSY, QUIET = 0.5, 0.0  # of a look, functions ran: at least, at most
FORGOTTEN_AFTER_S: Final = 10.0  # a source that says nothing for so long is gone

Act = Literal["off", "watch", "throttle", "move", "leave"]


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """What the site allows.

    Args:
        slowdown: bound on the host's median iteration, 0.03 is 3 %.
        tail: bound on its 99th percentile.
        act: the furthest step that may be taken.
        moved: how often leases were moved from this node before, as the file of rests remembers it.
    """

    slowdown: float = 0.03
    tail: float = 0.10
    act: Act = "leave"
    moved: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen since the last look.

    Attributes:
        iterations: by source (one a marking process), each iteration that ended: (begin, end) in seconds of the clock
            of `step`.
        stretches: by watch ("run queue", "pressure"), wall time over useful time of the host's tasks; 1 is undisturbed.
        functions: part of the time in which some worker had a call under way, held ones too.
        steal: part of the time that a hypervisor took.
        host: the host job's program, or empty.
    """

    iterations: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    stretches: Mapping[str, float] = field(default_factory=dict)
    functions: float = 0.0
    steal: float = 0.0
    host: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """Let each worker run this share of the time; 1: freely, 0: hold all."""

    share: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, for event log, allocator and people; `move` and `leave` are for the agent's core to carry out."""

    about: Neighbours


Effect = Pace | Judged


class GuardCore:
    """One slice's guard. Not thread-safe.

    Args:
        now_s: the clock of all steps, at the start.
    """

    def __init__(self, config: GuardConfig, now_s: float) -> None:
        self.config = config
        self.share = 1.0  # what workers get outside of probes
        self.probing = False
        self.closed_until_s = 0.0
        self.moves = config.moved
        self.comparison: Comparison | None = None  # the worst of the last judgement
        self._host = ""
        self._sources: dict[str, Samples] = {}
        self._spans: deque[tuple[float, float, str]] = deque(maxlen=512)  # begin, end, "quiet" | "beside" | "mixed"
        self._last_s = self._changed_s = self._judged_s = now_s
        self._calm_since_s = now_s
        self._ease_s = EASE_S
        self._eased = False  # the last change gave functions more
        self._strikes = 0
        self._probe_until_s = self._next_probe_s = now_s
        self._effects: list[Effect] = []

    def step(self, look: Look, now_s: float) -> list[Effect]:
        """Take one look; the time since the last one is what it covers."""
        self._effects = []
        if self.config.act == "off":
            return []
        self._note(look, now_s)
        if look.host != self._host:
            self._meet(look.host, now_s)
        self._probe(look, now_s)
        if self.open(now_s) and not self.probing and now_s >= max(self._changed_s, self._judged_s) + SETTLE_S:
            self._judged_s = now_s
            self._judge(now_s)
        self._last_s = now_s
        return self._effects

    def stop(self) -> list[Effect]:
        """The slice goes back: nobody is held any more, and nothing is judged."""
        self.config = replace(self.config, act="off")
        self.share, self.probing = 1.0, False
        return [Pace(1.0)]

    def open(self, now_s: float) -> bool:
        """True if leases may be accepted: none was moved away a short while ago."""
        return now_s >= self.closed_until_s

    # --- samples --------------------------------------------------------------------------------

    def _note(self, look: Look, now_s: float) -> None:
        """Sort what was seen into times with functions and without; what lies in both, or under steal, is dropped."""
        kind = "mixed"
        if look.steal <= MOST_STEAL:
            if self.probing or look.functions <= QUIET:
                kind = "quiet"
            elif look.functions >= BUSY:
                kind = "beside"
        self._spans.append((self._last_s, now_s, kind))
        for source, iterations in look.iterations.items():
            samples = self._sources.setdefault(source, Samples())
            for begin_s, end_s in iterations:
                found = self._kind_of(begin_s, end_s)
                samples.heard_s = max(samples.heard_s, end_s)
                if found != "mixed":
                    samples.add(end_s - begin_s, end_s, quiet=found == "quiet")
        for watch, stretch in look.stretches.items():
            if kind != "mixed":
                self._sources.setdefault(watch, Samples()).add(stretch, now_s, quiet=kind == "quiet")
        gone = [name for name, one in self._sources.items() if one.heard_s < now_s - FORGOTTEN_AFTER_S and one.heard_s]
        for name in gone:
            del self._sources[name]

    def _kind_of(self, begin_s: float, end_s: float) -> str:
        kinds = {kind for first_s, last_s, kind in self._spans if first_s < end_s and last_s > begin_s}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def _meet(self, host: str, now_s: float) -> None:
        """Another program is the neighbour: what was known of the last one says nothing about it."""
        self._host = host
        self._sources = {name: one for name, one in self._sources.items() if not one.beside and not one.quiet}
        self._strikes, self._ease_s, self._calm_since_s = 0, EASE_S, now_s
        self.comparison = None
        self._set_share(1.0, now_s)
        words = f"{host} runs beside the slice" if host else "no job that could be watched runs beside the slice"
        self._say("watch", "", words, now_s)

    # --- probes ---------------------------------------------------------------------------------

    def _probe(self, look: Look, now_s: float) -> None:
        """Hold the functions for a moment if nothing is known of the host without them."""
        if self.probing:
            if now_s < self._probe_until_s:
                return
            self.probing = False
            self._changed_s = now_s - SETTLE_S  # the pace is the one of before
            self._effects.append(Pace(self.share))
        elif look.functions > QUIET and now_s >= self._next_probe_s and self.config.act != "watch" and self._sources:
            lacking = any(one.n_quiet(now_s) < 3 * LEAST for one in self._sources.values())
            stale_s = max((one.quiet[-1][0] for one in self._sources.values() if one.quiet), default=0.0)
            length_s = self._probe_length_s()
            due = lacking or now_s - stale_s > length_s / PROBE_PART
            if due and length_s <= LONGEST_PROBE_S:  # else no probe would ever see an iteration whole
                self.probing, self._probe_until_s = True, now_s + length_s
                self._next_probe_s = now_s + length_s / PROBE_PART
                self._effects.append(Pace(0.0))

    def _probe_length_s(self) -> float:
        """Time for LEAST iterations and one that is cut at each end; of long ones, for fewer, but one at least."""
        longest_s = 0.0
        for name, one in self._sources.items():
            if name.startswith("marks"):
                values = [value for _, value in one.quiet] or list(one.beside)
                longest_s = max(longest_s, sorted(values)[len(values) // 2] if values else 0.0)
        wanted_s = max(PROBE_S, (LEAST + 2) * longest_s)
        return wanted_s if 2 * longest_s > LONGEST_PROBE_S else min(LONGEST_PROBE_S, wanted_s)

    # --- judgements -----------------------------------------------------------------------------

    def _judge(self, now_s: float) -> None:
        found = {name: one.compare(now_s) for name, one in self._sources.items()}
        known = {name: one for name, one in found.items() if one is not None}
        if not known:
            return
        watch, worst = max(known.items(), key=lambda pair: self._excess(pair[1]))
        self.comparison = worst
        excess = self._excess(worst)
        if excess > 1.0:
            self._slow_down(watch, worst, excess, now_s)
        elif excess > 0.5:
            self._calm_since_s = now_s  # neither felt nor far from it: leave it so
        elif self.share < 1.0 and now_s - self._calm_since_s >= self._ease_s:
            self._calm_since_s, self._strikes, self._eased = now_s, 0, True
            self._set_share(min(1.0, self.share * 1.25 + 0.02), now_s)
            self._say("ease", watch, f"{self._words(worst)}: functions get more again", now_s)

    def _excess(self, found: Comparison) -> float:
        """How far beyond the bounds it is; 1: at a bound. Noise is no slowdown."""
        of_median = (found.median - found.error) / self.config.slowdown if found.certain else 0.0
        return max(of_median, found.sure_tail / self.config.tail, 0.0)

    def _slow_down(self, watch: str, worst: Comparison, excess: float, now_s: float) -> None:
        if self.config.act == "watch":
            if now_s - self._calm_since_s >= EASE_S:
                self._calm_since_s = now_s
                self._say("watch", watch, f"{self._words(worst)}: the guard may only watch", now_s)
            return
        if self._eased:  # too early
            self._ease_s = min(LONGEST_EASE_S, 2 * self._ease_s)
        self._eased = False
        self._calm_since_s = now_s
        if self.share > LEAST_SHARE:
            self._set_share(max(LEAST_SHARE, self.share * min(0.8, max(0.25, 0.9 / excess))), now_s)
            self._begin_anew(now_s)
            self._say("throttle", watch, f"{self._words(worst)}: each worker runs {self.share:.0%} of the time", now_s)
            return
        self._strikes += 1
        self._changed_s = now_s
        self._begin_anew(now_s)
        if self._strikes < STRIKES or self.config.act == "throttle":
            return
        self._send_away(watch, worst, now_s)

    def _send_away(self, watch: str, worst: Comparison, now_s: float) -> None:
        """Throttling was not enough."""
        closed_s = min(LONGEST_CLOSED_S, FIRST_CLOSED_S * 2.0**self.moves)
        self.moves += 1
        leave = self.moves > MOVES and self.config.act == "leave"
        self.closed_until_s = now_s + closed_s
        self._strikes = 0
        words = f"{self._words(worst)} although each worker ran {self.share:.0%} of the time: "
        words += "the slice goes back" if leave else f"its leases move, and none comes for {closed_s:.0f} s"
        self._say("leave" if leave else "move", watch, words, now_s, closed_s)
        self._begin_anew(now_s)

    def _begin_anew(self, now_s: float) -> None:
        """The next step rests on measurements of its own: a baseline that is off by chance must not take them all."""
        for one in self._sources.values():
            one.beside.clear()
            one.quiet.clear()
        self._next_probe_s = now_s

    def _set_share(self, share: float, now_s: float) -> None:
        if share == self.share:
            return
        self.share, self._changed_s = share, now_s
        for one in self._sources.values():
            one.beside.clear()  # they were of another pace
        if not self.probing:
            self._effects.append(Pace(share))

    def _words(self, found: Comparison) -> str:
        tail = "" if found.tail is None else f", its 99th percentile by {found.tail:.1%}"
        return f"{self._host or 'the host job'} is slowed by {found.median:.1%}{tail}"

    def _say(self, verdict: str, watch: str, words: str, now_s: float, closed_s: float = 0.0) -> None:
        found = self.comparison
        about = Neighbours(
            host=self._host,
            verdict=verdict,
            watch=watch,
            slowdown=0.0 if found is None else found.median,
            tail=0.0 if found is None or found.tail is None else found.tail,
            share=self.share,
            closed_for_s=max(closed_s, self.closed_until_s - now_s, 0.0),
            words=words,
        )
        self._effects.append(Judged(about))
