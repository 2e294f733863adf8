"""A private mount namespace with a small disk in it, as root; and programs that run there."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest


class SmallDisk:
    """A tmpfs of so many KiB on a directory, seen only by programs started with `command`.

    Args:
        directory: where; exists and is empty.
        size_kib: of the disk.
    """

    def __init__(self, directory, size_kib):
        if os.geteuid() != 0:
            pytest.fail("needs root: it mounts a small disk in a namespace of its own")
        self.directory = directory
        script = 'mount -t tmpfs -o "size=$2k,mode=0700" none "$1" && echo ready && read -r _'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", directory, str(size_kib)]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout.readline() == "ready\n", "the small disk could not be mounted"
        # `unshare` becomes the shell, so this is the process whose namespace it is.
        self._filler = f"/proc/{self._keeper.pid}/root{directory}/filler"

    def command(self, *words):
        """What runs these words beside the disk."""
        return ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", *map(str, words)]

    def python(self, *words):
        """What runs this interpreter beside the disk."""
        return self.command(sys.executable, *words)

    @property
    def seen(self):
        """The directory as this process reaches it."""
        return type(self.directory)(f"/proc/{self._keeper.pid}/root{self.directory}")

    def fill(self):
        """Leave not one byte."""
        with open(self._filler, "ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def empty(self):
        """Take the filler away."""
        os.unlink(self._filler)

    def close(self):
        """Let the disk go; whoever still runs there keeps it."""
        self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.send_signal(signal.SIGKILL)
        self._keeper.wait(10)
