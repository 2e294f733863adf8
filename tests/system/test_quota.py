"""Quotas, inventories and placement as a program's executors meet them (002 section 5)."""

import asyncio
import json

import pytest

import rfaas
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient
from support import functions as f
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    yield cluster
    cluster.stop()


def executor(personal, workers, **options):
    return rfaas.Executor(workers, allocator=personal.state_dir, **({"memory": "64MiB"} | options))


def slices(personal):
    async def ask():
        async with AdminClient(AllocatorAddress.load(personal.state_dir)) as admin:
            return (await admin.snapshot()).slices

    return asyncio.run(ask())


def test_a_program_gets_what_the_quota_allows_and_one_more_waits_with_the_reason(personal):
    personal.start_allocator("--quota", "cores=1")
    personal.start_agent(cores=4)
    with executor(personal, 4) as first:
        pids = set(first.map(f.sleep_then_pid, [0.2] * 6))
        assert len(pids) == 1
        with executor(personal, 1, acquire_timeout_s=3) as second, pytest.raises(rfaas.AcquireTimeout) as caught:
            second.submit(f.add, 1).result(TIMEOUT_S)
        assert "holds what the quota allows: 1 core" in caught.value.message
    with executor(personal, 1) as third:  # what was given back is there for others
        assert third.submit(f.add, 1).result(TIMEOUT_S) == 1


def test_a_worker_beyond_the_quota_is_denied_at_once_with_its_reason_code(personal):
    personal.start_allocator("--quota", "memory=1GiB")
    personal.start_agent(cores=4)
    with executor(personal, 1, memory="2GiB") as ex, pytest.raises(rfaas.LeaseDenied) as caught:
        ex.submit(f.add, 1).result(TIMEOUT_S)
    assert caught.value.reason_code == 8
    assert caught.value.hint == "one worker is beyond the quota of 1 GiB of memory"


def test_what_no_host_of_the_inventory_can_hold_is_denied(personal, tmp_path):
    hosts = {"schema": "rfaas-inventory/1", "complete": True, "hosts": [{"name": "n1", "cores": 4, "memory": "8GiB"}]}
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(hosts))
    personal.start_allocator("--inventory", path)
    with executor(personal, 1, cores=5) as ex, pytest.raises(rfaas.LeaseDenied, match="lease-denied") as caught:
        ex.submit(f.add, 1).result(TIMEOUT_S)
    assert "no host of the inventory is as large as one worker: 5 cores, 64 MiB" in caught.value.hint
    fits = executor(personal, 1, cores=4, acquire_timeout_s=2)
    with fits as ex, pytest.raises(rfaas.AcquireTimeout, match="no slice is here yet"):
        ex.submit(f.add, 1).result(TIMEOUT_S)


@pytest.mark.parametrize(("placement", "n_nodes"), [("pack", 1), ("spread", 2)])
def test_a_placement_hint_says_on_how_many_hosts_workers_run(personal, placement, n_nodes):
    personal.start_allocator()
    for node in "one", "two":
        personal.start_agent(2, 5.0, "--node", node)
    wait_until(lambda: len(slices(personal)) == 2, 20, "both agents")
    with executor(personal, 2, placement=placement) as ex:
        list(ex.map(f.sleep, [0.3] * 4))
        nodes = [view.slice.node for view in slices(personal) if view.leases]
    assert len(nodes) == n_nodes


def test_a_placement_that_is_no_word_of_ours_is_refused(personal):
    with pytest.raises(rfaas.ConfigError, match="placement='random' is not one of pack, spread"):
        rfaas.Executor(1, placement="random")
