"""Who is held and for how long: real time, workers of the test's own."""

import asyncio
import time

from rfaas_executors.pacing import PERIOD_S, Pacer


class Worker:
    """Counts the time that it may run."""

    def __init__(self, busy=True):
        self.busy, self.held, self.ran_s, self.since_s, self.turns = busy, False, 0.0, time.monotonic(), 0

    def runs_call(self):
        return self.busy

    def hold(self):
        assert not self.held
        self.held, self.turns = True, self.turns + 1
        self.ran_s += time.monotonic() - self.since_s
        return True

    def let_go(self):
        assert self.held
        self.held, self.since_s = False, time.monotonic()


def paced(workers, share, seconds):
    async def run():
        pacer = Pacer(lambda: dict(enumerate(workers)))
        pacer.pace(share)
        await asyncio.sleep(seconds)
        pacer.close()
        assert not any(worker.held for worker in workers)

    asyncio.run(run())
    return [worker.ran_s for worker in workers]


def test_a_worker_runs_its_share_and_in_many_turns():
    worker = Worker()
    [ran_s] = paced([worker], 0.3, 0.8)
    print(f"ran {ran_s / 0.8:.2f} of the time, 0.3 were meant")
    assert 0.0 < ran_s < 0.8 * 0.9
    assert worker.turns > 0.8 / PERIOD_S / 20


def test_all_are_held_by_none_and_who_runs_no_call_is_never_held():
    busy, idle = Worker(), Worker(busy=False)
    paced([busy, idle], 0.0, 0.2)
    assert (busy.turns, idle.turns) == (1, 0)


def test_who_is_wanted_runs_at_once():
    async def run():
        worker = Worker()
        pacer = Pacer(lambda: {7: worker})
        pacer.pace(0.0)
        await asyncio.sleep(0.05)
        assert worker.held
        pacer.let_go(7)
        assert not worker.held
        pacer.let_go(8)
        pacer.close()

    asyncio.run(run())
