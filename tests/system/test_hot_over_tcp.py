"""What the kernel does for a worker that serves calls one upon the other over TCP, where it polls its socket itself."""

import contextlib
import os

import rfaas
from support.waiting import wait_until

MIB = 1 << 20


def double(number):
    return 2 * number


def watched_by(pid):
    """How many descriptors the epolls of a process watch."""
    n = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(f"/proc/{pid}/fd/{fd}") == "anon_inode:[eventpoll]":
                with open(f"/proc/{pid}/fdinfo/{fd}") as info:
                    n += sum(line.startswith("tfd:") for line in info)
    return n


def test_a_worker_that_polls_its_socket_is_not_told_by_the_kernel_too_until_it_sleeps(monkeypatch):
    monkeypatch.delenv("RFAAS_EVENT_LOG", raising=False)  # it tells of each call, which none is hot for
    with rfaas.Executor(max_workers=1, transport="tcp", hot_for_s=0.5) as executor:
        worker = executor.invoke(os.getpid)
        asleep = watched_by(worker)  # one call makes nobody hot

        def left_out():
            for number in range(100):
                assert executor.invoke(double, number) == 2 * number
            return watched_by(worker) == asleep - 1

        wait_until(left_out, 30)
        assert len(executor.invoke(bytes, 40 * MIB)) == 40 * MIB  # more than a socket takes at once
        wait_until(left_out, 30)
        wait_until(lambda: watched_by(worker) == asleep, 30)
        assert executor.invoke(double, 1) == 2
