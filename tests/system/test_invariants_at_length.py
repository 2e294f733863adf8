"""The checker over the log of a whole demonstration: eight files, events in any order between them."""

import json
import random
import time

from rfaas.control.invariants import check_directory

LEASES = 200
CALLS_A_LEASE = 100


def a_long_run():
    """The events of a run of calls on leases of 64 cores, one (t, role, ev, fields) at a time."""
    yield "allocator", "restart", {"alloc": "a", "alloc_epoch": 1}
    first = 1
    for number in range(1, LEASES + 1):
        lease = {"lease": f"{number:032x}", "lease_seq": number, "slice": "s", "node": "n1", "node_epoch": 1}
        yield "allocator", "grant_proposed", {"alloc": "a", **lease}
        yield "agent", "grant_accepted", {"cores": [number % 64], "mem": 1, **lease}
        for inv in range(first, first + CALLS_A_LEASE):
            call, run = {"client": "c", "inv": inv}, {"client": "c", "channel": number, "call_id": inv, "attempt": 0}
            yield "client", "submit", {**call, "idempotent": False, "retries": 0}
            yield "client", "sent", {**call, **run, "lease": lease["lease"]}
            yield "worker", "started", {**run, "lease": lease["lease"]}
            yield "worker", "done", {**run, "lease": lease["lease"]}
            yield "client", "resolved", {**call, "outcome": "result", "may_have_run": True, "code": ""}
        first += CALLS_A_LEASE
        yield "agent", "proof_of_death", lease
        yield "agent", "free", {**lease, "reason": "released"}
    yield "client", "submit", {"client": "c", "inv": first, "idempotent": False, "retries": 0}


def test_one_call_that_never_resolved_is_found_among_a_hundred_thousand_events(tmp_path):
    rng = random.Random(1)
    files = [(tmp_path / f"part-h-{number}.jsonl").open("w") for number in range(8)]
    count = 0
    for count, (role, ev, fields) in enumerate(a_long_run(), 1):
        event = {"t_boot_ns": count, "host": "h", "pid": 1, "role": role, "ev": ev, **fields}
        rng.choice(files).write(json.dumps(event) + "\n")
    for file in files:
        file.close()
    begin_s = time.process_time()
    violations = check_directory(tmp_path)
    took_s = time.process_time() - begin_s
    print(f"{count} events in {took_s:.1f} s of CPU")  # 10^6 took 14.5 s on two busy cores, 2026-11
    assert count > 100_000
    assert [violation.text for violation in violations] == ["call 20001 of client c was never resolved"]
