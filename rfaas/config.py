"""What an executor may be told, checked once at the door, and which allocator a program means.

Must not start or write anything: it reads arguments, settings and `allocator.json` (docs/spec/003-control.md).
Every wrong value is a ConfigError that says the cause and the remedy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rfaas.control.address import AllocatorAddress
from rfaas.host_memory import machine_bytes
from rfaas.settings import Settings
from rfaas.units import parse_duration_s, parse_size_bytes
from rfaas_transport import tls, verbs
from rfaas_transport.errors import AllocatorUnavailable, ConfigError

TRANSPORTS: Final = ("auto", "shm", "verbs", "tcp")
"""Media that a channel may be asked to use; `auto` takes the best that both ends have."""

SECURITIES: Final = ("trusted", "encrypt")
"""Whether calls over TCP go in plain between two sides that are proven, or encrypted."""

PLACEMENTS: Final = ("pack", "spread")
"""On as few nodes as possible, or on as many: a hint to the allocator (docs/spec/002-lease.md section 5)."""

MAX_WORKERS_LIMIT: Final = 65_535  # what a session process and an allocator are asked for fits 16 bits
MAX_WORKERS_ALLOCATOR: Final = 1_000  # default ceiling where an allocator decides: it gives what is idle, not more
NESTED_ACQUIRE_TIMEOUT_S: Final = 60.0  # inside a function: who holds the cores may be waiting for this very call
SLICE_MARK: Final = "RFAAS_SLICE"  # in the environment of everything that runs on a slice, functions included
OUTPUT_DIR: Final = "rfaas-output"
RECLAIM_BUDGET: Final = 10  # docs/spec/001-invocation.md section 5


@dataclass(frozen=True, slots=True)
class Embedded:
    """No allocator configured: one of this process's own, on this machine, gone when the process ends."""


@dataclass(frozen=True, slots=True)
class StateDir:
    """The allocator whose state directory this is (`rfaas up`).

    Attributes:
        site: "host:port" of the site's allocator, from which slices are borrowed as they are needed; the allocator of
            `path` is started where there is none. Empty: there is one, and what it has is all (docs/site.md).
    """

    path: Path
    site: str = ""


AllocatorChoice = Embedded | StateDir


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """What becomes of what functions print.

    Attributes:
        to: "caller": this program's own streams; "files"; or "discard".
        limit_bytes: of each call, standard output and error together.
        prefix: of each line, with the fields {node}, {worker} and {call}.
        directory: where the files are made.
    """

    to: str = "caller"
    limit_bytes: int = 1 << 20
    prefix: str = "[{node}/{worker} #{call}] "
    directory: str = OUTPUT_DIR

    @property
    def taken_bytes(self) -> int:
        """What an agent is to take of each call's output; 0: none at all."""
        return 0 if self.to == "discard" else self.limit_bytes


@dataclass(frozen=True, slots=True)
class CallSettings:
    """How one call is treated; `Executor.options` makes another of it.

    Attributes:
        idempotent: the function may run more than once: a call that may have run is dispatched again.
        retries: how often a lost worker, agent, node or connection may cost an idempotent call another run.
            Reclaims have a budget of their own (10).
        call_timeout_s: life of a call in seconds, from submit, queue included; None: no limit.
        retry_on: exceptions of the function that cost a retry like a loss, if the call is idempotent.
    """

    idempotent: bool = False
    retries: int = 0
    call_timeout_s: float | None = None
    retry_on: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """All that an Executor was told, checked.

    Attributes:
        max_workers: ceiling of workers at a time.
        cores: of each worker.
        memory_bytes: of each worker.
        choice: which allocator.
        transport: one of TRANSPORTS.
        transport_security: one of SECURITIES.
        hot_for_s: seconds that a worker polls after a call before it sleeps.
        acquire_timeout_s: seconds that a call may wait while there is no worker at all; None: for ever.
        daemon_python: interpreter of the session process; None: the one that runs now.
        calls: defaults of every call.
        placement: one of PLACEMENTS.
        output: what becomes of what functions print.
        payload_limit_bytes: of the arguments and of the result of each call; None: what a channel takes.
        files_limit_bytes: of all files that come along.
        check_modules: "warn", "error" or "ignore": what a node with other modules than this program's means.
        shipped_modules: those that come along.
        arena_bytes: for large payloads of each worker on this node, each way.
        array_memory_bytes: what all arrays of `rfaas.empty` may take; None: the machine's memory.
        load: what functions mostly use, one of LOADS; empty: not said.
    """

    max_workers: int
    cores: int
    memory_bytes: int
    choice: AllocatorChoice
    transport: str
    hot_for_s: float
    acquire_timeout_s: float | None
    daemon_python: str | None
    calls: CallSettings
    placement: str = "pack"
    output: OutputSettings = OutputSettings()
    payload_limit_bytes: int | None = None
    files_limit_bytes: int = 64 << 20
    check_modules: str = "warn"
    shipped_modules: frozenset[str] = frozenset()
    transport_security: str = "trusted"
    arena_bytes: int = 256 << 20
    array_memory_bytes: int | None = None
    load: str = ""


