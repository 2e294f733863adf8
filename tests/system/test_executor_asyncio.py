"""Executors in asyncio: `asubmit`, cancelling, many loops, `async with`."""

import asyncio
import gc
import threading
import time
import warnings

import pytest

import rfaas
from support import functions as f
from support import pool_functions as p
from support.waiting import wait_until

TIMEOUT_S = 60


def ours(workers=2, **options):
    return rfaas.Executor(workers, allocator="embedded", **options)


@pytest.fixture(scope="module")
def ex():
    with ours() as executor:
        executor.submit(f.nothing).result(TIMEOUT_S)
        yield executor


def run(main):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return asyncio.run(asyncio.wait_for(main(), TIMEOUT_S), debug=True)


async def until(condition):
    """As wait_until, for coroutines."""
    while not condition():
        await asyncio.sleep(0.005)


def test_a_call_is_awaited(ex):
    async def main():
        assert await ex.asubmit(f.add, 1, b=2) == 3
        future = ex.asubmit(f.add, 4)
        assert isinstance(future, asyncio.Future)
        assert await future == 4
        return await asyncio.gather(*(ex.asubmit(f.add, n) for n in range(50)))

    assert run(main) == list(range(50))


def test_exceptions_are_those_of_the_synchronous_use(ex):
    async def main():
        with pytest.raises(f.CustomError) as caught:
            await ex.asubmit(f.raise_custom)
        assert "in raise_custom" in str(caught.value.__cause__)
        with pytest.raises(rfaas.SerializationError):
            await ex.asubmit(f.echo, threading.Lock())
        with pytest.raises(rfaas.DeadlineExceeded):
            await ex.options(call_timeout_s=0.2).asubmit(f.sleep, 30)
        with pytest.raises(RuntimeError, match="StopIteration") as stopped:
            await ex.asubmit(p.stop_iteration)
        assert stopped.value.__cause__.args == ("end",)

    run(main)


def test_outside_a_loop_nothing_is_submitted(ex):
    before = ex.statistics()["submitted"]
    with pytest.raises(RuntimeError, match="no running event loop"):
        ex.asubmit(f.add, 1)
    assert ex.statistics()["submitted"] == before


def test_cancelling_the_task_cancels_what_was_not_sent(ex, tmp_path):
    async def main():
        blocking = [ex.asubmit(f.witness_then_wait, tmp_path / "w", tmp_path / "gate") for _ in range(2)]
        await until(lambda: f.runs(tmp_path / "w") == 2)
        before = ex.statistics()["cancelled"]

        async def caller():
            return await ex.asubmit(f.witness, tmp_path / "cancelled")

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ex.asubmit(f.witness, tmp_path / "cancelled"), 0.05)
        await until(lambda: ex.statistics()["cancelled"] == before + 2)
        blocking[0].cancel()  # it runs: nobody hears of its end, and nobody is harmed by it
        (tmp_path / "gate").touch()
        assert await blocking[1] == "done"
        assert await ex.asubmit(f.add, 5) == 5

    run(main)
    assert f.runs(tmp_path / "cancelled") == 0


def test_a_task_group_that_fails_cancels_the_calls_of_the_others(ex, tmp_path):
    async def use(function, *args):
        return await ex.asubmit(function, *args)

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(use(f.raise_custom))
            for _ in range(20):
                group.create_task(use(f.sleep, 0.2))

    before = ex.statistics()["cancelled"]
    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [type(error) for error in caught.value.exceptions] == [f.CustomError]
    wait_until(lambda: ex.statistics()["queued"] == 0, TIMEOUT_S)
    assert ex.statistics()["cancelled"] - before >= 10


def test_many_loops_in_many_threads(ex):
    results = {}

    def loop(base):
        async def main():
            return await asyncio.gather(*(ex.asubmit(f.add, base, n) for n in range(200)))

        results[base] = run(main)

    threads = [threading.Thread(target=loop, args=(base,)) for base in (1000, 2000, 3000, 4000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {base: [base + n for n in range(200)] for base in (1000, 2000, 3000, 4000)}


def test_ten_thousand_calls_in_one_gather_and_no_thread_for_any(ex):
    async def main():
        before = threading.active_count()
        futures = [ex.asubmit(f.add, n, 1) for n in range(10_000)]
        most = threading.active_count()
        results = await asyncio.gather(*futures)
        return results, max(most, threading.active_count()) - before

    began_s = time.perf_counter()
    results, threads = asyncio.run(main())
    print(f"10,000 awaited calls: {time.perf_counter() - began_s:.2f} s")
    assert results == list(range(1, 10_001))
    assert threads <= 0


def test_a_loop_that_is_closed_before_the_result_comes_harms_nobody(ex, caplog):
    loop = asyncio.new_event_loop()

    async def main():
        ex.asubmit(f.sleep, 0.3)

    loop.run_until_complete(main())
    loop.close()
    del loop
    gc.collect()
    assert ex.submit(f.sleep, 0.4).result(TIMEOUT_S) == 0.4
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
    assert [record for record in caplog.records if "exception calling callback" in record.message] == []


def test_async_with_waits_for_the_calls_without_blocking_the_loop():
    beats = []

    async def beat():
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def main():
        task = asyncio.create_task(beat())
        async with ours(1) as ex:
            future = ex.submit(f.sleep, 0.5)
        assert future.result(0) == 0.5
        assert not ex._engine._thread.is_alive()
        task.cancel()
        async with ours(1):
            pass  # never used: nothing to wait for
        await ex.ashutdown()

    run(main)
    assert len(beats) > 5


def test_async_with_lets_exceptions_through_and_finishes():
    futures = []

    async def main():
        async with ours(1) as ex:
            futures.append(ex.asubmit(f.sleep, 0.2))
            raise KeyError("in the block")

    with pytest.raises(KeyError, match="in the block"):
        run(main)
    assert futures[0].result() == 0.2


def test_ashutdown_can_cancel_what_waits_and_be_cancelled_itself(tmp_path):
    async def main():
        ex = ours(1)
        running = ex.submit(f.witness_then_wait, tmp_path / "w", tmp_path / "gate")
        await until(lambda: f.runs(tmp_path / "w"))
        waiting = ex.asubmit(f.add, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ex.ashutdown(cancel_futures=True), 0.2)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(RuntimeError, match="after shutdown"):
            ex.asubmit(f.add, 1)
        (tmp_path / "gate").touch()
        await ex.ashutdown()
        assert running.result(0) == "done"

    run(main)
