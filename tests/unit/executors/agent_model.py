"""A slice without processes: carries out the core's effects in its head, and knows who really lives."""

from __future__ import annotations

from typing import Any

from rfaas.control.messages import (
    Accepted,
    AgentMessage,
    Freed,
    LeaseTerms,
    LeaseUsage,
    Propose,
    Registered,
    Slice,
    Usage,
    UsageReport,
)
from rfaas_executors import agent_events as on
from rfaas_executors.agent_core import AgentCore

SLICE_ID = b"s" * 16
ENV = {"python": "/usr/bin/python3", "path": [], "preload": [], "cwd": "/", "vars": {}}


class Shell:
    """Answers effects only when a test says so; `living` is the truth about workers."""

    def __init__(
        self,
        *,
        cores: int = 4,
        grace_s: float = 5.0,
        drain_s: float = 4.0,
        end_in_s: float | None = None,
        **config: Any,
    ) -> None:
        config.setdefault("usage_every_s", None)  # most tests look at what is due next
        offered = Slice(SLICE_ID, "n1", cores, 1 << 30, "unix:@x", end_in_s=end_in_s, grace_s=grace_s)
        self.now_s = 100.0
        self.core = AgentCore(on.AgentConfig(offered, b"i" * 16, drain_s=drain_s, **config), self.now_s)
        self.effects: list[on.Effect] = []
        self.new: list[on.Effect] = []
        self.living: set[int] = set()  # workers ordered and not dead
        self.lease_of: dict[int, bytes] = {}
        self.templates: set[int] = set()
        self.told: list[AgentMessage] = []
        self.said: dict[int, list[dict[str, Any]]] = {}
        self.usages: dict[bytes, Usage] = {}  # by lease, as told last
        self.left = False

    def step(self, event: on.Event) -> list[on.Effect]:
        self.new = self.core.step(event, self.now_s)
        for effect in self.new:
            self._carry_out(effect)
        self.effects += self.new
        return self.new

    def _carry_out(self, effect: on.Effect) -> None:
        match effect:
            case on.StartWorker() | on.StartMemory():
                assert isinstance(effect, on.StartMemory) or effect.template in self.templates
                self.living.add(effect.worker)
                [lease] = [k for k, h in self.core.leases.items() if any(w.number == effect.worker for w in h.workers)]
                self.lease_of[effect.worker] = lease
            case on.DrainWorker(worker) | on.KillWorker(worker) | on.InterruptCall(worker):
                assert worker in self.living
            case on.StartTemplate(template):
                self.templates.add(template)
            case on.StopTemplate(template):
                assert template in self.templates
            case on.ToAllocator(message):
                self.told.append(message)
                if isinstance(message, Freed):
                    alive = [w for w in self.living if self.lease_of[w] == message.lease_id]
                    assert not alive, "freed without proof of death"
                    if message.usage != Usage():  # else of a lease that nobody here remembers
                        self._check_usage(LeaseUsage(message.lease_id, message.usage))
                elif isinstance(message, UsageReport):
                    for one in message.leases:
                        self._check_usage(one)
            case on.ToSession(session, message):
                self.said.setdefault(session, []).append(message)
            case on.Leave():
                assert not self.living
                assert not self.templates
                self.left = True

    def _check_usage(self, told: LeaseUsage) -> None:
        """Numbers only rise, and parts are no more than the whole."""
        usage, before = told.usage, self.usages.get(told.lease_id, Usage())
        assert usage.highest(before) == usage, "a number fell"
        assert usage.running_ns + usage.hot_ns <= usage.alive_ns
        self.usages[told.lease_id] = usage

    # --- what happens around it ---------------------------------------------------------------

    def up(self, epoch: int = 1) -> None:
        self.step(on.AllocatorUp())
        self.step(on.AllocatorSaid(Registered(epoch, 1)))

    def propose(
        self, name: bytes = b"a", workers: int = 1, cores: int = 1, memory: int = 1, **changes: Any
    ) -> LeaseTerms:
        fields = {
            "lease_id": name.ljust(16, b"."),
            "lease_seq": 7,
            "slice_id": SLICE_ID,
            "epoch": self.core.epoch,
            "holder": b"h" * 16,
            "request": 1,
            "workers": workers,
            "cores_per_worker": cores,
            "memory_bytes_per_worker": memory,
            "ttl_s": 10.0,
        }
        terms = LeaseTerms(**(fields | changes))
        self.step(on.AllocatorSaid(Propose(terms)))
        return terms

    def attach(self, terms: LeaseTerms, session: int = 1, **changes: Any) -> None:
        words = {
            "m": "attach",
            "lease": terms.lease_id,
            "lease_seq": terms.lease_seq,
            "epoch": terms.epoch,
            "holder": terms.holder,
            "workers": terms.workers,
            "env": ENV,
            "ttl_s": terms.ttl_s,
        }
        self.step(on.SessionSaid(session, words | changes))

    def lease(self, name: bytes = b"a", workers: int = 1, session: int = 1) -> LeaseTerms:
        """A granted and attached lease whose workers run."""
        terms = self.propose(name, workers)
        self.attach(terms, session)
        self.fork_all()
        return terms

    def fork_all(self) -> None:
        for worker in sorted(self.living):
            if worker in self.core._book.workers and not self.core._book.workers[worker].pid:
                self.step(on.WorkerForked(worker, 1000 + worker))

    def die(self, worker: int, exit_status: int = 0, signo: int = 9, **fields: Any) -> None:
        self.living.discard(worker)
        self.step(on.WorkerDead(worker, exit_status, signo, **fields))

    def kill_all(self) -> None:
        """Everything that was told to end does so."""
        for worker in sorted(self.living):
            self.die(worker, 0, 0)

    def template_gone(self, template: int | None = None) -> None:
        for number in [template] if template is not None else sorted(self.templates):
            self.templates.discard(number)
            self.step(on.TemplateGone(number))

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.step(on.Tick())

    def of(self, kind: type) -> list[Any]:
        """All messages of a kind to the allocator."""
        return [message for message in self.told if isinstance(message, kind)]

    def words(self, m: str, session: int = 1) -> list[dict[str, Any]]:
        return [words for words in self.said.get(session, []) if words["m"] == m]

    def state(self, terms: LeaseTerms) -> str:
        held = self.core.leases.get(terms.lease_id)
        return held.lease.state.value if held is not None else "FREE"

    def accepted(self, terms: LeaseTerms) -> list[Accepted]:
        return [message for message in self.of(Accepted) if message.lease_id == terms.lease_id]
