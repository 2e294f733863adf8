"""Functions, initializers and objects for tests of executors, importable on workers of either kind of executor."""

import os
import threading
import time
from pathlib import Path

STATE = {}


class Unpicklable:
    """Refuses to be pickled, in words of its own."""

    def __reduce__(self):
        raise ValueError("this is a lease on a licence, not a value")


class Explodes:
    """Can be pickled, and raises when it is unpickled."""

    def __reduce__(self):
        return (explode, ())


def explode():
    raise RuntimeError("unpickled where it must not be")


def remember(key, value):
    """An initializer."""
    STATE[key] = value
    return threading.Lock()  # what can't be pickled: nobody asked for the return value


def remember_in_file(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    STATE["initialized"] = STATE.get("initialized", 0) + 1


def recall(key, pause_s=0.0):
    time.sleep(pause_s)
    return STATE.get(key), os.getpid()


def fail_to_initialize(text):
    raise LookupError(text)


def fail_unless_first(path):
    """An initializer that works once."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        raise LookupError("only one licence") from None


def note_and_return(path, value):
    with open(path, "a") as file:
        file.write(f"{value}\n")
    return value


def note_pid_and_wait(path, gate):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(gate).exists():
        time.sleep(0.005)
    return os.getpid()


def lines(path):
    return Path(path).read_text().split() if Path(path).exists() else []


def raise_this(error):
    raise error


def raise_with_notes():
    error = ValueError("noted")
    error.add_note("in the second step")
    error.add_note("of file 7")
    raise error


def raise_group():
    raise ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])])


def raise_chain():
    """KeyError as the cause, OSError as the context of the cause, all noted."""
    try:
        try:
            try:
                raise OSError(2, "no such thing")
            except OSError:
                {}["missing"]
        except KeyError as cause:
            cause.add_note("looked in an empty dict")
            raise ValueError("outer") from cause
    except ValueError as error:
        error.add_note("a note")
        raise


def raise_from_none():
    try:
        raise OSError("hidden")
    except OSError:
        raise ValueError("seen") from None


def raise_chain_with_a_local_class():
    class LocalError(Exception):
        def __reduce__(self):
            raise TypeError("never")

    try:
        raise LocalError("can't travel")
    except LocalError as cause:
        raise ValueError("outer") from cause


def raise_group_of_chains():
    members = []
    for n in range(2):
        try:
            try:
                raise KeyError(n)
            except KeyError as cause:
                raise ValueError(n) from cause
        except ValueError as error:
            members.append(error)
    raise ExceptionGroup("both", members)


def stop_iteration():
    raise StopIteration("end")


def nest(depth):
    """Make an executor inside a function, and one inside that."""
    import rfaas

    if depth == 0:
        return [os.getpid()]
    with rfaas.Executor(1) as ex:
        return [os.getpid(), *ex.submit(nest, depth - 1).result(60)]


def nest_at(state_dir):
    """Ask the allocator for cores that the caller holds."""
    import rfaas

    with rfaas.Executor(1, allocator=state_dir, acquire_timeout_s=0.5) as ex:
        return ex.submit(os.getpid).result(60)


def ignore_everything(path):
    """Hard to end: every signal that can be is ignored, and nothing ever returns."""
    import contextlib
    import signal

    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    note_pid_and_wait(path, str(path) + "-never")
