"""A program in C under srun, its calls on harvested cores that a rigid job takes back in the middle."""

import re
from pathlib import Path

import pytest

from cluster.harvested import rfaas_up
from cluster.rig.settings import HEAD
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.figures]

SOURCES = Path(__file__).parents[2] / "examples" / "c"
RANKS = 4
STEPS, CHUNKS = 700, 8
RUN_S = 120.0
LAST_LINE = re.compile(
    r"rank (\d): \d+ steps of \d+ bodies: (\d+) calls, (\d+) answers, each once; energy .*; "
    r"sent again (\d+), reclaimed (\d+), notices (\d+)"
)


@pytest.mark.timeout(300)
def test_four_ranks_in_c_lose_no_call_when_a_rigid_job_takes_their_nodes(cluster, alice, bob):
    for name in ("nbody.c", "nbody.h", "nbody_kernel.c", "Makefile"):
        alice.put(f"c/{name}", (SOURCES / name).read_text())
    folder = f"{alice.account.home}/c"
    alice.run(HEAD, ["make", "-C", folder, "CFLAGS=-O2"], RUN_S)
    cluster.set_grace(0)
    command = ["srun", "-N1", "-n4", f"{folder}/nbody", "--bodies=1000", f"--steps={STEPS}", f"--chunks={CHUNKS}"]
    output = alice.home / "output"
    with rfaas_up(cluster, alice), output.open("w") as out, alice.popen(HEAD, command, stdout=out) as ranks:
        wait_until(lambda: output.read_text().count(": step 20\n") == RANKS, RUN_S, "all ranks at work")
        bob.run(HEAD, ["srun", "-N2", "--exclusive", "sleep", "1"], RUN_S)
        assert ranks.process.poll() is None, "the program was done before the rigid job came"
        assert ranks.wait(RUN_S) == 0, ranks.process.stderr.read()
    found = [tuple(map(int, line)) for line in LAST_LINE.findall(output.read_text())]
    print(f"\n(rank, calls, answers, sent again, reclaimed, notices): {sorted(found)}")
    assert sorted(rank for rank, *_ in found) == list(range(RANKS))
    assert {(calls, answers) for _, calls, answers, *_ in found} == {((STEPS + 1) * CHUNKS,) * 2}
    assert sum(notices for *_, notices in found) > 0, "the rigid job met no worker of these ranks"
