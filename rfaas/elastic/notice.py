"""Hearing that the nodes are wanted back: Slurm's signals, or anybody who calls `heard`.

A handler of Python runs in the main thread between two of its instructions: what is in a long call into C hears of it
afterwards. It only notes the time; what follows is decided at the next boundary of iterations.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from rfaas_transport.errors import ConfigError


class Notice:
    """Whether and when one was heard, by this process.

    Args:
        signals: numbers. SIGTERM is what Slurm's preemption sends to the tasks of a step.
    """

    def __init__(self, signals: Iterable[int] = (signal.SIGTERM,)) -> None:
        self.heard_at_s: float | None = None  # time.monotonic()
        self.why = ""
        self._signals = tuple(signals)
        self._before: dict[int, Any] = {}

    def heard(self, why: str = "told") -> None:
        """Note that the nodes go back; any thread may say so. Only the first time counts."""
        if self.heard_at_s is None:
            self.why = why
            self.heard_at_s = time.monotonic()

    def listen(self) -> None:
        """Take the signals over.

        Raises:
            ConfigError: not in the main thread, or a signal that can't be taken; nothing was taken over.
        """
        try:
            for number in self._signals:
                self._before[number] = signal.signal(number, self._on_signal)
        except (ValueError, OSError) as error:
            self.stop_listening()
            raise ConfigError(
                f"signals {self._signals} can't be listened to: {error}",
                hint="enter the run in the main thread, or with signals=() and call notify()",
            ) from error

    def stop_listening(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def ignore_from_now(self) -> None:
        """Let no further signal end this process: it has nothing more to lose, and its status is to be told.

        For good, so that also ends what comes after: Python gives handlers up while it ends, ignored signals it leaves.
        In another thread than the main one nothing can be done about signals, and nothing is.
        """
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                signal.signal(number, signal.SIG_IGN)
            self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.heard(signal.Signals(number).name)
        before: Callable[[int, FrameType | None], Any] | int | None = self._before.get(number)
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)
