"""A file that test functions write to prove how often, where and when they ran, whatever became of their results.

The functions are called on workers; each line is one write on an O_APPEND descriptor, so a killed worker loses none.
"""

import itertools
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


def note(path, word, number):
    """Append one line: word, number of the call, pid, time (CLOCK_MONOTONIC, the same in every process)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{word} {number} {os.getpid()} {time.monotonic_ns()}\n".encode())
    finally:
        os.close(descriptor)


def answer(number):
    """What `witnessed(path, number, ...)` returns."""
    return number * 7919 + 13


def witnessed(path, number, seconds):
    """A call that lasts `seconds` and leaves word of its start and its end."""
    note(path, "start", number)
    time.sleep(seconds)
    note(path, "end", number)
    return answer(number)


@dataclass(frozen=True)
class Line:
    """One line of the file."""

    word: str
    number: int
    pid: int
    at_s: float


class Witness:
    """Reads what the functions wrote."""

    def __init__(self, path):
        self.path = str(path)

    def lines(self):
        """All lines, in the order in which they were written."""
        try:
            text = Path(self.path).read_text()
        except FileNotFoundError:
            return []
        words = [line.split() for line in text.split("\n")[:-1]]  # the last may be on its way
        return [Line(word, int(number), int(pid), int(at_ns) / 1e9) for word, number, pid, at_ns in words]

    def starts(self):
        """By call: the pids on which it started."""
        found = defaultdict(list)
        for line in self.lines():
            if line.word == "start":
                found[line.number].append(line.pid)
        return found

    def longest_gap_s(self, from_s, to_s):
        """The longest time between two lines within a stretch of time."""
        moments = [from_s, *sorted(line.at_s for line in self.lines() if from_s <= line.at_s <= to_s), to_s]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))
