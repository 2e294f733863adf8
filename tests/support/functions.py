"""Functions that tests call on workers: importable there by name, unlike those of a test module."""

import os
import signal
import threading
import time
from pathlib import Path

POLL_S = 0.005


class CustomError(Exception):
    """An error of a user's package."""

    def __init__(self, number, text):
        super().__init__(number, text)
        self.number = number
        self.text = text


class PickyError(Exception):
    """Can be pickled and not unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def nothing():
    """As little as a call can be."""


def echo(*args, **kwargs):
    return args, kwargs


def scheduling_policy():
    return os.sched_getscheduler(0)


def add(a, b=0):
    return a + b


def pid():
    return os.getpid()


def sleep(duration_s):
    time.sleep(duration_s)
    return duration_s


def sleep_then_pid(duration_s):
    time.sleep(duration_s)
    return os.getpid()


def raise_custom():
    raise CustomError(7, "seven")


def raise_picky():
    raise PickyError("a", "b")


def raise_chained():
    try:
        raise_custom()
    except CustomError as error:
        raise ValueError("outer") from error


def return_lock():
    return threading.Lock()


def witness(path, word="ran"):
    """Write down that this ran: one line a run."""
    with open(path, "a") as file:
        file.write(f"{word} {os.getpid()}\n")
    return os.getpid()


def witness_then_wait(path, gate):
    """Write down that this ran, then wait until the file `gate` is there."""
    witness(path)
    while not Path(gate).exists():
        time.sleep(POLL_S)
    return "done"


def witness_then_die(path, signal_number=signal.SIGKILL):
    witness(path)
    os.kill(os.getpid(), signal_number)
    while True:
        time.sleep(1)


def die_at_first(path):
    """Kill this worker at the first run; return how often this ran."""
    runs = len(Path(path).read_text().splitlines()) if Path(path).exists() else 0
    witness(path)
    if runs == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return runs + 1


def burn(cpu_s):
    """Use so much CPU time; return pid and the seconds on the wall that it took."""
    begin_s, until_s = time.monotonic(), time.process_time() + cpu_s
    while time.process_time() < until_s:
        sum(range(1000))
    return os.getpid(), time.monotonic() - begin_s


def sleep_then_exit(seconds):
    """Leave without a word in the middle of a call."""
    time.sleep(seconds)
    os._exit(3)


def scale_in_place(array, factor):
    array *= factor
    return array


def call_nested(numbers):
    """Use an executor inside a function."""
    import rfaas

    with rfaas.Executor(2, allocator="embedded") as ex:
        return list(ex.map(abs, numbers))


def runs(path):
    """How often witness functions wrote to this file."""
    return len(Path(path).read_text().splitlines()) if Path(path).exists() else 0
