"""Calls to another host over RDMA while the network between is cut, wholly or one way (T20, T22), or its power.

The other host is a network namespace: an agent lives there that the allocator here knows over TLS alone.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

import rfaas
from support import functions as f
from support.deadlines import SLACK
from support.network_cuts import BOTH, FROM_HERE, FROM_THERE, Cut
from support.personal import outliving_tests
from support.waiting import wait_until

pytestmark = [pytest.mark.rdma, pytest.mark.two_hosts]
NETNS = os.environ.get("RDMA_PEER_NETNS", "")
HERE, THERE = os.environ.get("RFAAS_RDMA_ADDRESS", ""), os.environ.get("RDMA_PEER_ADDRESS", "")
IN_PEER = ["ip", "netns", "exec", NETNS]
TTL_S = 20.0
SHORT_S = 1.0  # less than a session connection's two seconds
TOLD_S = 5.0  # the goal for the loss of a node
TIMES = 10  # emulated CPUs
TIMEOUT_S = 120.0


@pytest.fixture(scope="module", autouse=True)
def two_hosts():
    if not NETNS:
        pytest.skip("no second host: make test-rdma-two-hosts")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, daemons_are_read):
    """An allocator here, an agent there."""
    with outliving_tests(tmp_path_factory.mktemp("cluster"), ttl_s=TTL_S, start_s=TIMEOUT_S) as made:
        made.start_allocator("--listen", HERE)
        made.python = [*IN_PEER, sys.executable]
        made.start_agent(1, 2.0, "--listen", THERE)
        yield made


@pytest.fixture
def ex(cluster):
    with rfaas.Executor(1, allocator=cluster.state_dir, transport="verbs", hot_for_s=0.05) as executor:
        executor.submit(f.nothing).result(TIMEOUT_S)
        assert media_of(executor) == {"verbs"}
        yield executor


def media_of(executor):
    return {port.channel.medium for port in executor._engine._ports._by_token.values()}


@pytest.fixture
def cut():
    made = Cut(NETNS)
    yield made
    made.heal()


def lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def begun(executor, runs, gate):
    """A call that runs there until the gate opens."""
    before = lines(runs)
    future = executor.submit(f.witness_then_wait, str(runs), str(gate))
    wait_until(lambda: lines(runs) == before + 1, TIMEOUT_S)
    return future


@pytest.mark.figures
def test_t20_a_network_that_is_away_for_a_moment_costs_no_call(ex, cut, tmp_path):
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    future = begun(ex, runs, gate)
    for way in FROM_HERE, FROM_THERE:  # not the cable: a port that is down fails at once
        cut.begin(way)
    start_s = time.monotonic()
    gate.touch()
    wait_until(lambda: time.monotonic() - start_s > SHORT_S, TIMEOUT_S)
    cut.heal()
    assert future.result(TIMEOUT_S) == "done"
    assert lines(runs) == 1
    print(f"two hosts, network away for {SHORT_S:g} s: no call failed")


@pytest.mark.figures
@pytest.mark.parametrize("way", [BOTH, FROM_HERE, FROM_THERE])
def test_t22_a_network_that_is_cut_is_a_typed_loss_and_nothing_runs_twice(ex, cut, tmp_path, way):
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    future = begun(ex, runs, gate)
    cut.begin(way)
    start_s = time.monotonic()
    error = future.exception(TIMEOUT_S)
    took_s = time.monotonic() - start_s
    gate.touch()  # only now: cut one way, a result may still come
    print(f"two hosts, network cut ({way}): told of in {took_s:.1f} s (goal {TOLD_S:g} s, not emulated): {error}")
    assert isinstance(error, rfaas.NodeLost | rfaas.AgentLost | rfaas.ConnectionLost)
    assert error.may_have_run
    assert error.phase in ("SENT", "STARTED", "DONE")
    assert took_s < TOLD_S * TIMES
    cut.heal()
    assert ex.submit(f.add, 1, 2).result(TIMEOUT_S) == 3
    assert media_of(ex) == {"verbs"}
    assert lines(runs) == 1


@pytest.mark.figures
def test_t22_a_host_without_power_is_a_typed_loss(ex, cluster, cut, tmp_path):
    """Its network goes, and all that runs there, at once; what its agent had told nobody is not told."""
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    future = begun(ex, runs, gate)
    cut.begin(BOTH)
    for pid in there():
        os.kill(pid, signal.SIGKILL)
    cluster.agents.pop().wait(TIMEOUT_S)
    start_s = time.monotonic()
    error = future.exception(TIMEOUT_S)
    took_s = time.monotonic() - start_s
    print(f"two hosts, power cut: told of in {took_s:.1f} s (goal {TOLD_S:g} s, not emulated): {error}")
    assert isinstance(error, rfaas.NodeLost)
    assert error.may_have_run
    assert took_s < TOLD_S * TIMES * SLACK
    cut.heal()
    cluster.start_agent(1, 2.0, "--listen", THERE)
    assert ex.submit(f.add, 1, 2).result(TIMEOUT_S) == 3
    assert lines(runs) == 1


def there():
    """All processes of the other host, the last made first."""
    found = subprocess.check_output(["ip", "netns", "pids", NETNS], text=True).split()
    return sorted(map(int, found), reverse=True)
