"""What leases cost adds up with the kernel's own numbers, survives restarts, and is exported (002 section 9)."""

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import rfaas
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient
from support import functions as f
from support.deadlines import assert_in_time
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 120
MIB = 2**20
BURNT_S = 4.0  # of CPU, by each worker: a tick of /proc is 10 ms, and 1 % of this 30


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    yield cluster
    cluster.stop()


def accounts(personal):
    async def ask():
        async with AdminClient(AllocatorAddress.load(personal.state_dir)) as admin:
            return [account async for account in admin.accounts()]

    return asyncio.run(ask())


def closed(personal):
    """The accounts of leases that served calls, once all have ended.

    A lease that was on its way when its program ended is given back at once and has an account too, of milliseconds.
    """

    def ended():
        found = accounts(personal)
        done = bool(found) and all(account.end_unix_s is not None for account in found)
        return [account for account in found if account.usage.calls] if done else None

    return wait_until(ended, TIMEOUT_S, "the account to be closed")


def cpu_s_of(pid):
    """CPU time of a process as /proc/<pid>/stat has it, the children that it waited for included."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def exported(personal, *options):
    command = [sys.executable, "-W", "error", "-m", "rfaas", "accounting", "--state-dir", personal.state_dir, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.figures
def test_cpu_and_running_time_are_those_of_the_kernel_and_of_the_functions_within_a_percent(personal):
    personal.start_allocator()
    personal.start_agent(cores=2)
    with rfaas.Executor(2, allocator=personal.state_dir, memory="64MiB") as ex:
        list(ex.map(f.sleep, [0.2] * 2))  # both workers are up
        calls = [ex.submit(f.burn, BURNT_S / 4) for _ in range(8)]
        results = [call.result(TIMEOUT_S) for call in calls]
        kernel_s = sum(cpu_s_of(pid) for pid in {pid for pid, _ in results})
    found = closed(personal)
    cpu_s = sum(account.usage.cpu_ns for account in found) / 1e9
    running_s = sum(account.usage.running_ns for account in found) / 1e9
    slept_s, wall_s = 0.4, sum(seconds for _, seconds in results)
    print(f"CPU time: accounts {cpu_s:.3f} s, /proc {kernel_s:.3f} s")
    print(f"running: accounts {running_s:.3f} s, the functions' own clocks {wall_s + slept_s:.3f} s")
    assert cpu_s == pytest.approx(kernel_s, rel=0.01)
    assert running_s == pytest.approx(wall_s + slept_s, rel=0.01)
    assert sum(account.usage.calls for account in found) == 10


def test_core_seconds_are_the_time_from_grant_to_release_in_the_event_log(personal, event_log):
    personal.start_allocator()
    personal.start_agent(cores=4)
    with rfaas.Executor(1, cores=3, allocator=personal.state_dir, memory="64MiB") as ex:
        ex.submit(f.sleep, 3.0).result(TIMEOUT_S)
    (account,) = closed(personal)
    events = [json.loads(line) for path in event_log.glob("*.jsonl") for line in path.read_text().splitlines()]
    mine = [event for event in events if event.get("lease") == account.lease_id.hex()]
    (begin,) = [event for event in mine if event["ev"] == "grant_accepted" and event["role"] == "agent"]
    (end,) = [event for event in mine if event["ev"] == "free" and event["role"] == "agent"]
    (bill,) = [event for event in mine if event["ev"] == "free" and event["role"] == "allocator"]
    held_ns = 3 * (end["t_boot_ns"] - begin["t_boot_ns"])
    assert bill["billed_core_ns"] == account.usage.allocated_ns * account.cores
    assert bill["billed_core_ns"] == pytest.approx(held_ns, rel=0.01)
    assert account.end_unix_s - account.start_unix_s == pytest.approx(account.usage.allocated_ns / 1e9, abs=1.0)


def test_bytes_are_those_of_arguments_and_results(personal):
    personal.start_allocator()
    personal.start_agent(cores=1)
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        for _ in range(3):
            ex.submit(f.echo, bytes(4 * MIB)).result(TIMEOUT_S)
    (account,) = closed(personal)
    for payload_bytes in account.usage.bytes_in, account.usage.bytes_out:
        assert 12 * MIB < payload_bytes < 12 * MIB + 4096


def test_a_worker_that_leaves_in_a_call_has_run_until_then(personal):
    personal.start_allocator()
    personal.start_agent(cores=1)
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        with pytest.raises(rfaas.WorkerLost):
            ex.submit(f.sleep_then_exit, 2.0).result(TIMEOUT_S)
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        time.sleep(0.1)  # it has polled for its 1 ms and sleeps
    (account,) = closed(personal)
    assert account.usage.calls == 1
    assert 2.0 <= account.usage.running_ns / 1e9 < 4.0
    assert account.usage.running_ns < account.usage.alive_ns <= account.usage.allocated_ns
    assert 0 < account.usage.hot_ns < 0.1e9  # a moment after its call
    assert account.usage.warm_ns == account.usage.alive_ns - account.usage.running_ns - account.usage.hot_ns


def test_a_worker_that_is_killed_while_it_polls_has_paid_for_it(personal):
    personal.start_allocator()
    personal.start_agent(cores=1)
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB", hot_for_s=60) as ex:
        worker = ex.submit(f.pid).result(TIMEOUT_S)
        time.sleep(1.0)
        os.kill(worker, signal.SIGKILL)
        assert ex.submit(f.pid).result(TIMEOUT_S) != worker
    (account,) = closed(personal)
    assert account.usage.hot_ns > 0.5e9


def test_a_killed_allocator_loses_seconds_at_most_and_counts_nothing_twice(personal):
    personal.start_allocator()
    personal.start_agent(cores=1)
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        assert [ex.submit(f.add, n).result(TIMEOUT_S) for n in range(100)] == list(range(100))
        begun_s = time.monotonic()
        heard = wait_until(lambda: [a for a in accounts(personal) if a.usage.calls == 100], 20, "a report")
        assert_in_time(time.monotonic() - begun_s, 3 * 5.0)
        personal.allocator.kill()
        personal.allocator.wait()
        personal.start_allocator()
        (after,) = accounts(personal)
        assert after.usage.highest(heard[0].usage) == after.usage  # nothing of what was heard is lost
        assert [ex.submit(f.add, n).result(TIMEOUT_S) for n in range(50)] == list(range(50))
        begun_unix_s = after.start_unix_s
    # The lease may have ended before its agent was back: what it cost then follows the next registration.
    (account,) = wait_until(lambda: [a for a in closed(personal) if a.usage.calls >= 150], 20, "the last report")
    assert account.usage.calls == 150
    assert account.start_unix_s == begun_unix_s
    assert account.usage.allocated_ns / 1e9 <= account.end_unix_s - begun_unix_s + 1.0


def test_accounts_are_exported_with_their_price(personal):
    personal.start_allocator("--price", "core_s=0.5,gib_s=2,byte=0.001,currency=EUR")
    personal.start_agent(cores=2)
    assert exported(personal).startswith("no leases in this time")
    with rfaas.Executor(1, cores=2, allocator=personal.state_dir, memory="512MiB") as ex:
        ex.submit(f.sleep, 1.0).result(TIMEOUT_S)
    (account,) = closed(personal)

    told = json.loads(exported(personal, "--json"))
    row = next(row for row in told["accounts"] if row["lease"] == account.lease_id.hex())
    assert (row["cores"], row["memory_bytes"], row["uid"], row["state"]) == (2, 512 * MIB, os.getuid(), "RELEASED")
    assert row["core_s"] == pytest.approx(2 * row["allocated_s"])
    assert row["gib_s"] == pytest.approx(0.5 * row["allocated_s"])
    price = 0.5 * row["core_s"] + 2 * row["gib_s"] + 0.001 * (row["bytes_in"] + row["bytes_out"])
    assert row["cost"] == pytest.approx(price)
    assert told["total"]["cost"] == pytest.approx(sum(each["cost"] for each in told["accounts"]))

    lines = list(csv.DictReader(io.StringIO(exported(personal, "--csv"))))
    line = next(line for line in lines if line["lease"] == row["lease"])
    assert line.keys() == row.keys()
    assert float(line["core_s"]) == pytest.approx(row["core_s"], abs=1e-5)

    header, *records = exported(personal, "-p").splitlines()
    assert header.startswith("LeaseID|User|UID|JobName|JobID|NodeList|State|Start|End|ElapsedRaw|AllocCPUS|")
    fields = next(record for record in records if record.startswith(row["lease"]))
    parsed = dict(zip(header.split("|"), fields.split("|"), strict=True))
    assert parsed[""] == ""  # sacct -p ends lines by its separator
    assert (parsed["AllocCPUS"], parsed["State"], parsed["Currency"]) == ("2", "RELEASED", "EUR")
    assert float(parsed["CPUTimeRAW"]) == pytest.approx(row["core_s"], abs=1e-5)

    table = exported(personal).splitlines()
    assert table[0].split()[:5] == ["LEASE", "USER", "NODE", "STATE", "START"]
    assert row["lease"][:8] in [line.split()[0] for line in table[1:-1]]
    assert table[-1].endswith(f"{told['total']['cost']:.2f} EUR")

    n_leases = told["total"]["leases"]
    assert json.loads(exported(personal, "--json", "--since", "1h"))["total"]["leases"] == n_leases
    assert json.loads(exported(personal, "--json", "--since", "2999-01-01"))["accounts"] == []
    assert json.loads(exported(personal, "--json", "--user", "nobody-there"))["accounts"] == []
