"""Checks of a state directory and of the daemons that serve it."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rfaas.control.address import AllocatorAddress, check_private
from rfaas.doctor.finding import Finding
from rfaas_transport.errors import RfaasError

LITTLE_BYTES: Final = 16 << 20
LISTEN: Final = "0A"  # of /proc/net/tcp
NETWORK_FILE_SYSTEMS: Final = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "fuse")


def directory(state_dir: Path) -> Iterator[Finding]:
    """Owner and mode of the directory and of what is secret in it."""
    if not state_dir.exists():
        yield Finding("state directory", "info", f"{state_dir} is not there yet; `rfaas up` makes it")
        return
    found = list(_not_private(state_dir))
    yield from found
    if not found:
        yield Finding("state directory", "ok", f"{state_dir}, private, on {file_system(state_dir)}")


def _not_private(state_dir: Path) -> Iterator[Finding]:
    for path, is_directory in [(state_dir, True), (state_dir / "secret", False), (state_dir / "tls.key", False)]:
        try:
            check_private(path, directory=is_directory)
        except FileNotFoundError:
            continue
        except RfaasError as error:
            yield Finding("state directory", "error", error.message, error.hint)


def file_system(path: Path) -> str:
    """Type of the file system that holds a path, from /proc/self/mountinfo; "?" if it can't be told."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return "?"


def locks(state_dir: Path) -> Iterator[Finding]:
    """Whether a lock that one process holds is seen by another: the journal has one writer only if it is."""
    if not state_dir.is_dir():
        return
    try:
        with tempfile.NamedTemporaryFile(prefix=".rfaas-doctor-", dir=state_dir) as probe:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            program = (
                "import fcntl, sys\n"
                "try: fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
                "except OSError: sys.exit(3)\n"
            )
            other = subprocess.run([sys.executable, "-I", "-S", "-c", program, probe.name], timeout=20, check=False)
    except OSError as error:
        remedy = "name a state directory on a local disk, or on a network file system with locks (nfs without nolock)"
        yield Finding("locks", "error", f"{state_dir} ({file_system(state_dir)}): {error}", remedy)
        return
    if other.returncode != 3:
        remedy = "name a state directory on another file system: two allocators could write one journal here"
        yield Finding("locks", "error", f"{state_dir} ({file_system(state_dir)}) does not keep a lock", remedy)
    else:
        yield Finding("locks", "ok", "a lock of one process is seen by others")


def space(state_dir: Path) -> Iterator[Finding]:
    """Room for journal and logs."""
    if not state_dir.is_dir():
        return
    about = os.statvfs(state_dir)
    free = about.f_bavail * about.f_frsize
    text = f"{free >> 20} MiB free for journal and logs"
    if free < LITTLE_BYTES:
        yield Finding("disk", "error" if free < 1 << 20 else "warning", text, f"make room on the disk of {state_dir}")
    else:
        yield Finding("disk", "ok", text)


def daemons(state_dir: Path) -> Iterator[Finding]:
    """What `rfaas up` recorded, and whether it still runs."""
    from rfaas.cli.daemons import load

    try:
        found = load(state_dir) if state_dir.is_dir() else None
    except RfaasError as error:
        yield Finding("daemons", "warning", error.message, error.hint)
        return
    if found is None:
        yield Finding("daemons", "info", "nothing was started by `rfaas up` here")
        return
    dead = [daemon.name for daemon in found[0] if not daemon.alive]
    running = [f"{daemon.name} (pid {daemon.pid})" for daemon in found[0] if daemon.alive]
    if dead:
        text = f"ended by themselves or were killed: {', '.join(dead)}; running: {', '.join(running) or 'none'}"
        yield Finding("daemons", "error", text, f"`rfaas up` starts them again; `rfaas logs {dead[0]}` says why")
    else:
        yield Finding("daemons", "ok", ", ".join(running))


def allocator(state_dir: Path) -> Iterator[Finding]:
    """Whether the allocator answers, and in our version."""
    try:
        AllocatorAddress.load(state_dir)
    except RfaasError as error:
        absent = error.code == "allocator-unavailable"
        yield Finding("allocator", "info" if absent else "error", error.message, error.hint)
        return
    from rfaas.cli.asking import snapshot

    try:
        view = snapshot(state_dir)
    except RfaasError as error:
        yield Finding("allocator", "error", error.message, error.hint or "rfaas logs allocator")
        return
    up = sum(one.state == "up" for one in view.slices)
    waiting = sum(one.missing for one in view.waiting)
    text = f"answers: {up} of {len(view.slices)} slices are up, {waiting} workers are waited for"
    yield Finding("allocator", "warning" if waiting and not up else "ok", text, "rfaas explain" if waiting else "")


def listening(state_dir: Path) -> Iterator[Finding]:
    """Addresses beyond loopback that daemons of the state directory listen on."""
    from rfaas.cli.daemons import load

    try:
        found = load(state_dir) if state_dir.is_dir() else None
    except RfaasError:
        return  # `daemons` says it
    for daemon in found[0] if found else ():
        for address, port in listens_on(daemon.pid):
            every = address in ("0.0.0.0", "::")
            text = f"{daemon.name} listens on {'every interface' if every else address}, port {port}, with TLS"
            remedy = "name the one interface that the nodes reach: rfaas up --listen" if every else ""
            yield Finding("listening", "warning" if every else "ok", text, remedy)


def listens_on(pid: int) -> list[tuple[str, int]]:
    """TCP addresses that a process of ours listens on, loopback left out."""
    inodes = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            about = os.stat(entry.path)
            if stat.S_ISSOCK(about.st_mode):
                inodes.add(str(about.st_ino))
        tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    except OSError:
        return []
    found = []
    for line in (line for table in tables for line in table):
        fields = line.split()
        if fields[3] == LISTEN and fields[9] in inodes:
            address, _, port = fields[1].partition(":")
            text = _address(address)
            if not text.startswith("127.") and text != "::1":
                found.append((text, int(port, 16)))
    return sorted(found)


def _address(hexadecimal: str) -> str:
    words = [int(hexadecimal[i : i + 8], 16) for i in range(0, len(hexadecimal), 8)]  # each in the host's order
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)
