"""Where a program's functions print: its own streams, or a pair of files a worker.

Called by the thread that serves all calls, so nothing is raised here: a stream that raises or a disk that is full
costs the text and nothing else.
"""

from __future__ import annotations

import os
import sys
from typing import Final, TextIO

from rfaas.client.patient_stream import PatientStream
from rfaas.client.printouts import Write
from rfaas.client.records import ChannelInfo
from rfaas.client.safe_log import SafeLogger
from rfaas.config import OutputSettings

FILE_BYTES: Final = 16 << 20  # a file that would grow beyond is put aside as `NAME.1`, in place of an older one
_SUFFIXES: Final = {1: "out", 2: "err"}

_log = SafeLogger(__name__)


def sink(settings: OutputSettings, client_id: bytes) -> Write:
    """Whatever shows text where `settings` says."""
    if settings.to == "files":
        return FileSink(settings.directory, client_id.hex()[:8]).write
    return CallerSink().write if settings.to == "caller" else to_nobody


class CallerSink:
    """What `sys.stdout` and `sys.stderr` are at each moment: a notebook's cell, a test's capture, a terminal.

    They are the program's own, so whatever they raise is theirs: it is logged once, and the text is lost. One that is
    closed or None, or whose reader has gone, wants nothing, and is no fault.
    """

    def __init__(self) -> None:
        self._failed = False
        self._patient = {1: PatientStream(), 2: PatientStream()}

    def write(self, _info: ChannelInfo, stream: int, text: str) -> None:
        """Show text. Raises nothing."""
        file = sys.stdout if stream == 1 else sys.stderr
        try:
            if file is None or getattr(file, "closed", False) is True:
                return
            try:
                self._patient[stream].write(file, _encodable(file, text))
            except UnicodeEncodeError:  # one that says nothing of its encoding
                self._patient[stream].write(file, text.encode("ascii", "backslashreplace").decode())
        except BrokenPipeError:
            pass
        except BaseException as error:  # SystemExit too: this thread is not the program's to end
            self._say_failed(stream, error)

    def _say_failed(self, stream: int, error: BaseException) -> None:
        if self._failed:
            return
        self._failed = True
        name = "sys.stdout" if stream == 1 else "sys.stderr"
        _log.error(
            "what functions print is lost: this program's %s raised %s: %s; remedy: replace it, or pass output='files'",
            *(name, type(error).__name__, error),
        )


def _encodable(file: TextIO, text: str) -> str:
    """The text, with what the file can't encode escaped."""
    encoding = getattr(file, "encoding", None)
    if not isinstance(encoding, str):
        return text
    try:
        text.encode(encoding, getattr(file, "errors", None) or "strict")
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    return text


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
