"""Where a program's functions print: its own streams, or a pair of files a worker.

Called by the thread that serves all calls, so nothing is raised here: a stream that is closed or a disk that is full
costs the text and nothing else.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from rfaas.client.events import ChannelInfo
from rfaas.client.printouts import Write
from rfaas.config import OutputSettings

FILE_BYTES: Final = 16 << 20  # a file that would grow beyond is put aside as `NAME.1`, in place of an older one
_SUFFIXES: Final = {1: "out", 2: "err"}

_log = logging.getLogger(__name__)


def sink(settings: OutputSettings, client_id: bytes) -> Write:
    """Whatever shows text where `settings` says."""
    if settings.to == "files":
        return FileSink(settings.directory, client_id.hex()[:8]).write
    return to_caller if settings.to == "caller" else to_nobody


def to_caller(_info: ChannelInfo, stream: int, text: str) -> None:
    """Write to what `sys.stdout` or `sys.stderr` is now: a notebook's cell, a test's capture, a terminal."""
    file = sys.stdout if stream == 1 else sys.stderr
    try:
        file.write(text)
        file.flush()
    except UnicodeEncodeError:
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except (OSError, ValueError, AttributeError):  # closed or removed by the program, or nobody reads
        pass


def to_nobody(_info: ChannelInfo, _stream: int, _text: str) -> None:
    """Drop it."""


class FileSink:
    """Files `NODE-WORKER-PROGRAM.out` and `.err` in one directory; each is FILE_BYTES long at most, and so is its `.1`.

    Args:
        directory: made when something is printed.
        program: tells the files of two executors apart.
    """

    def __init__(self, directory: str, program: str) -> None:
        self._directory = directory
        self._program = program
        self._failed = False

    def write(self, info: ChannelInfo, stream: int, text: str) -> None:
        """Append; opened anew each time, for nobody says when the last line has come."""
        path = os.path.join(self._directory, f"{info.node}-{info.slot}-{self._program}.{_SUFFIXES[stream]}")
        data = text.encode(errors="backslashreplace")
        try:
            os.makedirs(self._directory, exist_ok=True)
            if os.path.exists(path) and os.path.getsize(path) + len(data) > FILE_BYTES:
                os.replace(path, path + ".1")
            with open(path, "ab") as file:
                file.write(data)
        except OSError as error:
            if not self._failed:
                self._failed = True
                _log.error("what functions print can't be kept: %s; remedy: set output_dir to another directory", error)
