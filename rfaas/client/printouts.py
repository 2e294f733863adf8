"""What functions print, at their caller: each call's output is shown before its result counts. Sans-IO.

Output comes by the session process, results by the channels. A worker that printed in a call says so on its channel
(OUTPUT) before the RESULT; then the result waits here for the word that all output has come, for WAIT_S at most.
Must not decide about calls. Spec: docs/spec/001-invocation.md section 9.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from rfaas.client.effects import Deliver
from rfaas.client.records import ChannelInfo

CHANNELS: Final = 4096  # remembered; a channel's last output may come after its end
WAIT_S: Final = 1.0  # for the output of a call whose result is there; it may have been lost with a session process
LINE_BYTES: Final = 64 << 10  # a longer line is shown in parts
_LINE_ENDS: Final = re.compile(r"\r\n|\r|\n")  # a progress bar ends its lines by a carriage return

Write = Callable[[ChannelInfo, int, str], None]
"""Shows text of a worker's stream, 1 or 2."""


@dataclass(slots=True, eq=False)
class Printed:
    """A worker printed this in its call `call_id` (0: before its first); fields as in docs/spec/004-session.md."""

    channel: int
    call_id: int
    stream: int
    data: bytes
    cut_bytes: int
    over: bool


@dataclass(slots=True, eq=False)
class PrintedAll:
    """All that this call printed has come."""

    channel: int
    call_id: int


@dataclass(slots=True)
class _Stream:
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )
    call_id: int = 0
    begun: str = ""  # a line that has no end yet
    said_cut: bool = False


class Printouts:
    """Output of all workers of one executor.

    Args:
        write: shows text.
        prefix: of each line, with {node}, {worker} and {call}.
        limit_bytes: for the line that says that something was cut.
    """

    def __init__(self, write: Write, prefix: str, limit_bytes: int) -> None:
        self._write = write
        self._prefix = prefix
        self._limit_bytes = limit_bytes
        self._infos: dict[int, ChannelInfo] = {}
        self._streams: dict[tuple[int, int], _Stream] = {}  # by channel and stream
        self._expected: dict[int, int] = {}  # by channel: the call that printed last, as its worker says
        self._complete: dict[int, int] = {}  # by channel: the call whose output has all come
        self.held: dict[tuple[int, int], tuple[Deliver, float]] = {}  # results that wait, until when; oldest first

    def open(self, info: ChannelInfo) -> None:
        """Know a channel, and forget one that was opened long ago."""
        self._infos[info.number] = info
        if len(self._infos) > CHANNELS:
            oldest = next(iter(self._infos))
            tables: tuple[dict[int, Any], ...] = (self._infos, self._expected, self._complete)
            for table in tables:
                table.pop(oldest, None)
            self._streams = {key: stream for key, stream in self._streams.items() if key[0] != oldest}

    # --- results that wait ----------------------------------------------------------------------

    def expect(self, channel: int, call_id: int) -> None:
        """A worker printed in this call: its result is to come after that."""
        self._expected[channel] = call_id

    def holds(self, ending: object, now_s: float) -> bool:
        """True if this result waits here from now on; nearly always False at once."""
        if not self._expected or not isinstance(ending, Deliver):
            return False
        channel, call_id = ending.info.number, ending.frame.call_id
        # A later call may have printed too before this result was looked at: "no later than that" is all one can ask.
        if not self._complete.get(channel, 0) < call_id <= self._expected.get(channel, 0):
            return False
        self.held[channel, call_id] = (ending, now_s + WAIT_S)
        return True

    def release(self, now_s: float) -> list[Deliver]:
        """Results that need wait no longer."""
        if not self.held:
            return []
        free = [
            (channel, call_id)
            for (channel, call_id), (_, until_s) in self.held.items()
            if now_s >= until_s or self._complete.get(channel, 0) >= call_id
        ]
        for channel, call_id in free:
            self._complete[channel] = max(call_id, self._complete.get(channel, 0))  # never again
        return [self.held.pop(key)[0] for key in free]

    def due_s(self) -> float | None:
        """When `release` gives something even if nothing more comes."""
        return next((until_s for _, until_s in self.held.values()), None)

    def lost(self) -> None:
        """The session process is gone, and what it was about to say: nothing waits for that."""
        for channel, call_id in self.held:
            self._complete[channel] = max(call_id, self._complete.get(channel, 0))

    # --- showing --------------------------------------------------------------------------------

    def take(self, event: Printed | PrintedAll) -> None:
        """Show what came, whole lines at a time; the rest when its call is over."""
        info = self._infos.get(event.channel)
        if info is None:
            return
        if isinstance(event, PrintedAll):
            self._complete[event.channel] = max(event.call_id, self._complete.get(event.channel, 0))
            for number in (1, 2):
                if (stream := self._streams.get((event.channel, number))) is not None:
                    self._end_line(stream, number, info)
            return
        stream = self._streams.setdefault((event.channel, event.stream), _Stream())
        if event.call_id != stream.call_id:
            self._end_line(stream, event.stream, info)
            stream.call_id, stream.said_cut = event.call_id, False
        text = stream.begun + stream.decoder.decode(event.data)
        end = 0
        shown = []
        prefix = self._prefix.format(node=info.node, worker=info.slot, call=stream.call_id)
        for line_end in _LINE_ENDS.finditer(text):
            shown.append(prefix + text[end : line_end.end()])
            end = line_end.end()
        stream.begun = text[end:]
        if len(stream.begun) > LINE_BYTES:
            shown.append(prefix + stream.begun + "\n")
            stream.begun = ""
        if shown:
            self._write(info, event.stream, "".join(shown))
        if event.cut_bytes:
            self._say_cut(stream, event, info, prefix)

    def _say_cut(self, stream: _Stream, event: Printed, info: ChannelInfo, prefix: str) -> None:
        self._end_line(stream, event.stream, info)
        if event.over:
            self._write(info, event.stream, f"{prefix}rfaas: {event.cut_bytes} bytes of this call's output were cut\n")
        elif not stream.said_cut:
            stream.said_cut = True
            limit = f"output_limit_bytes={self._limit_bytes}"
            self._write(
                info, event.stream, f"{prefix}rfaas: {limit} is reached, what this call prints from here is cut\n"
            )

    def _end_line(self, stream: _Stream, number: int, info: ChannelInfo) -> None:
        begun = stream.begun + stream.decoder.decode(b"", final=True)
        stream.decoder.reset()
        if begun:
            prefix = self._prefix.format(node=info.node, worker=info.slot, call=stream.call_id)
            self._write(info, number, f"{prefix}{begun}\n")
        stream.begun = ""
