"""T57: after 1,000 lease cycles all daemons and the client hold what they held before: descriptors, threads, children,
shared memory, temporary files, control groups, sockets.

A cycle: an executor of one to four workers, some calls, and its end. Scaled: forty cycles in `make test`.
"""

import os

import pytest

from support.fault_ring import WORKERS, seeded
from support.fault_ring import alone as alone  # fixtures: pytest finds them by name
from support.fault_ring import ring as ring
from support.holdings import Holdings, resident_kib
from support.leftovers import children
from support.soak import scaled, timeout_s
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(timeout_s())]

WARM_UP, CYCLES = 10, scaled(40, 1_000)
EMBEDDED_CYCLES = scaled(4, 100)
SETTLE_S = 30.0  # until connections and threads that linger have gone


def test_nothing_is_held_after_a_thousand_leases_that_was_not_held_before(ring):
    """One executor stays open meanwhile, so that the session process is the same one throughout."""
    source = seeded("cycles")
    with ring.executor(1) as kept:
        assert kept.submit(pow, 2, 3).result(60) == 8
        mine = ring.leases()
        for _ in range(WARM_UP):
            cycle(ring.executor(WORKERS - 1))
        daemons = {"allocator": ring.allocator.pid, "session": ring.session_daemons()[0], "client": os.getpid()}
        daemons |= {f"agent {number}": agent.pid for number, agent in enumerate(ring.agents)}
        directories = {"tmp": ring.temporary, "state": ring.state_dir}
        before = quiet(ring, mine, daemons, directories)
        resident = {name: resident_kib(pid) for name, pid in daemons.items()}
        leases = ring.snapshot().counters["lease_seq"]
        for _ in range(CYCLES):
            cycle(ring.executor(source.randint(1, WORKERS - 1)))
        leases = ring.snapshot().counters["lease_seq"] - leases
        assert_nothing_more(before, daemons, directories)
        grown = {name: resident_kib(pid) - resident[name] for name, pid in daemons.items()}
        assert ring.leases() == mine
    print(f"{CYCLES} cycles, {leases} leases: 0 more of anything; KiB resident more: {grown}")
    assert leases >= CYCLES


def test_embedded_nothing_is_left_in_the_client(alone):
    for _ in range(2):
        cycle(alone.executor(1, "embedded"))
    client, directories = {"client": os.getpid()}, {"tmp": alone.temporary}
    wait_until(lambda: not children(os.getpid()), SETTLE_S, "the end of the session process")
    before = Holdings.of(client, directories)
    for _ in range(EMBEDDED_CYCLES):
        cycle(alone.executor(2, "embedded"))
    assert_nothing_more(before, client, directories)
    print(f"\n{EMBEDDED_CYCLES} cycles: 0 more of anything")


def cycle(executor):
    with executor:
        calls = [executor.submit(pow, 2, number) for number in range(4)]
        assert [call.result(60) for call in calls] == [2**number for number in range(4)]


def quiet(ring, leases, processes, directories):
    """What is held once only these leases are left and that is the same for a while."""
    wait_until(lambda: ring.leases() == leases, SETTLE_S, "the end of the leases")
    seen = []

    def is_steady():
        seen.append(Holdings.of(processes, directories))
        return len(seen) >= 40 and all(not one.beyond(seen[-1]) for one in seen[-40:])

    wait_until(is_steady, SETTLE_S, "quiet")
    return seen[-1]


def assert_nothing_more(before, processes, directories):
    more = {}

    def nothing_more():
        more.clear()
        more.update(Holdings.of(processes, directories).beyond(before))
        return not more

    try:
        wait_until(nothing_more, SETTLE_S)
    except AssertionError:
        pytest.fail(f"more than before (before, by how many): {more}", pytrace=False)
