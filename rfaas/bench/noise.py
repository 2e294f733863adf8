"""What disturbed a measurement: read from /proc and /sys before and after it, and said in words.

`Machine.read` is the only thing here that reads; all else is pure and works on the texts. Must not hide: a finding is
reported even where nothing can be done about it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

STEAL_SHARE: Final = 0.001  # of the CPU's time: what a hypervisor that is busy elsewhere takes from tails first
OTHERS: Final = (
    0.2  # processes that want a CPU besides us, on average: a quiet machine has a kernel thread now and then
)
WATCH_S: Final = 0.2
WATCH_STEPS: Final = 20
SWITCHES_PER_S: Final = 50.0  # involuntary, of the calling process: somebody else wants its CPU


class CpuTimes(NamedTuple):
    """One CPU's line of /proc/stat, in ticks."""

    busy: int
    idle: int
    steal: int

    @property
    def total(self) -> int:
        """All ticks."""
        return self.busy + self.idle + self.steal


class Noise(NamedTuple):
    """One finding.

    Attributes:
        what: stable word: steal, one-cpu, siblings, oversubscribed, load, governor, switches, throttled, others.
        text: for people, with the figure.
    """

    what: str
    text: str


@dataclass(frozen=True)
class Machine:
    """What /proc and /sys said at one moment.

    Attributes:
        stat, loadavg, status: texts of /proc/stat, /proc/loadavg, /proc/self/status.
        governors: of cpufreq, by CPU; empty where the machine has none.
        siblings: CPUs that share a core, by CPU, as the kernel writes lists ("0,4", "0-1").
        throttled_us: of this process's cgroup, by its CPU quota; None: it has none.
        others: processes that wanted a CPU besides this one, on average over the time that was watched.
        at_s: time.monotonic of the reading.
    """

    stat: str
    loadavg: str
    status: str
    governors: dict[int, str]
    siblings: dict[int, str]
    throttled_us: int | None
    others: float
    at_s: float

    @classmethod
    def read(cls, watch_s: float = 0.0, proc: Path = Path("/proc"), system: Path = Path("/sys")) -> Machine:
        """Read everything; what is not there is empty.

        Args:
            watch_s: how long to look for others that want a CPU; 0: once. The load average would not do: what we
                measured a minute ago is in it.
            proc, system: where they are mounted.
        """
        looks = [running(_text(proc / "loadavg"))]
        for _ in range(WATCH_STEPS if watch_s else 0):
            time.sleep(watch_s / WATCH_STEPS)
            looks.append(running(_text(proc / "loadavg")))
        cpus = sorted(os.sched_getaffinity(0))
        folder = system / "devices/system/cpu"
        governors = {cpu: _text(folder / f"cpu{cpu}/cpufreq/scaling_governor").strip() for cpu in cpus}
        siblings = {cpu: _text(folder / f"cpu{cpu}/topology/thread_siblings_list").strip() for cpu in cpus}
        return cls(
            stat=_text(proc / "stat"),
            loadavg=_text(proc / "loadavg"),
            status=_text(proc / "self/status"),
            governors={cpu: name for cpu, name in governors.items() if name},
            siblings={cpu: names for cpu, names in siblings.items() if names},
            throttled_us=throttled_us(_text(system / "fs/cgroup" / _cgroup(proc) / "cpu.stat")),
            others=max(0.0, sum(looks) / len(looks) - 1),
            at_s=time.monotonic(),
        )


def findings(
    before: Machine, after: Machine, *, client_cpu: int | None, worker_cpu: int | None, processes: int = 2
) -> list[Noise]:
    """Say what disturbed the time between two readings.

    Args:
        before, after: the readings.
        client_cpu, worker_cpu: where the two sides were pinned; None: the scheduler chose.
        processes: how many of ours want a CPU at the same time.
    """
    pinned = [cpu for cpu in (client_cpu, worker_cpu) if cpu is not None]
    return [*_placement(before, client_cpu, worker_cpu), *_of_one_machine(before, after, pinned, processes)]


def findings_apart(
    here: tuple[Machine, Machine],
    there: tuple[Machine, Machine],
    node: str,
    client_cpu: int | None,
    worker_cpu: int | None,
) -> list[Noise]:
    """Say what disturbed the time between two readings of two machines: CPUs of the same number are different ones.

    Args:
        here: of the client's machine, before and after.
        there: of the worker's, by the worker.
        node: name of the worker's machine.
        client_cpu, worker_cpu: where the two sides were pinned, each on its own machine; None: the scheduler chose.
    """
    found = []
    if client_cpu is None or worker_cpu is None:
        found.append(Noise("unpinned", "nothing is pinned: both sides may move between CPUs"))
    found += _of_one_machine(*here, [] if client_cpu is None else [client_cpu], processes=1)
    for one in _of_one_machine(*there, [] if worker_cpu is None else [worker_cpu], processes=1):
        found.append(Noise(one.what, f"on {node}, where the worker is: {one.text}"))
    return found


