"""Checks of this host: interpreter, packages, settings, limits, shared memory, RDMA, clock, cgroup."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

import rfaas
from rfaas.doctor.finding import Finding
from rfaas.settings import TABLE, Settings
from rfaas.settings.table import OTHER_VARIABLES
from rfaas_transport import tls, verbs
from rfaas_transport.errors import RfaasError

FEW_FILES: Final = 1024  # a session process with 200 workers has 500 descriptors
TOO_FEW_FILES: Final = 128
SHM_BYTES: Final = 64 << 20  # Docker's default, too small for arrays
MEMLOCK_BYTES: Final = 64 << 20
TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES: Final = 512  # more than struct timex has anywhere


def neighbours() -> Iterator[Finding]:
    """What the neighbour guard could watch a job by, on this host."""
    settings = Settings.load()
    if settings.value("guard.act") == "off":
        yield Finding("neighbours", "info", "the neighbour guard is off (setting guard.act)")
        return
    marks = Path(settings.value("guard.marks_dir") or "/dev/shm")
    ways = ["iteration marks"] if os.access(marks, os.R_OK | os.X_OK) else []
    ways += ["the run queue"] if Path("/proc/self/schedstat").exists() else []
    ways += ["pressure of cgroups"] if Path("/proc/pressure/cpu").exists() else []
    text = f"jobs beside a slice are watched by {', '.join(ways) or 'nothing'}; memory bandwidth counters are not read"
    if not ways:
        yield Finding("neighbours", "warning", text, f"have the kernel offer one, or {marks} readable")
        return
    yield Finding("neighbours", "ok", text)


def interpreter() -> Iterator[Finding]:
    """This interpreter, the compiled core, and the interpreter of daemons if it is another."""
    here = f"Python {sys.version.split()[0]} at {sys.executable}"
    try:
        from rfaas_transport import _core  # noqa: F401 - whether it loads is the question
    except ImportError as error:
        yield Finding(
            "interpreter", "error", f"{here}: the compiled core does not load: {error}", "install rfaas again"
        )
    else:
        yield Finding("interpreter", "ok", f"{here}, rfaas {rfaas.__version__}")
    try:
        daemon_python = Settings.load().value("daemon_python")
    except RfaasError:
        return  # `settings` says it
    if daemon_python is not None and daemon_python != sys.executable:
        yield _other_interpreter(daemon_python)


def _other_interpreter(python: str) -> Finding:
    remedy = "name an interpreter that has this version of rfaas (setting daemon_python)"
    command = [python, "-P", "-E", "-c", "import rfaas; print(rfaas.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("daemon_python", "error", f"{python}: {error}", remedy)
    if done.returncode != 0:
        return Finding("daemon_python", "error", f"{python}: {done.stderr.strip().splitlines()[-1:]}", remedy)
    there = done.stdout.strip()
    return Finding(
        "daemon_python", "ok" if there == rfaas.__version__ else "warning", f"{python}: rfaas {there}", remedy
    )


def packages() -> Iterator[Finding]:
    """Versions of what rfaas needs, against the floors that it was built with."""
    found, wrong = [], []
    for requirement in requires("rfaas") or ():
        name, _, marker = requirement.partition(";")
        match = re.fullmatch(r"\s*([\w.-]+)\s*(?:>=\s*([\d.]+))?\s*", name)
        if match is None or "extra" in marker:
            continue
        try:
            there = version(match[1])
        except PackageNotFoundError:
            wrong.append(f"{match[1]} is not installed")
            continue
        found.append(f"{match[1]} {there}")
        if match[2] and _numbers(there) < _numbers(match[2]):
            wrong.append(f"{match[1]} {there} is older than {match[2]}")
    if wrong:
        yield Finding("packages", "error", "; ".join(wrong), "pip install --upgrade rfaas")
    else:
        yield Finding("packages", "ok", ", ".join(found))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


def settings() -> Iterator[Finding]:
    """Files and variables of the configuration."""
    try:
        loaded = Settings.load()
        loaded.all()
    except RfaasError as error:
        yield Finding("settings", "error", error.message, error.hint or "rfaas config show")
        return
    known = {setting.environment for setting in TABLE} | OTHER_VARIABLES
    for variable in sorted(name for name in os.environ if name.startswith("RFAAS_") and name not in known):
        yield Finding(
            "settings", "warning", f"{variable} means nothing to rfaas", "unset it, or see `rfaas config show`"
        )
    files = ", ".join(str(place.path) for place in loaded.files)
    yield Finding("settings", "ok", f"read {files}" if files else "no rfaas.toml: defaults and environment")


def limits() -> Iterator[Finding]:
    """Open files, processes, locked memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"ulimit -n {soft} (hard {hard})"
    remedy = f"ulimit -n {max(soft, min(4096, hard if hard > 0 else 4096))}, or ask the administrator for a higher one"
    if 0 <= soft < FEW_FILES:
        severity = "error" if soft < TOO_FEW_FILES else "warning"
        yield Finding("open files", severity, f"{text}: few for many workers", remedy)  # type: ignore[arg-type]
    else:
        yield Finding("open files", "ok", text)
    n_processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if 0 <= n_processes < 512:
        yield Finding("processes", "warning", f"ulimit -u {n_processes}: few for many workers", "ulimit -u 4096")
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if 0 <= locked < MEMLOCK_BYTES:
        remedy = "only RDMA needs it; there an administrator sets `* - memlock unlimited` in limits.conf"
        yield Finding(
            "locked memory", "warning" if _rdma_devices() else "info", f"ulimit -l {locked >> 10} KiB", remedy
        )


