"""What becomes of a lease: one table of states and events, one `step`.

Used by allocator and agent alike; nothing else changes a lease's state. No I/O, no clock, no logging here.
Spec: docs/spec/002-lease.md section 2, whose table a test reads and compares with TRANSITIONS.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final


class LeaseState(Enum):
    """Where a lease stands; the values are the names on the wire."""

    REQUESTED = "REQUESTED"  # proposed, no answer yet; nothing is held
    GRANTED = "GRANTED"  # the agent accepted; the cores are held
    ACTIVE = "ACTIVE"  # the holder attached; workers serve
    DRAINING = "DRAINING"  # no call is accepted any more; running ones may end
    FENCED = "FENCED"  # no call starts any more; death is being proved
    FREE = "FREE"  # the end


class LeaseEvent(Enum):
    """What can happen to a lease."""

    ACCEPT = "ACCEPT"  # the agent took the proposal
    DENY = "DENY"  # the agent refused it
    ATTACH = "ATTACH"  # the holder's session process came
    RELEASE = "RELEASE"  # the holder gives it back
    EXPIRE = "EXPIRE"  # nobody renewed it in time
    RECLAIM = "RECLAIM"  # the slice goes back to its owner
    LOST = "LOST"  # agent or node is gone
    DRAINED = "DRAINED"  # its workers ended by themselves, or drain_s is over
    PROVEN_DEAD = "PROVEN_DEAD"  # none of its workers lives (002 section 3)


class IllegalTransition(Exception):
    """The table has no such step; the lease is as it was."""

    def __init__(self, state: LeaseState, event: LeaseEvent) -> None:
        super().__init__(f"a lease that is {state.value} can't take {event.value}")
        self.state = state
        self.event = event


_S = LeaseState
_E = LeaseEvent

TRANSITIONS: Final[Mapping[LeaseState, Mapping[LeaseEvent, LeaseState]]] = MappingProxyType(
    {
        _S.REQUESTED: {
            _E.ACCEPT: _S.GRANTED,
            _E.DENY: _S.FREE,
            _E.RELEASE: _S.FREE,
            _E.EXPIRE: _S.FREE,
            _E.RECLAIM: _S.FREE,
            _E.LOST: _S.FREE,
        },
        _S.GRANTED: {
            _E.ATTACH: _S.ACTIVE,
            _E.RELEASE: _S.FENCED,
            _E.EXPIRE: _S.FENCED,
            _E.RECLAIM: _S.FENCED,
            _E.LOST: _S.FENCED,
        },
        _S.ACTIVE: {
            _E.ATTACH: _S.ACTIVE,
            _E.RELEASE: _S.FENCED,
            _E.EXPIRE: _S.FENCED,
            _E.RECLAIM: _S.DRAINING,
            _E.LOST: _S.FENCED,
        },
        _S.DRAINING: {
            _E.RELEASE: _S.FENCED,
            _E.EXPIRE: _S.FENCED,
            _E.RECLAIM: _S.DRAINING,
            _E.LOST: _S.FENCED,
            _E.DRAINED: _S.FENCED,
        },
        _S.FENCED: {
            _E.RELEASE: _S.FENCED,
            _E.EXPIRE: _S.FENCED,
            _E.RECLAIM: _S.FENCED,
            _E.LOST: _S.FENCED,
            _E.DRAINED: _S.FENCED,
            _E.PROVEN_DEAD: _S.FREE,
        },
        _S.FREE: {
            _E.RELEASE: _S.FREE,
            _E.EXPIRE: _S.FREE,
            _E.RECLAIM: _S.FREE,
            _E.LOST: _S.FREE,
            _E.PROVEN_DEAD: _S.FREE,
        },
    }
)
"""Every allowed step; what is missing is refused."""

HELD: Final = frozenset({_S.GRANTED, _S.ACTIVE, _S.DRAINING, _S.FENCED})
"""States in which the cores belong to the lease."""

SERVING: Final = frozenset({_S.GRANTED, _S.ACTIVE})
"""States that count towards a holder's target (002 section 5)."""

_REASON_OF: Final[Mapping[LeaseEvent, str]] = MappingProxyType(
    {
        _E.DENY: "denied",
        _E.RELEASE: "released",
        _E.EXPIRE: "expired",
        _E.RECLAIM: "reclaimed",
        _E.LOST: "lost",
    }
)


class Lease:
    """The state of one lease, with the reason of the first event that led towards its end.

    Args:
        state: where it stands; another than REQUESTED when it is restored from a journal or adopted from an agent.
        reason, reason_code: why it ends, if it was restored after something had led to its end.
    """

    __slots__ = ("_reason", "_reason_code", "_state")

    def __init__(self, state: LeaseState = LeaseState.REQUESTED, *, reason: str = "", reason_code: int = 0) -> None:
        self._state = state
        self._reason = reason
        self._reason_code = reason_code

    @property
    def state(self) -> LeaseState:
        """Where it stands now."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it ends: released, expired, reclaimed, lost or denied; empty while nothing leads to its end."""
        return self._reason

    @property
    def reason_code(self) -> int:
        """The `ReasonCode` given with the first event that led to its end; 0 before."""
        return self._reason_code

    @property
    def held(self) -> bool:
        """True while the cores belong to this lease."""
        return self._state in HELD

    def step(self, event: LeaseEvent, *, reason_code: int = 0) -> LeaseState:
        """Take one event and return the new state.

        Args:
            event: what happened.
            reason_code: a `ReasonCode`; kept only with the first event that leads to the end.
        Raises:
            IllegalTransition: the table has no such step; state and reason are as they were.
        """
        target = TRANSITIONS[self._state].get(event)
        if target is None:
            raise IllegalTransition(self._state, event)
        if not self._reason and self._state is not LeaseState.FREE:
            self._reason = self._reason_after(event)
            self._reason_code = int(reason_code) if self._reason else 0
        self._state = target
        return target

    def _reason_after(self, event: LeaseEvent) -> str:
        # A proposal that meets a reclaim never held anything: the table calls that a denial.
        if self._state is LeaseState.REQUESTED and event is LeaseEvent.RECLAIM:
            return "denied"
        return _REASON_OF.get(event, "")

    def __repr__(self) -> str:
        why = f"({self._reason})" if self._reason else ""
        return f"<Lease {self._state.value}{why}>"
