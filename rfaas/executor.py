"""`rfaas.Executor`: the executor that a user's program sees.

A `concurrent.futures.Executor` whose workers are other processes, on this machine or on what a cluster leaves idle.
Must not start anything before the first call, and decides nothing: `rfaas.client` does (docs/spec/001-invocation.md).
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

from rfaas.client.applying import Chunk
from rfaas.client.engine import Engine
from rfaas.client.futures import Future
from rfaas.config import CallSettings, configure, make_call_settings
from rfaas_transport.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Unset:
    """Marks an option that was left out, where None has a meaning."""


_UNSET = _Unset()


class Calls(concurrent.futures.Executor):
    """Ways to call functions, all treated alike: what an Executor and its `options` have in common.

    Made by `Executor` and `Executor.options` only.
    """

    def __init__(self, engine: Engine, settings: CallSettings, owner: Calls | None = None) -> None:
        self._engine = engine
        self._settings = settings
        self._owner = owner  # a view keeps its executor alive

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call `fn(*args, **kwargs)` on a worker; returns at once.

        A function is pickled once in an executor's life, by value if it belongs to `__main__`, is local or a lambda,
        else by name: what changes later in its closure or globals is not seen. Bound methods and partials travel anew
        each time, like arguments. Arguments are pickled before this returns, but the bytes of arrays are read when they
        are sent: leave those alone until the call is done.

        The call runs at most once, unless `idempotent` says that more does no harm.

        Returns:
            A future. It holds the function's own exception, with the remote traceback as its cause, or an RfaasError
            that says what is known (`may_have_run`, `phase`); SerializationError if the call can't be pickled.

        Raises:
            RuntimeError: after shutdown, at interpreter exit, or in a forked child; nothing was queued.
        """
        return self._engine.submit(fn, args, kwargs, self._settings)

    def invoke(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function on a worker and wait for what it returns.

        Raises:
            BaseException: what the function raised, or an RfaasError, as for `submit`. A KeyboardInterrupt here takes
                the call back if it was not sent; one that runs goes on, and its result is dropped.
        """
        future = self.submit(fn, *args, **kwargs)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # an exception's traceback would keep it, and it the exception

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call a function with each tuple of arguments; results come in the order of the arguments.

        Args:
            fn: takes as many arguments as there are iterables.
            iterables: read at once and whole, unless `buffersize` is given; the shortest ends it.
            timeout: seconds from now; a result that is asked for and not there by then is a TimeoutError.
            chunksize: arguments a call; more than 1 pays for short functions.
            buffersize: calls that may be under way, the results not yet taken included; arguments are read as needed.

        Raises:
            ValueError: chunksize or buffersize is below 1; nothing was submitted.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be >= 1 or None.")
        deadline_s = None if timeout is None else time.monotonic() + timeout
        arguments = zip(*iterables, strict=False)
        if chunksize == 1:
            single = (self.submit(fn, *args) for args in arguments)
            return _in_order(single, buffersize, deadline_s)
        chunk: Callable[[list[tuple[Any, ...]]], Iterable[T]] = Chunk(fn)
        futures: Iterator[Future[Iterable[T]]] = (self.submit(chunk, part) for part in _chunks(arguments, chunksize))
        return itertools.chain.from_iterable(_in_order(futures, buffersize, deadline_s))

    def options(
        self,
        *,
        idempotent: bool | _Unset = _UNSET,
        retries: int | _Unset = _UNSET,
        call_timeout_s: float | str | _Unset | None = _UNSET,
    ) -> Calls:
        """Make a view of this executor whose calls are treated differently; the workers are the same.

        Args:
            idempotent: the function may run more than once; calls that may have run are run again.
            retries: how often, when a worker, agent, node or connection is lost. Reclaims are not counted: those have a
                budget of 10.
            call_timeout_s: seconds, or "30s", from submit to result, queue included; None: no limit. A call that runs
                then is killed with its worker: DeadlineExceeded.

        Raises:
            ConfigError: a value is out of range, or retries without idempotent.
        """
        old = self._settings
        keeps_idempotent = old.idempotent if isinstance(idempotent, _Unset) else idempotent
        keeps_retries = old.retries if isinstance(retries, _Unset) else retries
        if isinstance(retries, _Unset) and not keeps_idempotent:
            keeps_retries = 0
        settings = make_call_settings(idempotent=keeps_idempotent, retries=keeps_retries, call_timeout_s=None)
        if isinstance(call_timeout_s, _Unset):
            settings = replace(settings, call_timeout_s=old.call_timeout_s)
        else:
            timed = make_call_settings(idempotent=False, retries=0, call_timeout_s=call_timeout_s)
            settings = replace(settings, call_timeout_s=timed.call_timeout_s)
        return Calls(self._engine, settings, owner=self)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, finish those that are there, and give everything back. Repeatable; views shut down too.

        Args:
            wait: return after all that. False: return at once; it happens all the same, before the interpreter ends.
            cancel_futures: calls that were not sent are cancelled instead.
        """
        self._engine.shutdown(wait=wait, cancel_queued=cancel_futures)

    def statistics(self) -> dict[str, int]:
        """Counters of calls since the start (submitted, answered, failed, …), and what queues, runs and serves now."""
        return self._engine.statistics()


class Executor(Calls):
    """Runs functions in worker processes; use it like `concurrent.futures.ProcessPoolExecutor`.

    With no allocator configured everything happens on this machine, needs no other program and leaves nothing behind.
    Where `rfaas up` serves, workers come from idle cores of the cluster, go back when their owner wants them, and are
    asked for again; calls that had not started move on by themselves.

    The constructor starts nothing and never blocks. The first call starts the machinery; calls wait in this process
    until a worker is free, so a short call never waits behind a long one while another worker idles.

        with rfaas.Executor() as ex:
            print(ex.submit(pow, 2, 10).result())

    What is left out comes from RFAAS_* variables and `rfaas.toml`, else has the default given here
    (docs/configuration.md; `rfaas config show`).

    Args:
        max_workers: ceiling; workers are asked for as calls need them. None: the CPUs this process may use, or, with an
            allocator, as many as there are calls, at most 1,000.
        memory: of each worker, "512MiB" or bytes; 1 GiB.
        cores: of each worker; 1.
        placement: "pack": workers on as few nodes as possible; "spread": on as many. A hint, where there is a choice.
        allocator: a state directory, or "embedded". None: RFAAS_ALLOCATOR, else the allocator that `rfaas up` of this
            user runs, else embedded.
        transport: medium to the workers: "auto" or "tcp" (which is a unix socket on the same node).
        hot_for_s: seconds that a worker polls for the next call before it sleeps. The media of this version always
            sleep.
        call_timeout_s, idempotent, retries: of every call; see `options`.
        acquire_timeout_s: seconds that a call waits while there is no worker at all, then AcquireTimeout; None: for
            ever ("none" says so where the configuration says else).
        daemon_python: interpreter of the helper process, if it should not be this one; also RFAAS_DAEMON_PYTHON.

    Raises:
        ConfigError: a value is wrong; nothing was started.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        memory: str | int | None = None,
        cores: int | None = None,
        placement: str | None = None,
        allocator: str | os.PathLike[str] | None = None,
        transport: str | None = None,
        hot_for_s: float | str | None = None,
        call_timeout_s: float | str | None = None,
        acquire_timeout_s: float | str | None = None,
        idempotent: bool | None = None,
        retries: int | None = None,
        daemon_python: str | os.PathLike[str] | None = None,
    ) -> None:
        if callable(max_workers):
            raise ConfigError("max_workers is a function", hint="make the executor first, then ex.submit(function, …)")
        config = configure(
            max_workers=max_workers,
            memory=memory,
            cores=cores,
            placement=placement,
            allocator=allocator,
            transport=transport,
            hot_for_s=hot_for_s,
            call_timeout_s=call_timeout_s,
            acquire_timeout_s=acquire_timeout_s,
            idempotent=idempotent,
            retries=retries,
            daemon_python=daemon_python,
        )
        super().__init__(Engine(config), config.calls)
        # Not __del__: the I/O thread outlives this object and finishes the calls that others hold futures of.
        finalizer = weakref.finalize(self, self._engine.abandon)
        finalizer.atexit = False  # exit waits for the calls by another way: rfaas.client.lifetime

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        self.shutdown(wait=True)
        return False


def _chunks(arguments: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while part := list(itertools.islice(arguments, size)):
        yield part


def _in_order(submitted: Iterator[Future[T]], buffersize: int | None, deadline_s: float | None) -> Iterator[T]:
    """Submit now, all or `buffersize` of them; yield results in order; cancel the rest when the caller stops early."""
    futures = deque(itertools.islice(submitted, buffersize))

    def results() -> Iterator[T]:
        try:
            while futures:
                # The deque lets the future go before its result is used: a long map keeps no old results.
                yield _result_of(futures, deadline_s)
                futures.extend(itertools.islice(submitted, 0 if buffersize is None else 1))
        finally:
            for future in futures:
                future.cancel()

    return results()


def _result_of(futures: deque[Future[T]], deadline_s: float | None) -> T:
    """The first future's result, taken out of the deque only once it is there: a timed-out one is cancelled too."""
    rest_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
    result = futures[0].result(rest_s)
    futures.popleft()
    return result
