"""`rfaas.adaptive`: an executor whose number of workers follows its calls, or a policy of the program's own.

A thread looks at the executor and resizes it. Must not decide anything: `rfaas.steering` does.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Final, Literal

from rfaas.config import MAX_WORKERS_LIMIT, check_resize
from rfaas.executor import Executor
from rfaas.steering import Policy, Steering, follow_calls
from rfaas_transport.errors import ConfigError

EVERY_S: Final = 0.25

_log = logging.getLogger(__name__)


class Adaptive:
    """What `adaptive` returns: a context whose executor is resized while it is open."""

    def __init__(
        self, executor: Executor, steering: Steering, every_s: float, lease_workers: int, *, owns: bool
    ) -> None:
        self.executor = executor
        self._steering = steering
        self._every_s = every_s
        self._lease_workers = lease_workers
        self._owns = owns
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rfaas-adaptive", daemon=True)

    def __enter__(self) -> Executor:
        """Have the executor want its least, from now on steered; once."""
        self._resize(self._steering.target)
        self._thread.start()
        return self.executor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        """Steer no more; an executor that `adaptive` made is shut down first, and its last calls still steer it."""
        try:
            if self._owns:
                self.executor.shutdown(wait=True)
        finally:
            self._over.set()
            self._thread.join()
        return False

    def _resize(self, workers: int) -> None:
        self.executor.resize(workers, lease_workers=self._lease_workers)

    def _run(self) -> None:
        failing = False
        while not self._over.wait(self._every_s):
            before = self._steering.target
            statistics = self.executor.statistics()
            try:
                n_ended = statistics["answered"] + statistics["failed"]
                target = self._steering.step(self.executor.capacity, n_ended, time.monotonic())
                failing = False
            except BaseException:  # sys.exit() of a policy would end this thread, and nobody would know
                if not failing:  # once, not each time
                    _log.exception("the policy of an adaptive executor failed; it keeps %d workers", before)
                failing = True
                continue
            if target != before:
                try:
                    self._resize(target)
                except RuntimeError:  # shut down, or broken: its calls say why
                    return


def adaptive(
    minimum: int = 0,
    maximum: int | None = None,
    policy: Policy = follow_calls,
    *,
    executor: Executor | None = None,
    every_s: float = EVERY_S,
    lease_workers: int = 1,
    **options: Any,  # noqa: ANN401 - those of Executor
) -> Adaptive:
    """Make an executor that holds as many workers as a policy says, between two bounds.

        with rfaas.adaptive(2, 64) as ex:
            results = list(ex.map(f, items))

    Args:
        minimum, maximum: bounds of the number of workers. None: `max_workers` of the executor.
        policy: a function of an `Observation` (queue length, running calls, idle time, capacity, throughput) that
            answers with the number of workers to want. It is called in a thread of its own; what it raises is logged,
            and changes nothing. Default: `rfaas.follow_calls`.
        executor: one to steer. It is not shut down at the end, and keeps the size that it has then. None: a new one.
        every_s: seconds between two looks.
        lease_workers: as of `Executor.resize`.
        options: arguments of `Executor`, for a new one.

    Returns:
        A context manager; it gives the executor.

    Raises:
        ConfigError, TypeError: a value is wrong; nothing was started.
    """
    if executor is not None and options:
        raise TypeError(f"options of a new executor ({', '.join(options)}) beside executor=: give them to that one")
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(f"executor must be an rfaas.Executor, not {executor!r}")
    if not callable(policy):
        raise TypeError(f"policy must be a function of an Observation, not {policy!r}")
    for bound in (minimum, maximum):
        check_resize(minimum if bound is None else bound, lease_workers)
    if maximum is not None and maximum < minimum:
        raise ConfigError(f"maximum={maximum} is below minimum={minimum}", hint="the first bound is the lower one")
    if isinstance(every_s, bool) or not isinstance(every_s, int | float):
        raise TypeError(f"every_s must be a number of seconds, not {every_s!r}")
    if not 0.0 < every_s <= 3600.0:
        raise ConfigError(f"every_s={every_s}", hint="seconds between two looks: above 0, at most 3600")
    owns = executor is None
    executor = Executor(**options) if executor is None else executor
    most = max(minimum, executor.ceiling) if maximum is None else maximum
    steering = Steering(minimum, min(most, MAX_WORKERS_LIMIT), policy)
    return Adaptive(executor, steering, every_s, lease_workers, owns=owns)
