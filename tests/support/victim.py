"""`python -m support.victim`: a program that calls functions until it is killed, perhaps with a child of its own.

Arguments: allocator, witness file, workers of each executor, `alone`, `fork` (a child by os.fork, in which rfaas lets
go of the parent's sockets) or `copy` (a child by the bare system call, which keeps copies of all of them), and how many
executors; those after the first write to files of their own, `WITNESS.1` and so on. Says its child's pid (or 0) once
calls are answered.
"""

import contextlib
import ctypes
import os
import signal
import sys

import rfaas
from support.stream import Stream


def forked():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid


def copied():
    """The GIL stays held in both, and nothing that Python has registered for forks runs."""
    libc = ctypes.PyDLL(None)
    pid = libc.fork()
    if pid == 0:
        libc.pause()
    return pid


def main():
    allocator, witness, workers, child, executors = sys.argv[1:]
    n_workers = int(workers)
    with contextlib.ExitStack() as stack:
        streams = []
        for number in range(int(executors)):
            executor = stack.enter_context(rfaas.Executor(n_workers, memory="256MiB", allocator=allocator))
            path = f"{witness}.{number}" if number else witness
            streams.append(Stream(executor, path, number, window=2 * n_workers))
        for stream in streams:
            stream.wait_answers(5 * n_workers)
        print({"alone": lambda: 0, "fork": forked, "copy": copied}[child](), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
