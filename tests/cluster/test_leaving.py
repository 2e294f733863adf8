"""Nodes that an administrator wants back: drained, or with a reservation ahead. Slices leave politely and in time."""

import time

import pytest

from cluster.harvested import cores_up, event_log, finish, logged, rfaas_up, slice_of, streaming
from support.invariants import assert_kept
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

RUN_S = 60.0
SHORT = {"n_calls": 0, "ahead": 16, "min_s": 0.05, "max_s": 0.2}


def scontrol(cluster, *words):
    return cluster.head.run_as_root("scontrol", *words)


@pytest.mark.timeout(300)
def test_slices_leave_a_drained_node_and_return_when_it_is_resumed(cluster, alice):
    cores, each = cluster.settings.nodes * cluster.settings.cpus, cluster.settings.cpus
    cluster.set_grace(5)
    with rfaas_up(cluster, alice, env=event_log(alice)), streaming(alice, max_workers=cores, **SHORT) as stream:
        wait_until(lambda: len(stream.nodes_since(0)) == cluster.settings.nodes, RUN_S, "calls on all nodes")
        began_s = time.monotonic()
        scontrol(cluster, "update", "nodename=n3", "state=drain", "reason=test")
        try:
            wait_until(lambda: node_state(cluster, "n3") == "drained", RUN_S, "the node to be empty")
            drained_s = time.monotonic() - began_s
            wait_until(lambda: cores_up(alice) == cores - each, RUN_S)
            since_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            wait_until(
                lambda: len(stream.nodes_since(since_ns)) == cluster.settings.nodes - 1, RUN_S, "calls elsewhere"
            )
            assert "n3" not in stream.nodes_since(since_ns)
            assert jobs_on(cluster, "n3") == []
        finally:
            scontrol(cluster, "update", "nodename=n3", "state=resume")
        wait_until(lambda: cores_up(alice) == cores, RUN_S, "its slice to return")
        answer = finish(stream)
    assert answer["errors"] == []
    reasons = {e["node"]: e["reason"] for e in logged(alice, "reclaim_sig", role="agent")[:1]}
    assert reasons == {"n3": "node-drain"}
    print(f"\na drained node was empty after {drained_s:.2f} s; {answer['submitted']} calls, 0 failed")
    assert_kept(alice.home / "events")


@pytest.mark.timeout(300)
def test_no_slice_reaches_into_a_reservation(cluster, alice):
    cores, each = cluster.settings.nodes * cluster.settings.cpus, cluster.settings.cpus
    cluster.set_grace(5)
    maintenance = ["Users=root", "Duration=60"]
    scontrol(cluster, "create", "reservation", "ReservationName=ahead", "StartTime=now+5minutes", "Nodes=n2",
             "Flags=MAINT", *maintenance)  # fmt: skip
    start_s = time.time() + 300
    scontrol(cluster, "create", "reservation", "ReservationName=soon", "StartTime=now+100seconds", "Nodes=n3",
             "Flags=MAINT", *maintenance)  # fmt: skip
    try:
        with rfaas_up(cluster, alice, cores=cores - each, env=event_log(alice)):
            assert jobs_on(cluster, "n3") == []  # too near
            (limit,) = jobs_on(cluster, "n2")
            assert limit in ("3:00", "4:00")  # ends before, and so Slurm let it start
            end_in_s = slice_of(alice, "n2")["end_in_s"]
            assert time.time() + end_in_s < start_s - 25
            # one that is made over a running slice
            scontrol(cluster, "create", "reservation", "ReservationName=over", "StartTime=now+62seconds", "Nodes=n1",
                     "Flags=MAINT,IGNORE_JOBS", *maintenance)  # fmt: skip
            wait_until(lambda: cores_up(alice) == cores - 2 * each, RUN_S, "its slice to leave")
            assert slice_of(alice, "n1") is None
            wait_until(lambda: jobs_on(cluster, "n1") == [], RUN_S)
    finally:
        for name in scontrol(cluster, "-o", "show", "reservation").split():
            if name.startswith("ReservationName="):
                scontrol(cluster, "delete", name)
    signals = {e["node"]: e["reason"] for e in logged(alice, "reclaim_sig", role="agent")[:1]}
    assert signals == {"n1": "node-drain"}
    print(f"\na slice before a reservation in 300 s got {limit} and would end in {end_in_s:.0f} s")


def node_state(cluster, name):
    return cluster.head.run_as_root("sinfo", "-h", "-N", "-p", "harvest", "-n", name, "-o", "%T").strip()


def jobs_on(cluster, name):
    """Time limits of the jobs that are on a node or want it."""
    lines = cluster.head.run_as_root("squeue", "-h", "-a", "-o", "%l %N %n").splitlines()
    return [line.split()[0] for line in lines if name in line.split()[1:]]
