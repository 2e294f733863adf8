"""What a worker costs beside those that are there already: memory of its own, and the time to its first result."""

import statistics
import time
from pathlib import Path

import pytest

from rfaas.control.messages import Accepted
from support.agent_rig import AgentRig, environment
from support.waiting import wait_until

pytestmark = pytest.mark.figures

WORKERS = 64
PRIVATE_GOAL_KIB = 3 * 1024
ROUNDS = 20

THREADED = """
import threading
threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
"""


LOADED = "{!r} in __import__('sys').modules"  # for `eval`: a function of this file would bring pytest along


def memory_kib(pid):
    """(private, proportional) resident memory of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split()[0].removesuffix(":"): int(line.split()[1]) for line in lines}
    return kib["Private_Clean"] + kib["Private_Dirty"], kib["Pss"]


def spin(condition):
    """`wait_until` without its pauses, which are as long as what is measured here."""
    deadline_s = time.monotonic() + 10
    while not (answer := condition()):
        assert time.monotonic() < deadline_s
    return answer


def worker_pids(session):
    return [words["pid"] for words in session.heard if words["m"] == "worker-up"]


@pytest.mark.parametrize("preload", [[], ["numpy"], ["numpy", "mpi4py"]], ids=["nothing", "numpy", "mpi4py"])
def test_the_64th_idle_worker_shares_nearly_all_its_memory(preload):
    with AgentRig(cores=WORKERS) as rig:
        session = rig.session()
        _, clients = session.start(workers=WORKERS, env=environment(preload=preload))
        idle = [memory_kib(pid) for pid in worker_pids(session)]
        for client in clients:
            client.run(bool)
        used = [memory_kib(pid) for pid in worker_pids(session)]
        assert clients[0].run(eval, LOADED.format("mpi4py")) is False  # MPI doesn't survive a fork
        assert clients[0].run(eval, LOADED.format("numpy")) is ("numpy" in preload)
    for name, figures in (("idle", idle), ("after a call", used)):
        private, proportional = (statistics.median(column) for column in zip(*figures, strict=True))
        last = figures[-1][0]
        print(f"{WORKERS} workers {name}: private {private:.0f} KiB (last {last}), PSS {proportional:.0f} KiB")
    assert max(private for private, _ in idle) <= PRIVATE_GOAL_KIB


def test_what_a_worker_on_a_warm_template_needs_to_its_first_result():
    """From the agent's acceptance; the figures are for reading, since a test machine may pause any process."""
    phases = {"fork": [], "connect": [], "first call": [], "accepted to first result": []}
    with AgentRig(cores=2) as rig:
        session = rig.session()
        env = environment(preload=["numpy"])
        session.start(env=env)  # warms the template
        for _ in range(ROUNDS):
            terms = rig.propose()
            spin(lambda: has_accepted(rig, terms))  # noqa: B023
            accepted_s = time.monotonic()
            session.attach(terms, env)
            up = spin(lambda: up_of(session, terms))  # noqa: B023
            up_s = time.monotonic()
            client = session.dial(terms, up)
            connected_s = time.monotonic()
            client.call(bool)
            spin(client.channel.poll)
            result_s = time.monotonic()
            stamps = (up_s - accepted_s, connected_s - up_s, result_s - connected_s, result_s - accepted_s)
            for name, took_s in zip(phases, stamps, strict=True):
                phases[name].append(took_s)
            session.send({"m": "release", "lease": terms.lease_id, "reason_code": 6})
            wait_until(lambda: rig.freed(terms), 10)  # noqa: B023
    for name, took_s in phases.items():
        goal = " (goal 10 ms)" if name.startswith("accepted") else ""
        print(f"{name}: median {statistics.median(took_s) * 1e3:.1f} ms, worst {max(took_s) * 1e3:.1f} ms{goal}")


def has_accepted(rig, terms):
    return any(isinstance(said, Accepted) and said.lease_id == terms.lease_id for said in rig.hear(0.001))


def up_of(session, terms):
    return next((w for w in session.hear(0.001) if w["m"] == "worker-up" and w["lease"] == terms.lease_id), None)


def test_an_environment_with_threads_is_served_by_spawned_workers(tmp_path):
    (tmp_path / "polls_from_import.py").write_text(THREADED)
    env = environment(preload=["polls_from_import"])
    env["path"] = [str(tmp_path), *env["path"]]
    with AgentRig() as rig:
        session = rig.session()
        _, clients = session.start(workers=2, env=env)
        assert [client.run(eval, LOADED.format("polls_from_import")) for client in clients] == [True, True]
        assert [client.run(pow, 2, 10) for client in clients] == [1024, 1024]
