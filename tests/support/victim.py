"""`python -m support.victim`: a program that calls functions until it is killed, perhaps with a child of its own.

Arguments: allocator, witness file, workers, and `alone`, `fork` (a child by os.fork, in which rfaas lets go of the
parent's sockets) or `copy` (a child by the bare system call, which keeps copies of all of them). Says its child's pid
(or 0) once calls are answered.
"""

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
    allocator, witness, workers, child = sys.argv[1:]
    with rfaas.Executor(int(workers), memory="1MiB", allocator=allocator) as executor:
        stream = Stream(executor, witness, 0, window=2 * int(workers))
        stream.wait_answers(5 * int(workers))
        print({"alone": lambda: 0, "fork": forked, "copy": copied}[child](), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
