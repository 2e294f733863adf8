"""A munged of one's own: its key, socket and files in one directory, as root; gone when its block ends."""

import contextlib
import os
import signal
import subprocess

import pytest

from support.waiting import wait_until

START_S = 20.0

WHERE_ALL_REACH = "/tmp"
"""For what other users must reach: tests that run beside each other have temporary directories for one user only."""


@contextlib.contextmanager
def munged(directory, key=None):
    """Run one; yields the path of its socket.

    Args:
        directory: exists; others than root must be able to reach it.
        key: 1 KiB; another key is another site.
    """
    if os.geteuid() != 0:
        pytest.fail("needs root: munged tells everybody's uid")
    private, public = directory / "private", directory / "public"
    private.mkdir(mode=0o700)
    public.mkdir()
    os.chmod(public, 0o755)
    (private / "key").write_bytes(os.urandom(1024) if key is None else key)
    (private / "key").chmod(0o400)
    socket_path = public / "munge.socket"
    files = {"key-file": "key", "log-file": "log", "seed-file": "seed", "pid-file": "pid"}
    options = [f"--{name}={private / file}" for name, file in files.items()]
    process = subprocess.Popen(
        ["munged", "--foreground", "--force", f"--socket={socket_path}", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: socket_path.exists() or process.poll() is not None, START_S, "munged's socket")
        assert process.poll() is None, process.stderr.read()
        yield str(socket_path)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stderr.close()