def _of_one_machine(before: Machine, after: Machine, pinned: Sequence[int], processes: int) -> list[Noise]:
    found = [
        *_oversubscription(before, processes),
        *_load(before),
        *_governors(before, pinned or sorted(before.governors)),
        *_steal(before, after, pinned),
        *_switches(before, after),
    ]
    if before.throttled_us is not None and after.throttled_us is not None and after.throttled_us > before.throttled_us:
        lost_ms = (after.throttled_us - before.throttled_us) / 1e3
        found.append(Noise("throttled", f"the cgroup's CPU quota stopped this process for {lost_ms:.1f} ms"))
    return found


def _placement(machine: Machine, client_cpu: int | None, worker_cpu: int | None) -> Iterable[Noise]:
    if client_cpu is None or worker_cpu is None:
        if len(machine.siblings or cpu_times(machine.stat)) > 1:
            yield Noise("unpinned", "nothing is pinned: both sides may move between CPUs, or share one")
        return
    if client_cpu == worker_cpu:
        yield Noise("one-cpu", f"client and worker share CPU {client_cpu}: neither can poll while the other runs")
    elif worker_cpu in cpu_list(machine.siblings.get(client_cpu, "")):
        yield Noise("siblings", f"CPU {client_cpu} and CPU {worker_cpu} are threads of one core")


def _oversubscription(machine: Machine, processes: int) -> Iterable[Noise]:
    n_cpus = len(machine.siblings) or len(cpu_times(machine.stat)) or 1
    if processes > n_cpus:
        yield Noise("oversubscribed", f"{processes} processes that want a CPU each have {n_cpus}")


def _load(machine: Machine) -> Iterable[Noise]:
    if machine.others >= OTHERS:
        minute = machine.loadavg.split(" ")[0]
        yield Noise("load", f"{machine.others:.1f} other processes wanted a CPU when it began (load average {minute})")


def _governors(machine: Machine, cpus: Sequence[int]) -> Iterable[Noise]:
    slow = {machine.governors[cpu] for cpu in cpus if machine.governors.get(cpu, "performance") != "performance"}
    for name in sorted(slow):
        yield Noise("governor", f"frequency governor {name}: the clock rate follows the load; quiet is performance")


def _steal(before: Machine, after: Machine, pinned: Sequence[int]) -> Iterable[Noise]:
    first, last = cpu_times(before.stat), cpu_times(after.stat)
    for cpu in pinned or sorted(first):
        if cpu not in first or cpu not in last:
            continue
        ticks = last[cpu].total - first[cpu].total
        stolen = last[cpu].steal - first[cpu].steal
        if ticks > 0 and stolen / ticks >= STEAL_SHARE:
            yield Noise("steal", f"the hypervisor took {100 * stolen / ticks:.1f} % of CPU {cpu}")


def _switches(before: Machine, after: Machine) -> Iterable[Noise]:
    elapsed_s = after.at_s - before.at_s
    n = involuntary_switches(after.status) - involuntary_switches(before.status)
    if elapsed_s > 0 and n / elapsed_s >= SWITCHES_PER_S:
        yield Noise("switches", f"this process was put off its CPU {n / elapsed_s:.0f} times a second")


# --- the texts ------------------------------------------------------------------------------------------------------


def cpu_times(stat: str) -> dict[int, CpuTimes]:
    """Ticks by CPU, of a text of /proc/stat (proc(5)); guest time is in user time already."""
    found: dict[int, CpuTimes] = {}
    for line in stat.splitlines():
        name, _, rest = line.partition(" ")
        if name.startswith("cpu") and name[3:].isdigit():
            user, nice, system, idle, iowait, irq, softirq, steal = [*map(int, rest.split()), *([0] * 8)][:8]
            found[int(name[3:])] = CpuTimes(user + nice + system + irq + softirq, idle + iowait, steal)
    return found


def running(loadavg: str) -> int:
    """Processes that want a CPU now, this one included, of a text of /proc/loadavg; 0 if it is none."""
    try:
        return int(loadavg.split()[3].partition("/")[0])
    except (IndexError, ValueError):
        return 0


def involuntary_switches(status: str) -> int:
    """How often a process was put off its CPU, of a text of /proc/PID/status; 0 if it does not say."""
    for line in status.splitlines():
        if line.startswith("nonvoluntary_ctxt_switches:"):
            return int(line.partition(":")[2])
    return 0


def cpu_list(text: str) -> frozenset[int]:
    """CPUs of a list as the kernel writes it: "0-2,8"."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)


def throttled_us(cpu_stat: str) -> int | None:
    """Microseconds that a cgroup v2 was stopped by its quota, of its cpu.stat; None if that does not say."""
    for line in cpu_stat.splitlines():
        if line.startswith("throttled_usec "):
            return int(line.split()[1])
    return None


def _cgroup(proc: Path) -> str:
    lines = _text(proc / "self/cgroup").splitlines()
    return next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""
