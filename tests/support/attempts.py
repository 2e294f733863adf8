"""Functions that look at the call they are (`rfaas.current`) and save what they have, for tests."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import rfaas

POLL_S = 0.005


def facts():
    """All that a call can learn of itself."""
    call = rfaas.current()
    return {
        "invocation_id": call.invocation_id,
        "attempt": call.attempt,
        "fencing_token": call.fencing_token,
        "restored": call.restored,
        "time_left": call.time_left(),
        "modules": [name for name in ("grpc", "google.protobuf", "numpy") if name in sys.modules],
        "threads": [thread.name for thread in threading.enumerate()],
        "pid": os.getpid(),
    }


def keep_context():
    """Leave the call's context behind in this worker."""
    globals()["kept"] = rfaas.current()
    return os.getpid()


def use_kept(name):
    """What an earlier call's context says, in the same worker."""
    value = getattr(globals()["kept"], name)
    return value() if callable(value) else value


def ask_for_event():
    """Ask for everything that needs a thread; return its threads."""
    call = rfaas.current()
    call.on_reclaim(lambda: None)
    assert not call.reclaim_event.is_set()
    return [thread.name for thread in threading.enumerate()]


def save_and_die(data, times=1):
    """Save `data` (and how often that happened) and die; from the attempt `times` on return what was restored."""
    call = rfaas.current()
    if call.attempt >= times:
        return call.restored, call.invocation_id, call.attempt
    call.checkpoint(data + bytes([call.attempt]))
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def save(size_bytes):
    rfaas.current().checkpoint(bytes(size_bytes))
    return "saved"


def save_then_fail(data, error):
    rfaas.current().checkpoint(data)
    raise error


def count_until_reclaimed(started, goal):
    """Count; at a notice save the number and give the core back. The next attempt goes on from there."""
    call = rfaas.current()
    count = int(call.restored or b"0")
    Path(started).write_text(f"{call.attempt} {call.invocation_id}")
    while count < goal:
        if call.reclaim_event.is_set():
            call.checkpoint(str(count).encode())
            sys.exit()
        count += 1
        time.sleep(POLL_S)
    return count, call.attempt, call.invocation_id


def save_in_handler(started, gate):
    """Wait for `gate`, deaf to the notice, while a handler saves what the clock says."""
    call = rfaas.current()

    @call.on_reclaim
    def broken():
        raise ValueError("a handler that fails")

    @call.on_reclaim
    def save_time_left():
        call.checkpoint(f"{call.time_left():.3f}".encode())

    Path(started).touch()
    while not Path(gate).exists():
        time.sleep(POLL_S)
    return "done"


def finish_at_notice(started):
    """Return soon after the notice comes; a handler that comes too late runs too."""
    call = rfaas.current()
    Path(started).touch()
    call.reclaim_event.wait()
    ran = threading.Event()
    call.on_reclaim(ran.set)
    ran.wait(5)
    return ran.is_set(), call.time_left()


def die_then_wait(path, first_s):
    """Die after a while at the first attempt, wait for ever at the second."""
    with open(path, "a") as file:
        file.write(f"{rfaas.current().attempt} {rfaas.current().time_left()}\n")
    if rfaas.current().attempt == 0:
        time.sleep(first_s)
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(POLL_S)


def fail_times(path, times, error):
    """Raise `error` in the first `times` runs, then return how often this ran."""
    with open(path, "a") as file:
        file.write("ran\n")
    runs = len(Path(path).read_text().splitlines())
    if runs <= times:
        raise error
    return runs


def in_child():
    """Ask from a child process that the function forks; return what it got."""
    read_end, write_end = os.pipe()
    call = rfaas.current()
    pid = os.fork()
    if pid == 0:
        try:
            call.checkpoint(b"x")
            os.write(write_end, b"sent")
        except RuntimeError as error:
            os.write(write_end, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write_end)
    with open(read_end, "rb") as said:
        return said.read().decode()