DEFAULT_MEMORY_BYTES: Final = 2**30
"""Of a worker whose program names none, where an allocator serves."""


def configure(
    environ: Mapping[str, str] | None = None,
    retry_on: type[BaseException] | Iterable[type[BaseException]] = (),
    **arguments: object,
) -> ExecutorConfig:
    """What an Executor is, of its arguments and, where those are None, of the settings (docs/configuration.md).

    Args:
        environ: os.environ if None.
        retry_on: of `rfaas.Executor`; no setting, since it names classes.
        arguments: of `rfaas.Executor`, by name.

    Raises:
        ConfigError: a value is wrong, wherever it comes from; the message names its source and what would be right.
    """
    settings = Settings.load(environ)
    environ = os.environ if environ is None else environ
    names = ("max_workers", "cores", "memory", "placement", "transport", "hot_for_s", "acquire_timeout_s")
    of_calls = ("idempotent", "retries", "call_timeout_s")
    of_output = ("output", "output_limit_bytes", "output_prefix", "output_dir")
    of_memory = ("payload_limit", "files_limit", "arena", "array_memory", "load")
    every = (*names, *of_calls, *of_output, *of_memory, "check_modules", "transport_security")
    value = {name: settings.value(f"executor.{name}", arguments.get(name)) for name in every}
    return make_config(
        **{name: value[name] for name in names},
        allocator=settings.value("allocator", arguments.get("allocator")),
        daemon_python=settings.value("daemon_python", arguments.get("daemon_python")),
        calls=make_call_settings(**{name: value[name] for name in of_calls}, retry_on=retry_on),
        environ=environ,
        payload_limit_bytes=value["payload_limit"],
        files_limit_bytes=value["files_limit"],
        check_modules=value["check_modules"],
        transport_security=value["transport_security"],
        arena_bytes=value["arena"],
        array_memory_bytes=value["array_memory"],
        load="" if value["load"] == "unknown" else value["load"],
        output=OutputSettings(
            value["output"],
            value["output_limit_bytes"],
            value["output_prefix"],
            value["output_dir"] or _output_dir(value["output"]),
        ),
    )


def _output_dir(output: str) -> str:
    """Where files are made if nothing says where: in the working directory, which only they need."""
    if output != "files":
        return OUTPUT_DIR
    try:
        return os.path.abspath(OUTPUT_DIR)
    except OSError as error:
        raise ConfigError(
            f"output='files' makes them in the working directory, which can't be found: {error}",
            hint="set output_dir, or start the program in a directory that exists",
        ) from error


def make_call_settings(
    *,
    idempotent: bool,
    retries: int,
    call_timeout_s: float | str | None,
    retry_on: type[BaseException] | Iterable[type[BaseException]] = (),
) -> CallSettings:
    """Check what is said about calls.

    Raises:
        ConfigError: a value is out of range; or `retries` without `idempotent`, or `retry_on` without `retries`.
    """
    retries = _whole_number("retries", retries, 0, 1_000_000)
    if not isinstance(idempotent, bool):  # what merely looks true must not let a function run twice
        raise ConfigError(f"idempotent={idempotent!r} is neither True nor False", hint="write True or False")
    if retries and not idempotent:
        raise ConfigError(
            "retries needs idempotent=True: a call that may have run is only run again if that does no harm",
            hint="pass idempotent=True if the function may run twice, or leave retries out",
        )
    kinds = _exceptions("retry_on", retry_on)
    if kinds and not retries:
        raise ConfigError(
            "retry_on needs idempotent=True and retries: an exception costs a retry like a lost worker",
            hint="pass idempotent=True, retries=3 if the function may run again, or leave retry_on out",
        )
    timeout_s = _optional_duration("call_timeout_s", call_timeout_s)
    return CallSettings(idempotent=idempotent, retries=retries, call_timeout_s=timeout_s, retry_on=kinds)


