"""T08: slurmd dies, for less than SlurmdTimeout and for more. Its steps live on, and so do the calls in them.

Beyond SlurmdTimeout slurmctld calls the node's jobs ended, which proves nothing: the slice gives its cores back itself.
Scaled: SlurmdTimeout 10 s, so away for 5 s and until slurmctld has given the node up.
"""

import time

import pytest

from cluster.harvested import cores_up, event_log, finish, logged, rfaas_up, slice_of, snapshot, streaming
from support.invariants import assert_kept
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(600)]

RUN_S = 90.0
VICTIM = "n2"


def test_slurmd_away_costs_no_call_and_frees_no_core_before_its_step_has_ended(fault_cluster):
    cluster, alice = fault_cluster, fault_cluster.user("alice")
    settings = cluster.settings
    cores = settings.nodes * settings.cpus
    cluster.set_grace(5)
    calls = {"n_calls": 0, "ahead": 16, "min_s": 0.05, "max_s": 0.2, "max_workers": cores}
    with rfaas_up(cluster, alice, env=event_log(alice)), streaming(alice, **calls) as stream:
        wait_until(lambda: len(stream.nodes_since(0)) == settings.nodes, RUN_S, "calls on all nodes")
        before = slice_of(alice, VICTIM)
        cluster.kill_daemon(VICTIM)
        short_s = boot_s()
        wait_until(lambda: boot_s() > short_s + settings.slurmd_timeout_s / 2, RUN_S)
        since_ns = int(boot_s() * 1e9)
        wait_until(lambda: VICTIM in stream.nodes_since(since_ns), RUN_S, "calls on the node without slurmd")
        cluster.start_daemon(VICTIM)
        wait_until(lambda: "*" not in state_of(cluster), RUN_S, "slurmd to answer")
        assert slice_of(alice, VICTIM)["slice"] == before["slice"]

        cluster.kill_daemon(VICTIM)
        killed_s = boot_s()
        wait_until(lambda: state_of(cluster).startswith("down"), RUN_S, "slurmctld to give the node up")
        down_s = boot_s()
        wait_until(lambda: all(s["slice"] != before["slice"] for s in snapshot(alice)["slices"]), RUN_S, "its end")
        ended_s = boot_s()
        assert not [p for p in cluster.node(VICTIM).processes() if "rfaas_executors" in p.command]
        assert slice_of(alice, VICTIM) is None
        cluster.start_daemon(VICTIM)
        wait_until(lambda: cores_up(alice) == cores, RUN_S, "a new slice there")
        after = slice_of(alice, VICTIM)
        since_ns = int(boot_s() * 1e9)
        wait_until(lambda: VICTIM in stream.nodes_since(since_ns), RUN_S, "calls there again")
        answer = finish(stream)

    assert answer["errors"] == []
    assert answer["right"] == answer["submitted"]
    assert set(stream.witness.executions().values()) == {1}
    assert after["slice"] != before["slice"]
    signals = [e for e in logged(alice, "reclaim_sig", role="agent") if e["slice"] == before["slice"]]
    assert [e["reason"] for e in signals] == ["node-down"]
    ran_on = [r for r in stream.witness.runs if r.node == VICTIM and killed_s * 1e9 < r.start_ns < down_s * 1e9]
    assert ran_on, "no call ran in the step that outlived its slurmd"
    proofs = [e for e in logged(alice, "proof_of_death") if e["slice"] == before["slice"]]
    assert {e["role"] for e in proofs} == {"agent"}, "somebody took Slurm's word for it"
    accepted = [e["t_boot_ns"] for e in logged(alice, "grant_accepted", role="agent") if e["slice"] == after["slice"]]
    assert max(e["t_boot_ns"] for e in proofs) < min(accepted)
    print(
        f"\nslurmd away for {settings.slurmd_timeout_s / 2:g} s, then {down_s - killed_s:.1f} s until slurmctld gave "
        f"the node up: {answer['submitted']} calls, 0 failed; {len(ran_on)} began without slurmd; the slice had left "
        f"{ended_s - down_s:.2f} s after that"
    )
    assert_kept(alice.home / "events")


def state_of(cluster):
    return cluster.head.run_as_root("sinfo", "-h", "-N", "-p", "harvest", "-n", VICTIM, "-o", "%T").strip()


def boot_s():
    return time.clock_gettime(time.CLOCK_BOOTTIME)
