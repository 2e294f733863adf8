"""Several ranks in the threads of one process, with real messages between them: `Run` without an MPI library."""

import threading
from queue import Queue


class Together:
    """What the ranks of one program share."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size)
        self.values = [None] * size
        self.said = {}
        self.lock = threading.Condition()
        self.messages = {}


class ThreadRanks:
    """One rank; see rfaas.elastic.ranks.Ranks."""

    def __init__(self, together, rank):
        self._all, self.rank, self.size = together, rank, together.size
        self._asked = self._answered = 0

    def _everybody(self, value):
        self._all.values[self.rank] = value
        self._all.barrier.wait(5)
        found = list(self._all.values)
        self._all.barrier.wait(5)
        return found

    def gather(self, value):
        found = self._everybody(value)
        return found if self.rank == 0 else None

    def share(self, value):
        return self._everybody(value)[0]

    def ask(self, numbers):
        with self._all.lock:
            self._all.said.setdefault(self._asked, []).append(numbers)
            self._all.lock.notify_all()
        self._asked += 1

    def answer(self):
        with self._all.lock:
            assert self._all.lock.wait_for(lambda: len(self._all.said[self._answered]) == self.size, 20)
            word = [max(numbers) for numbers in zip(*self._all.said[self._answered], strict=True)]
        self._answered += 1
        return word

    def _queue(self, source, dest, tag):
        with self._all.lock:
            return self._all.messages.setdefault((source, dest, tag), Queue())

    def swap(self, out, to, into, source, tag):
        if to is not None:
            self._queue(self.rank, to, tag).put(out.copy())
        if source is not None:
            into[...] = self._queue(source, self.rank, tag).get(timeout=20)


def run_ranks(size, program):
    """Run `program(ranks)` on every rank and return what each returned or raised."""
    together, outcomes = Together(size), [None] * size

    def one(rank):
        try:
            outcomes[rank] = program(ThreadRanks(together, rank))
        except (Exception, SystemExit) as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return outcomes