def make_config(
    *,
    max_workers: int | None,
    memory: str | int | None,
    cores: int,
    allocator: str | os.PathLike[str] | None,
    transport: str,
    hot_for_s: float | str,
    acquire_timeout_s: float | str | None,
    daemon_python: str | os.PathLike[str] | None,
    calls: CallSettings,
    placement: str = "pack",
    environ: Mapping[str, str] = os.environ,
    output: OutputSettings = OutputSettings(),
    payload_limit_bytes: int | None = None,
    files_limit_bytes: int = 64 << 20,
    check_modules: str = "warn",
    transport_security: str = "trusted",
    arena_bytes: int = 256 << 20,
    array_memory_bytes: int | None = None,
    load: str = "",
) -> ExecutorConfig:
    """Check an executor's arguments and find its allocator.

    Raises:
        ConfigError: a value is wrong; the message says which, and what would be right.
    """
    _check_medium(transport, transport_security)
    if placement not in PLACEMENTS:
        raise ConfigError(f"placement={placement!r} is not one of {', '.join(PLACEMENTS)}", hint='leave it at "pack"')
    choice = choose_allocator(allocator, environ)
    patience_s = _optional_duration("acquire_timeout_s", acquire_timeout_s)
    if patience_s is None and isinstance(choice, StateDir) and environ.get(SLICE_MARK):
        patience_s = NESTED_ACQUIRE_TIMEOUT_S
    return ExecutorConfig(
        max_workers=_max_workers(max_workers, choice),
        cores=_whole_number("cores", cores, 1, 65_535),
        memory_bytes=_memory_bytes(memory, choice),
        choice=choice,
        transport=transport,
        hot_for_s=parse_duration_s(hot_for_s, name="hot_for_s"),
        acquire_timeout_s=patience_s,
        daemon_python=_interpreter(Settings.load(environ).value("daemon_python", daemon_python)),
        calls=calls,
        placement=placement,
        output=output,
        payload_limit_bytes=payload_limit_bytes,
        files_limit_bytes=files_limit_bytes,
        check_modules=check_modules,
        transport_security=transport_security,
        arena_bytes=arena_bytes // 4096 * 4096,
        array_memory_bytes=array_memory_bytes,
        load=load,
    )


def _check_medium(transport: str, transport_security: str) -> None:
    if transport_security not in SECURITIES:
        wrong = f"transport_security={transport_security!r} is not one of {', '.join(SECURITIES)}"
        raise ConfigError(wrong, hint='leave it at "trusted"')
    if transport_security == "encrypt":
        tls.require()
    if transport not in TRANSPORTS:
        raise ConfigError(f"transport={transport!r} is not one of {', '.join(TRANSPORTS)}", hint='leave it at "auto"')
    if transport == "verbs":
        if transport_security == "encrypt":
            wrong = 'transport="verbs" with transport_security="encrypt": what goes over RDMA is not encrypted'
            raise ConfigError(wrong, hint='leave transport at "auto", which takes TCP then')
        verbs.require()


def check_worker_life(initializer: object, initargs: object, max_tasks_per_child: object) -> None:
    """Check what workers are to do before their first call and after their last, as the standard executor does.

    Raises:
        TypeError: the initializer can't be called, its arguments are no sequence, or the number is none.
        ConfigError: the number is below 1.
    """
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a callable, not {initializer!r}; pass its arguments as initargs")
    if not isinstance(initargs, Iterable):
        raise TypeError(
            f"initargs must be a tuple of arguments, not {initargs!r}; a single one is written ({initargs!r},)"
        )
    if max_tasks_per_child is None:
        return
    if isinstance(max_tasks_per_child, bool) or not isinstance(max_tasks_per_child, int):
        raise TypeError(f"max_tasks_per_child must be an integer, not {max_tasks_per_child!r}; None means no limit")
    _whole_number("max_tasks_per_child", max_tasks_per_child, 1, 1_000_000_000)


def check_resize(workers: object, lease_workers: object) -> None:
    """Check the numbers of `Executor.resize`.

    Raises:
        TypeError: one is no integer.
        ConfigError: one is out of range.
    """
    for name, value in ("workers", workers), ("lease_workers", lease_workers):
        if value is None and name == "workers":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            none = "; None means as many as calls need" if name == "workers" else "; 0 means any number"
            raise TypeError(f"{name} must be an integer, not {value!r}{none}")
        _whole_number(name, value, 0, MAX_WORKERS_LIMIT)


