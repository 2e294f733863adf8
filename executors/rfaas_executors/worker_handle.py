"""The agent's side of one worker: its control socket, its state page, its pidfd.

Must not decide: it reports and does what it is told. Lives in the agent's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from rfaas_executors import agent_events as on
from rfaas_executors import control, family, proc_usage
from rfaas_executors._process import StatePage
from rfaas_executors.output import WorkerOutput

STOP_TRIES = 20  # of STOP_STEP_S each, for a worker to stop so that its page holds still
STOP_STEP_S = 0.001
WATCH_S = 0.05  # between looks at a worker that was given a call with a deadline


class WorkerHandle:
    """One worker from the order to its proven death. `close` must be called.

    Args:
        memory_bytes: that it may use.
    """

    def __init__(self, number: int, memory_bytes: int, post: Callable[[on.Event], None]) -> None:
        self.number = number
        self.memory_bytes = memory_bytes
        self.pid = 0
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._control: socket.socket | None = None
        self._pidfd = -1
        self._page: StatePage | None = None
        self._page_slots: dict[int, int] = {}  # by channel
        self.cpu_ns = 0  # as the kernel said when it was reaped here
        self._drain_wanted = self._kill_wanted = self._stopped = False
        self._held: list[int] = []  # what the guard has stopped: the worker, then what it started
        self._kill_at_s: float | None = None
        self._output: WorkerOutput | None = None

    @property
    def page(self) -> StatePage:
        """Its state page; made by `open`."""
        assert self._page is not None
        return self._page

    def open(self) -> socket.socket:
        """Make page and control connection; return the worker's end, which is the caller's."""
        self._page = StatePage.create()
        self._control, theirs = control.pair()
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._on_readable)
        if self._drain_wanted:
            self.drain(self._kill_at_s)
        return theirs

    def open_output(self, limit_bytes: int, backlog_bytes: Callable[[], int]) -> tuple[int, int]:
        """Have what it prints taken from now on; return the worker's ends of both pipes, which are the caller's."""
        self._output = WorkerOutput(self.number, limit_bytes, self.page, self._started_last, self._post, backlog_bytes)
        return self._output.open()

    def _started_last(self) -> tuple[int, int]:
        """Channel and number of the call that it started last."""
        started = ((call_id, channel) for channel, (call_id, _) in self.calls().items())
        call_id, channel = max(started, default=(0, 0))
        return channel, call_id

    def end_output(self) -> None:
        """It is dead: tell what it printed last, before its farewell is said."""
        self._on_readable()  # it may have said that a call's output is complete
        if self._output is not None:
            self._output.close()

    def forked(self, pid: int, pidfd: int) -> None:
        """It runs; the descriptor is the handle's now."""
        self.pid, self._pidfd = pid, pidfd
        if self._kill_wanted:
            self.kill()

    def hand_over(self, order: on.HandOver, descriptor: int, key: bytes = b"") -> None:
        """Pass a connection, and the key of one that is to be encrypted; the descriptor stays the caller's."""
        self._page_slots[order.channel] = order.page_slot
        self._tell(
            {
                "m": "channel",
                "channel": order.channel,
                "page_slot": order.page_slot,
                "lease_seq": order.lease_seq,
                "epoch": order.epoch,
                "lease": order.lease,
                "holder": order.holder,
                "medium": order.medium,
                "hot_for_s": order.hot_for_s,
                "key": key,
            },
            (descriptor,),
        )

    def drain(self, kill_at_s: float | None) -> None:
        """Tell it to finish its call and leave by then."""
        self._drain_wanted, self._kill_at_s = True, kill_at_s
        self._tell({"m": "drain", "kill_at_s": kill_at_s})

    def interrupt(self, page_slot: int, call_id: int) -> None:
        """Take a call back: report it if it runs, in which case the worker starts no other (001 section 5)."""
        if self._page is not None and self._page.interrupt(page_slot, call_id) and not self._has_ended():
            self._post(on.CallInterrupted(self.number))

    def _has_ended(self) -> bool:
        """True for a zombie: it died before, of something else."""
        return self._pidfd >= 0 and bool(select.select([self._pidfd], [], [], 0)[0])

    def kill(self) -> None:
        """SIGKILL, now or as soon as it exists."""
        self._kill_wanted = True
        self._signal(signal.SIGKILL)

    def hold(self) -> bool:
        """Stop it with all that it started, until `let_go`; False if it is about to be judged, drained or killed.

        Parents first: the children of a process that stands still can't be reaped, so no number is another's meanwhile.
        """
        if self._pidfd < 0 or self._stopped or self._drain_wanted or self._kill_wanted:
            return False
        self._signal(signal.SIGSTOP)
        self._held = [self.pid]
        for pid in self._held:  # which grows
            for child in proc_usage.children_of(pid):
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGSTOP)
                    self._held.append(child)
        return True

    def let_go(self) -> None:
        """Let it run again, unless it is being judged; repeatable."""
        held, self._held = self._held, []
        for child in held[:0:-1]:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGCONT)
        if held and not self._stopped:
            self._signal(signal.SIGCONT)

    def running_ns(self) -> int:
        """Time in calls so far, one that runs included; held times count."""
        if self._page is None:
            return 0
        running_ns, _, _, _, _ = self._page.usage()
        now_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for slot in self._page_slots.values():
            _, started, done, _, started_boot_ns = self._page.read(slot)
            if started != done:
                running_ns += max(0, now_boot_ns - started_boot_ns)
        return running_ns

    def calls(self) -> dict[int, tuple[int, int]]:
        """By channel: last started, last done; exact once it is dead."""
        found = {}
        if self._page is not None:
            for channel, slot in self._page_slots.items():
                number, started, done, _, _ = self._page.read(slot)
                found[channel] = (started, done) if number == channel else (0, 0)
        return found

    def last_words(self) -> str:
        """Why it ended, in its own words or a function's: one line of printable text; empty if it left none."""
        said = self._page.last_words().decode(errors="replace") if self._page is not None else ""
        return "".join(sign if sign.isprintable() else "?" for sign in said)

    def runs_call(self) -> bool:
        """True while a call runs on any of its channels."""
        if self._page is None:
            return False
        for slot in self._page_slots.values():
            _, started, done, _, _ = self._page.read(slot)
            if started != done:
                return True
        return False

    def hang_up(self) -> None:
        """Close the control connection: a worker without an agent ends by itself."""
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None

    def usage(self, cpu_ns: int | None = None) -> on.WorkerUsage:
        """What it has cost so far; a call that runs, or ran when it died, counts up to now.

        Args:
            cpu_ns: what the kernel said when it was reaped; None: it lives, ask /proc.
        """
        if self._page is None:
            return on.WorkerUsage()
        running_ns, hot_ns, calls, bytes_in, bytes_out = self._page.usage()  # before the slots: no call counts twice
        now_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for slot in self._page_slots.values():
            _, started, done, _, started_boot_ns = self._page.read(slot)
            if started != done:
                running_ns += max(0, now_boot_ns - started_boot_ns)
        spent_ns = family.cpu_ns(self.pid) if cpu_ns is None else cpu_ns
        return on.WorkerUsage(running_ns, hot_ns, spent_ns, calls, bytes_in, bytes_out)

    def close(self) -> None:
        """Let go of everything; repeatable."""
        self.hang_up()
        if self._output is not None:
            self._output.close()
            self._output = None
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    # --- calls past their deadline --------------------------------------------------------------

    def _watch(self) -> None:
        """Look from now on whether the running call is past its deadline. A stopped worker is about to be judged."""
        if self._pidfd < 0 or self._kill_wanted:
            return
        overdue = None if self._stopped else self._overdue()
        if overdue:
            self._stopped = True
            self._signal(signal.SIGSTOP)
            self._loop.call_later(STOP_STEP_S, self._judge, overdue, STOP_TRIES)
        self._loop.call_later(WATCH_S, self._watch)

    def _overdue(self) -> tuple[int, int] | None:
        """(page slot, call id) of a running call whose deadline has passed."""
        now_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for slot in self._page_slots.values() if self._page is not None else ():
            _, started, done, deadline_boot_ns, _ = self.page.read(slot)
            if started != done and 0 < deadline_boot_ns < now_boot_ns:
                return slot, started
        return None

    def _judge(self, overdue: tuple[int, int], tries: int) -> None:
        """The call may have ended between the look and the stop; the page of a stopped worker says so for certain."""
        if self._pidfd < 0:
            return
        if tries and not _is_stopped(self.pid):
            self._loop.call_later(STOP_STEP_S, self._judge, overdue, tries - 1)
        elif self._overdue() == overdue:
            self._post(on.CallOverdue(self.number))
        else:
            self._stopped = False
            if not self._held:
                self._signal(signal.SIGCONT)

    # --- small things ---------------------------------------------------------------------------

    def _signal(self, signo: int) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signo)

    def _tell(self, message: control.Message, descriptors: tuple[int, ...] = ()) -> bool:
        """A worker reads between calls; a full socket means that it will never read all that, so it counts as gone."""
        if self._control is None:
            return False
        try:
            control.send(self._control, message, descriptors)
        except OSError:
            return False
        return True

    def _on_readable(self) -> None:
        while self._control is not None:
            try:
                received = control.receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:  # it has ended; the template will say how
                self._loop.remove_reader(self._control)
                return
            message, _ = received
            if message["m"] == "closed":
                calls = self.calls().get(message["channel"])
                self._page_slots.pop(message["channel"], None)
                violated = message.get("violated") is True
                self._post(on.ChannelEnded(self.number, message["channel"], calls, violated))
            elif message["m"] == "deadlines":
                self._watch()
            elif message["m"] == "printed" and self._output is not None:
                self._output.complete(message["channel"], message["call_id"])

    async def inherited_death(self, is_parent: bool) -> None:
        """Kill it and wait until it is dead, when the template that should have done so is dead itself."""
        if self._pidfd < 0:
            return
        self.kill()
        dead = asyncio.Event()
        self._loop.add_reader(self._pidfd, dead.set)
        await dead.wait()
        self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if is_parent:
            while (reaped := family.reap_counted(self.pid)) is None:
                await asyncio.sleep(STOP_STEP_S)
            self.cpu_ns = reaped[1]


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return True  # it has died meanwhile: its page holds still for good
