"""`rfaas.Executor`: the executor that a user's program sees.

A `concurrent.futures.Executor` whose workers are other processes, on this machine or on what a cluster leaves idle.
Must not start anything before the first call, and decides nothing: `rfaas.client` does (docs/spec/001-invocation.md).
"""

from __future__ import annotations

import concurrent.futures
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar

from rfaas.client import shipping
from rfaas.client._borrowing import Way, invoke_method
from rfaas.client.applying import Chunk
from rfaas.client.capacity import Capacity
from rfaas.client.engine import Engine
from rfaas.client.futures import Future
from rfaas.client.mapping import check_sizes, chunks, flatten, in_order
from rfaas.client.reclaims import GainNotice, ReclaimNotice, Subscription
from rfaas.config import CallSettings, check_resize, check_worker_life, configure, make_call_settings
from rfaas.functions import ByteFunction
from rfaas_transport.errors import ConfigError

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Unset:
    """Marks an option that was left out, where None has a meaning."""


_UNSET = _Unset()


class Calls(Way, concurrent.futures.Executor):
    """Ways to call functions, all treated alike: what an Executor and its `options` have in common.

    Made by `Executor` and `Executor.options` only.
    """

    def __init__(self, engine: Engine, settings: CallSettings, owner: Calls | None = None) -> None:
        super().__init__(engine, engine.lender, settings)
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
            ExecutorBroken: which is a RuntimeError too: the initializer failed on a worker; nothing was queued.
        """
        future: Future[R] = self._submit(fn, args, kwargs)
        return future

    invoke = invoke_method

    def asubmit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Call a function on a worker from a coroutine: `value = await ex.asubmit(fn, 1, 2)`.

        Submitted at once, not when it is awaited, so `asyncio.gather(*(ex.asubmit(fn, n) for n in numbers))` needs no
        tasks. Pickling the arguments happens here, in the loop's thread; no call costs a thread. Cancelling what awaits
        it, or the future itself, cancels the call if it was not sent; one that runs goes on, and its result is dropped.

        Returns:
            A future of the running loop, with the results and errors of `submit`; asyncio turns StopIteration into a
            RuntimeError. It is cancelled too when the call is (`shutdown(cancel_futures=True)`).

        Raises:
            RuntimeError: no loop runs in this thread; or as for `submit`. Nothing was queued.
        """
        import asyncio  # with the first use: `import rfaas` stays without it

        from rfaas.client.awaiting import awaitable

        loop = asyncio.get_running_loop()
        return awaitable(self._engine.submit_to_core(fn, args, kwargs, self._settings), loop)

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

        Returns:
            A generator. An exception of the function, of an iterable or of time ends it where it belongs; that, and
            closing it, cancels the calls that were not sent.

        Raises:
            ValueError, TypeError: chunksize or buffersize is below 1, or no number; nothing was submitted.
            Exception: what an iterable raises while it is read here; calls submitted before go on.
            RuntimeError: as for `submit`.
        """
        check_sizes(chunksize, buffersize)
        deadline_s = None if timeout is None else time.monotonic() + timeout
        arguments = zip(*iterables, strict=False)
        if chunksize == 1 or isinstance(fn, ByteFunction):  # which travel one by one: there is nothing to save
            single = (self.submit(fn, *args) for args in arguments)
            return in_order(single, buffersize, deadline_s)
        chunk: Callable[[list[tuple[Any, ...]]], Iterable[T]] = Chunk(fn)
        futures: Iterator[Future[Iterable[T]]] = (self.submit(chunk, part) for part in chunks(arguments, chunksize))
        return flatten(in_order(futures, buffersize, deadline_s))

    def options(
        self,
        *,
        idempotent: bool | _Unset = _UNSET,
        retries: int | _Unset = _UNSET,
        call_timeout_s: float | str | _Unset | None = _UNSET,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | _Unset = _UNSET,
    ) -> Calls:
        """Make a view of this executor whose calls are treated differently; the workers are the same.

        Args:
            idempotent: the function may run more than once; calls that may have run are run again.
            retries: how often, when a worker, agent, node or connection is lost. Reclaims are not counted: those have a
                budget of 10.
            call_timeout_s: seconds, or "30s", from submit to result, queue included; None: no limit. A call that runs
                then is killed with its worker: DeadlineExceeded.
            retry_on: exceptions of the function that cost a retry like a loss; of others the call is not run again.

        Raises:
            ConfigError: a value is out of range, retries without idempotent, or retry_on without retries.
        """
        old = self._settings
        keeps_idempotent = old.idempotent if isinstance(idempotent, _Unset) else idempotent
        keeps_retries = old.retries if isinstance(retries, _Unset) else retries
        if isinstance(retries, _Unset) and not keeps_idempotent:
            keeps_retries = 0
        keeps_retry_on = old.retry_on if isinstance(retry_on, _Unset) else retry_on
        if isinstance(retry_on, _Unset) and not keeps_retries:
            keeps_retry_on = ()
        settings = make_call_settings(
            idempotent=keeps_idempotent, retries=keeps_retries, call_timeout_s=None, retry_on=keeps_retry_on
        )
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

    def terminate_workers(self) -> None:
        """Take no more calls and end this executor's workers now, whatever runs; like `ProcessPoolExecutor`'s of 3.14.

        Calls that were not sent are cancelled. Those that were fail at once with ExecutorBroken, `may_have_run=True`.
        Returns at once; the workers are told to leave and killed 0.1 s later, and their cores go back. Repeatable;
        `shutdown(wait=True)` afterwards waits until all that has happened here.
        """
        self._engine.terminate()

    def kill_workers(self) -> None:
        """Do what `terminate_workers` does.

        The standard executor sends SIGKILL here and SIGTERM there. Functions on workers never see a SIGTERM, by which
        Slurm announces that it takes a node back, so there is only one way to end them.
        """
        self._engine.terminate()

    async def ashutdown(self, *, cancel_futures: bool = False) -> None:
        """Shut down as `shutdown` does, and wait for the end without blocking the loop.

        Being cancelled ends the waiting only: the calls are finished, or cancelled, all the same.
        """
        from rfaas.client.awaiting import wait_for

        self.shutdown(wait=False, cancel_futures=cancel_futures)
        await wait_for(self._engine.over)
        self.shutdown(wait=True)  # the thread has said its last word: this takes no time

    def __reduce__(self) -> NoReturn:
        raise TypeError("an rfaas.Executor can't be pickled; make one inside the function if it needs one")

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
        initializer: called with `initargs` by each worker, those that replace others included, before its first call;
            pickled here and now. If it raises, or three workers in a row die of it, the executor is broken: calls
            that wait and all later ones get ExecutorBroken, with what it raised as the cause.
        initargs: arguments of `initializer`.
        max_tasks_per_child: calls after which a worker leaves and another takes its place; a chunk of `map` is one.
            None: never.
        memory: of each worker, "512MiB" or bytes. A worker that goes beyond, with all that its function started, is
            killed: FunctionOOM (docs/isolation.md). None: 1 GiB with an allocator; embedded, what the machine has.
        cores: of each worker; 1.
        placement: "pack": workers on as few nodes as possible; "spread": on as many. A hint, where there is a choice.
        load: what the functions mostly use: "compute", "memory", "io", "network". A hint: they are kept from jobs that
            functions of this kind have slowed (docs/neighbours.md). None: "unknown".
        allocator: a state directory, or "embedded". None: RFAAS_ALLOCATOR, else the allocator that `rfaas up` of this
            user runs, or one that borrows from the site where `site.allocator` is set, else embedded. Inside a function
            that runs on a worker, None is embedded, on that worker's own cores: waiting for cores that one's own
            callers hold would never end.
        transport: medium to the workers. "auto": shared memory to those on this node, RDMA to others where both
            ends have it, else TCP. "shm": shared memory or nothing. "verbs": RDMA or nothing. "tcp": neither of the two
            (on this node a unix socket).
        transport_security: "trusted": who is at the other end of a connection is proven, and calls go in plain;
            "encrypt": calls over TCP are encrypted (TLS 1.3), or not made (docs/transport.md).
        hot_for_s: seconds that a worker polls for the next call before it sleeps; 1 ms. Polling is accounted.
        call_timeout_s, idempotent, retries, retry_on: of every call; see `options`.
        acquire_timeout_s: seconds that a call waits while there is no worker at all, then AcquireTimeout; None: for
            ever ("none" says so where the configuration says else); inside a function that names an allocator, 60.
        daemon_python: interpreter of the helper process, if it should not be this one; also RFAAS_DAEMON_PYTHON.
        files: paths of files and directories that functions find on their worker: modules by import, all else by
            `rfaas.shipped("name")`; or {"name there": "path here"}. Read here and now, brought to each node once.
        files_limit: the most bytes, or "64MiB", that they may take together.
        check_modules: what it means that a node lacks modules which this program has imported, or has other versions of
            them: "warn" (an EnvironmentWarning before the first call runs there), "error" (EnvironmentFailed, and no
            call runs there), "ignore".
        payload_limit: the most bytes, or "64MiB", that the arguments or the result of a call may take; beyond it the
            call fails with PayloadTooLarge, before anything is sent, and its worker goes on. None: 4 GiB.
        output: what functions print goes to "caller", this program's own `sys.stdout` and `sys.stderr`, before the
            result counts; to "files", a pair a worker in `output_dir`; or is thrown away: "discard".
        output_limit_bytes: of each call; what it prints beyond is cut, and a line says how much.
        output_prefix: of each line, with the fields {node}, {worker}, {call}; "none": lines as they were printed.
        output_dir: for "files"; "rfaas-output" in the working directory.

    Raises:
        ConfigError: a value is wrong; nothing was started.
        TypeError: `initializer` can't be called, `initargs` is no tuple, `max_tasks_per_child` no number; nothing was
                started.
        SerializationError: `initializer` or `initargs` can't be pickled; nothing was started.
        PayloadTooLarge: `files` are larger than `files_limit`; nothing was started.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_child: int | None = None,
        memory: str | int | None = None,
        cores: int | None = None,
        placement: str | None = None,
        load: Literal["unknown", "compute", "memory", "io", "network"] | None = None,
        allocator: str | os.PathLike[str] | None = None,
        transport: str | None = None,
        transport_security: Literal["trusted", "encrypt"] | None = None,
        hot_for_s: float | str | None = None,
        call_timeout_s: float | str | None = None,
        acquire_timeout_s: float | str | None = None,
        idempotent: bool | None = None,
        retries: int | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] = (),
        daemon_python: str | os.PathLike[str] | None = None,
        files: Iterable[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]] | None = None,
        files_limit: str | int | None = None,
        check_modules: Literal["warn", "error", "ignore"] | None = None,
        payload_limit: str | int | None = None,
        output: Literal["caller", "files", "discard"] | None = None,
        output_limit_bytes: str | int | None = None,
        output_prefix: str | None = None,
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if callable(max_workers):
            raise ConfigError("max_workers is a function", hint="make the executor first, then ex.submit(function, …)")
        config = configure(
            max_workers=max_workers,
            memory=memory,
            cores=cores,
            placement=placement,
            load=load,
            allocator=allocator,
            transport=transport,
            transport_security=transport_security,
            hot_for_s=hot_for_s,
            call_timeout_s=call_timeout_s,
            acquire_timeout_s=acquire_timeout_s,
            idempotent=idempotent,
            retries=retries,
            retry_on=retry_on,
            daemon_python=daemon_python,
            files_limit=files_limit,
            check_modules=check_modules,
            payload_limit=payload_limit,
            output=output,
            output_limit_bytes=output_limit_bytes,
            output_prefix=output_prefix,
            output_dir=output_dir,
        )
        check_worker_life(initializer, initargs, max_tasks_per_child)
        bundle = shipping.read(files, config.files_limit_bytes)
        if bundle is not None:
            config = replace(config, shipped_modules=bundle.modules)
        super().__init__(Engine(config, initializer, tuple(initargs), max_tasks_per_child, bundle), config.calls)
        # Not __del__: the I/O thread outlives this object and finishes the calls that others hold futures of.
        finalizer = weakref.finalize(self, self._engine.abandon)
        finalizer.atexit = False  # exit waits for the calls by another way: rfaas.client.lifetime

    def resize(self, workers: int | None, *, lease_workers: int = 1) -> None:
        """Change how many workers this executor holds, whatever calls it has; returns at once.

        Growing asks for more: they come as the cluster has them, and stay wanted until then. Shrinking gives idle
        workers back at once, then those that end their calls; no call is lost, killed or run twice by it, and calls
        that lie behind others move. `capacity` tells how far it is. Holds until the next resize, in place of
        `max_workers`; what is reclaimed is asked for again.

        Args:
            workers: 0 to 65,535, or None: as many as calls need again, up to `max_workers`. With 0 calls wait, until
                the next resize or `shutdown`, which ends them by as many workers as they need.
            lease_workers: workers that one lease may hold of those which come from now on; 0: as many as one slice has.
                A lease is given back whole, so one that came before, with the first call of a large map maybe, may be
                larger than what is too much, and stays: resize before the first call.

        Raises:
            ConfigError, TypeError: no such number; nothing was changed.
            RuntimeError: the executor is broken, or shut down and its calls have ended; nothing was changed.
        """
        check_resize(workers, lease_workers)
        self._engine.resize(workers, lease_workers)

    @property
    def capacity(self) -> Capacity:
        """What this executor wants and has now; a snapshot (`rfaas.Capacity`), also after `shutdown`."""
        return self._engine.capacity()

    @property
    def ceiling(self) -> int:
        """`max_workers`, as it was given or found."""
        return self._engine.ceiling

    def on_gain(self, callback: Callable[[GainNotice], object]) -> Subscription:
        """Have `callback(notice)` called when workers came, once a lease; else as `on_reclaim`.

        Returns:
            A handle; its `cancel()` ends the calls.

        Raises:
            TypeError: `callback` is no function.
        """
        return self._engine.reclaims.subscribe_gains(callback)

    def on_reclaim(self, callback: Callable[[ReclaimNotice], object]) -> Subscription:
        """Have `callback(notice)` called when cores of this executor go back to their owner, before calls fail there.

        Calls that have not started move to other workers by themselves; those that run may use the grace. A program
        that can rebalance learns here how many cores it loses, where, and when. Callbacks run one after the other in a
        thread of their own: what they do delays no call. What they raise is logged. After `shutdown` nothing is told.

        Returns:
            A handle; its `cancel()` ends the calls.

        Raises:
            TypeError: `callback` is no function.
        """
        return self._engine.reclaims.subscribe(callback)

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        self.shutdown(wait=True)
        return False

    async def __aenter__(self) -> Executor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        await self.ashutdown()
        return False
