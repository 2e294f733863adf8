"""A daemon's end of a hook socket (docs/spec/009-hooks.md), for tests. Standard library only; runs on a node.

usage: hook_listener.py SOCKET HEARD [--evict CGROUP] [--mode OCTAL] [--answer TEXT]

Writes each packet, with the uid of who sent it, as a line to HEARD, kills CGROUP at `evict`, answers `done` or TEXT.
"""

import argparse
import contextlib
import os
import signal
import socket
import struct
import time
from pathlib import Path

DEADLINE_S = 0.15


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("heard")
    parser.add_argument("--evict", default="")
    parser.add_argument("--mode", type=lambda text: int(text, 8), default=0o755)
    parser.add_argument("--answer", default="")
    options = parser.parse_args()
    name = options.socket
    if name.startswith("@"):
        name = "\0" + name[1:]
    else:
        folder = Path(name).parent
        folder.mkdir(exist_ok=True)
        folder.chmod(options.mode)
        Path(name).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(name)
    server.listen(16)
    print("listening", flush=True)
    while True:
        serve(server.accept()[0], options)


def serve(connection: socket.socket, options: argparse.Namespace) -> None:
    with connection:
        packet = connection.recv(5000)
        if not packet:  # whoever it was left without a word
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        evicted = 0
        if b" evict " in packet and options.evict:
            evicted = evict(Path(options.evict))
        with open(options.heard, "a") as heard:
            heard.write(f"{uid} {packet.decode()}\n")
        with contextlib.suppress(BrokenPipeError):  # who says warn or free does not wait
            connection.send((options.answer or f"rfaas-hook/1 done evicted={evicted} ms=1").encode())


def evict(cgroup: Path) -> int:
    """Kill all in a cgroup of v1 and wait for its end."""
    procs, before, deadline_s = cgroup / "cgroup.procs", 0, time.monotonic() + DEADLINE_S
    while pids := procs.read_text().split():
        before = max(before, len(pids))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it is going already
                os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > deadline_s:
            raise SystemExit("it does not die")
    return before


main()
