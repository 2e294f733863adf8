"""Writing to a stream whose descriptor may be non-blocking, as those of programs with an event loop often are.

A full pipe would make a text layer lose what it holds, without a word of how much. Here a reader gets a moment; what
it does not take by then is dropped, and said when it takes text again.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final, TextIO

from rfaas.client.safe_log import SafeLogger

PATIENCE_S: Final = 0.1  # for a reader that is only busy; the thread that waits serves all calls
PIECE_CHARS: Final = 1024  # at most PIPE_BUF bytes: a pipe that can be written takes that whole (pipe(7))

_log = SafeLogger(__name__)


class PatientStream:
    """Writes text whole, or counts what is dropped."""

    def __init__(self) -> None:
        self._dropped_chars = 0  # since it was last said
        self._told = False

    def write(self, file: TextIO, text: str) -> None:
        """Write to a file and flush it.

        Raises:
            BaseException: whatever the file raises, but BlockingIOError.
        """
        descriptor = _non_blocking(file)
        try:
            if descriptor is None:
                self._write_all(file, text)
            else:
                self._write_pieces(file, descriptor, text)
        except BlockingIOError:  # a stream with no descriptor to wait for, or one that several write to
            self._drop(len(text))

    def _write_all(self, file: TextIO, text: str) -> None:
        file.write(self._said_before() + text)
        if hasattr(file, "flush"):  # print() needs none either
            file.flush()
        self._dropped_chars = 0

    def _write_pieces(self, file: TextIO, descriptor: int, text: str) -> None:
        until_s = time.monotonic() + (0.0 if self._dropped_chars else PATIENCE_S)
        at = 0
        while at < len(text):
            if not _is_flushed(file, descriptor, until_s):
                self._drop(len(text) - at)
                return
            if self._dropped_chars:
                file.write(self._said_before())
                self._dropped_chars = 0
                continue
            file.write(text[at : at + PIECE_CHARS])
            at += PIECE_CHARS
        _is_flushed(file, descriptor, until_s)  # if not: it is in the file's buffer, for the next flush

    def _said_before(self) -> str:
        if not self._dropped_chars:
            return ""
        return f"\nrfaas: {self._dropped_chars} characters that functions printed were dropped: nobody read them\n"

    def _drop(self, n_chars: int) -> None:
        self._dropped_chars += n_chars
        if not self._told:
            self._told = True
            _log.warning(
                "what functions print is dropped: this program's stream is non-blocking and full; how much is said "
                "there when it takes text again; remedy: read it faster, or pass output='files'"
            )


def _non_blocking(file: TextIO) -> int | None:
    """The file's descriptor if it is non-blocking, else None."""
    try:
        descriptor = file.fileno()
        return None if os.get_blocking(descriptor) else descriptor
    except (OSError, ValueError, AttributeError, TypeError):  # a stream of the program's own, with nothing behind it
        return None


def _is_flushed(file: TextIO, descriptor: int, until_s: float) -> bool:
    """Wait until the file can be written, and write out what it holds; False if that is not done by then."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while poll.poll(max(0.0, until_s - time.monotonic()) * 1000):
        try:
            file.flush()
        except BlockingIOError:
            if time.monotonic() >= until_s:
                break
        else:
            return True
    return False
