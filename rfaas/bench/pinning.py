"""Which CPU each side of a measurement gets, and giving it to them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rfaas.bench import served
from rfaas.bench.noise import cpu_list
from rfaas.executor import Executor
from rfaas_transport.errors import ConfigError


class Pins(NamedTuple):
    """CPUs of the two sides; None: the scheduler chooses."""

    client_cpu: int | None
    worker_cpu: int | None

    @property
    def text(self) -> str:
        """For the head of a report."""
        if self.client_cpu is None:
            return "nothing pinned"
        return f"client on CPU {self.client_cpu}, worker on CPU {self.worker_cpu}"


class Wish(NamedTuple):
    """What the user asked for."""

    pin: bool = True
    client_cpu: int | None = None
    worker_cpu: int | None = None


def choose(wish: Wish, ours: frozenset[int], theirs: frozenset[int], siblings: Mapping[int, str], here: bool) -> Pins:
    """Decide on CPUs: those asked for; else two cores, then two threads of one core, then one CPU for both.

    Args:
        wish: of the user.
        ours, theirs: CPUs that client and worker may use.
        siblings: threads of each CPU's core, as the kernel lists them.
        here: the two are on one node.

    Raises:
        ConfigError: a CPU was asked for that the side may not use.
    """
    for name, cpu, allowed in (("--client-cpu", wish.client_cpu, ours), ("--worker-cpu", wish.worker_cpu, theirs)):
        if cpu is not None and cpu not in allowed:
            some = ", ".join(map(str, sorted(allowed)[:8]))
            raise ConfigError(f"{name}={cpu} is no CPU that this side may use", hint=f"one of {some}")
    if not wish.pin:
        return Pins(None, None)
    client = min(ours) if wish.client_cpu is None else wish.client_cpu
    if wish.client_cpu is None and here and wish.worker_cpu == client and len(ours) > 1:
        client = min(ours - {client})
    if wish.worker_cpu is not None:
        return Pins(client, wish.worker_cpu)
    if not here:
        return Pins(client, min(theirs))
    core = cpu_list(siblings.get(client, "")) | {client}
    worker = min(theirs - core, default=min(theirs - {client}, default=min(theirs)))
    return Pins(client, worker)


@contextlib.contextmanager
def pinned(executor: Executor, wish: Wish, siblings: Mapping[int, str], here: bool) -> Iterator[Pins]:
    """Pin every thread of this process to one CPU and those of the only worker to another; restore both.

    Raises:
        ConfigError: as `choose`; nothing was pinned.
    """
    ours = frozenset(os.sched_getaffinity(0))
    theirs = executor.invoke(served.move_to, None)
    pins = choose(wish, ours, theirs, siblings, here)
    if pins.client_cpu is None or pins.worker_cpu is None:
        yield pins
        return
    executor.invoke(served.move_to, frozenset({pins.worker_cpu}))
    served.move_to(frozenset({pins.client_cpu}))
    try:
        yield pins
    finally:
        served.move_to(ours)
        with contextlib.suppress(Exception):  # a worker that was lost needs no restoring
            executor.invoke(served.move_to, theirs)