def shared_memory() -> Iterator[Finding]:
    """/dev/shm, and what is free of it."""
    try:
        about = os.statvfs("/dev/shm")
    except OSError as error:
        yield Finding(
            "/dev/shm", "warning", str(error), "mount a tmpfs there: libraries such as joblib and MPI want it"
        )
        return
    size, free = about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize
    text = f"{size >> 20} MiB, {free >> 20} MiB free"
    if free < SHM_BYTES:
        remedy = "remove what is left there (ls -l /dev/shm); in a container start it with --shm-size=1g"
        yield Finding("/dev/shm", "warning", text, remedy)
    else:
        yield Finding("/dev/shm", "ok", text)


def _rdma_devices() -> list[str]:
    try:
        return sorted(os.listdir("/sys/class/infiniband"))
    except OSError:
        return []


def rdma() -> Iterator[Finding]:
    """RDMA devices, and whether this rfaas was built with what speaks to them."""
    if not verbs.is_built():
        remedy = "install rdma-core with its headers (Debian: libibverbs-dev, ibverbs-providers) and build rfaas again"
        found = _rdma_devices()
        there = f"{', '.join(found)} here, but " if found else ""
        yield Finding("RDMA", "warning" if found else "info", f"{there}rfaas was built without rdma-core", remedy)
        return
    problem = verbs.why_not()
    if problem:
        yield Finding("RDMA", "info", problem, "`rfaas devices` lists ports and addresses")
        return
    names = sorted({f"{at.device}:{at.port} ({at.link_layer})" for at in verbs.addresses() if at.is_active and at.gid})
    yield Finding("RDMA", "info", f"{', '.join(names)}; calls to other hosts that have one go over it")


def encryption() -> Iterator[Finding]:
    """Whether calls over TCP are encrypted, and what they would be with."""
    try:
        loaded = Settings.load()
        wishes = [loaded.value(f"{section}.transport_security") for section in ("executor", "agent")]
    except RfaasError:
        return  # `settings` says it
    wanted = "encrypt" in wishes
    state = (
        'transport_security = "encrypt"' if wanted else 'calls over TCP go in plain (transport_security = "trusted")'
    )
    problem = tls.why_not()
    if problem:
        yield Finding("encryption", "error" if wanted else "info", f"{state}; {problem}", tls.REMEDY)
    else:
        yield Finding("encryption", "ok", f"{state}; TLS 1.3 by {tls.library()}")


def clock() -> Iterator[Finding]:
    """Whether the wall clock is synchronised. rfaas counts on CLOCK_BOOTTIME; munge and Slurm need the wall clock."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: only asks
    if state == TIME_ERROR:
        text = "the kernel says that the wall clock is not synchronised; rfaas does not need it, munge and Slurm do"
        yield Finding("clock", "info", text, "start chronyd or systemd-timesyncd")
    elif state < 0:
        yield Finding("clock", "info", f"adjtimex: {os.strerror(ctypes.get_errno())}")
    else:
        yield Finding("clock", "ok", "synchronised")


def cgroup() -> Iterator[Finding]:
    """Whether this process may make cgroups below its own (delegation)."""
    text = Path("/proc/self/cgroup").read_text()
    match = re.search(r"^0::(/.*)$", text, re.MULTILINE)
    if match is None:
        yield Finding("cgroup", "info", "no cgroup v2: workers' memory can only be watched, not limited by the kernel")
        return
    directory = Path("/sys/fs/cgroup") / match[1].lstrip("/")
    try:
        controllers = (directory / "cgroup.controllers").read_text().split()
    except OSError:
        controllers = []
    delegated = os.access(directory, os.W_OK) and os.access(directory / "cgroup.procs", os.W_OK)
    if delegated and {"memory", "cpu"} <= set(controllers):
        yield Finding("cgroup", "ok", f"{match[1]} is delegated, with {', '.join(controllers)}")
    else:
        why = "not ours to divide" if not delegated else f"controllers: {', '.join(controllers) or 'none'}"
        yield Finding("cgroup", "info", f"{match[1]}: {why}; workers are kept back by nice and watching only")