def choose_allocator(value: str | os.PathLike[str] | None, environ: Mapping[str, str] = os.environ) -> AllocatorChoice:
    """Find the allocator that a program means.

    In this order: the argument, the setting `allocator`, the site's (setting `site.allocator`) through one of the
    user's own, the state directory of an allocator that runs, none (embedded). "embedded" asks for none; anything else
    is the path of a state directory. A function that runs on a slice has to name an allocator if it means one: else
    its calls could wait for the cores that its own callers hold, for ever.

    Raises:
        ConfigError: the path named by argument or environment is no directory.
    """
    if value is not None and (not isinstance(value, str | os.PathLike) or not os.fspath(value)):
        raise ConfigError(f'allocator={value!r} is neither "embedded" nor a path', hint="pass a state directory")
    settings = Settings.load(environ)
    found = settings.find("allocator", value)
    if found.value is None:
        if environ.get(SLICE_MARK):
            return Embedded()
        try:
            default = _state_dir(settings, environ)
        except ConfigError:  # no home directory, as in many containers: then nobody has said `rfaas up` there either
            return Embedded()
        site = settings.value("site.allocator")
        if site:
            return StateDir(default, site)
        return StateDir(default) if _is_served(default) else Embedded()
    if found.value == "embedded":
        return Embedded()
    path = Path(found.value)
    if not path.is_dir():
        raise ConfigError(
            f"{found.label}={found.value!r} is not a state directory",
            hint='run `rfaas up` there first, or pass allocator="embedded" to use this machine only',
        )
    return StateDir(path)


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's state directory, which may not exist yet (docs/spec/003-control.md).

    Raises:
        ConfigError: neither setting nor home directory says where it is.
    """
    return _state_dir(Settings.load(environ), environ)


def _state_dir(settings: Settings, environ: Mapping[str, str]) -> Path:
    found = settings.value("state_dir")
    if found is not None:
        return Path(found)
    base = environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "rfaas"
    except RuntimeError as error:  # no HOME, and no entry in passwd
        raise ConfigError("this user has no home directory", hint="set RFAAS_STATE_DIR, or HOME") from error


def _is_served(directory: Path) -> bool:
    """Tell whether an allocator serves this state directory, as far as can be seen from here.

    Raises:
        ConfigError: one did, and what it left says that it was not stopped, or can't be believed. A program that was
            meant for a cluster must not run on the login node because of that.
    """
    try:
        address = AllocatorAddress.load(directory)
    except AllocatorUnavailable:
        return False
    if not address.alive:
        raise ConfigError(
            f"the allocator of {directory} was not stopped, but can't be reached",
            hint='`rfaas up` starts it again, `rfaas down` ends it; allocator="embedded" uses this machine alone',
        )
    return True


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def _max_workers(value: int | None, choice: AllocatorChoice) -> int:
    if value is None:
        return usable_cpus() if isinstance(choice, Embedded) else MAX_WORKERS_ALLOCATOR
    return _whole_number("max_workers", value, 1, MAX_WORKERS_LIMIT)


def _memory_bytes(value: str | int | None, choice: AllocatorChoice) -> int:
    """Of each worker. On the user's own machine there is no limit but the machine's where none was named (002 §10)."""
    if value is not None:
        return parse_size_bytes(value, name="memory")
    if isinstance(choice, Embedded):
        return machine_bytes()
    return DEFAULT_MEMORY_BYTES


def _whole_number(name: str, value: object, minimum: int, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ConfigError(f"{name}={value!r} is not possible", hint=f"write a whole number from {minimum} to {maximum}")
    return value


def _exceptions(name: str, value: object) -> tuple[type[BaseException], ...]:
    kinds = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | type) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ConfigError(f"{name}={value!r}: {kind!r} is no exception class", hint=f"write {name}=[OSError]")
    return kinds


def _optional_duration(name: str, value: float | str | None) -> float | None:
    """A duration above zero, or None."""
    if value is None:
        return None
    duration_s = parse_duration_s(value, name=name)
    if duration_s == 0.0:
        raise ConfigError(f"{name}={value!r} leaves no time", hint="write more than 0, or None for no limit")
    return duration_s


def _interpreter(value: str | os.PathLike[str] | None) -> str | None:
    if value is None:
        return None
    path = os.path.abspath(os.path.expanduser(os.fspath(value)))
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise ConfigError(f"daemon_python={os.fspath(value)!r} can't be executed", hint="name a Python interpreter")
    return path
