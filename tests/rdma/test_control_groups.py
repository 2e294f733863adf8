"""The root node agent with control groups of version 2 and all their controllers, which the guest's kernel has.

In this ring since the guest is in it: machines that mount version 1 too have the controllers there (test_node_agent).
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.munged import WHERE_ALL_REACH
from support.node_agent import ALICE, MIB, SOURCES, rig
from support.waiting import wait_until

pytestmark = pytest.mark.rdma

WAIT_S = 60.0
PROBE = Path(__file__).parents[1] / "system/node_agent_probe.c"


@contextlib.contextmanager
def control_groups():
    """Where version 2 is mounted with its controllers, for the length of the block."""
    mount = Path(tempfile.mkdtemp(prefix="rfaas-cgroup-", dir=WHERE_ALL_REACH))
    subprocess.run(["mount", "-t", "cgroup2", "none", mount], check=True, timeout=30)
    try:
        assert {"memory", "pids", "cpu", "cpuset"} <= set((mount / "cgroup.controllers").read_text().split())
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True, timeout=30)
        mount.rmdir()


@pytest.fixture(scope="module")
def node():
    with control_groups() as mount, tempfile.TemporaryDirectory(prefix="rfaas-node-", dir=WHERE_ALL_REACH) as made:
        os.chmod(made, 0o755)
        folder, program, probe = (Path(made) / name for name in ("node", "rfaas-node-agent", "probe"))
        folder.mkdir()
        strict = ["cc", "-std=c11", "-O1", "-D_GNU_SOURCE", "-Wall", "-Werror"]
        subprocess.run([*strict, "-o", program, *SOURCES.glob("*.c"), "-lmunge", "-lcrypto"], check=True, timeout=120)
        subprocess.run([*strict, "-o", probe, PROBE], check=True, timeout=60)
        with rig(program, folder, probe, pids_max=64, cgroup_mount=mount) as node:
            yield node
            parent = mount / node.cgroup
        parent.rmdir()


@pytest.fixture
def group(node):
    """Of a slice that runs as the probe's `way` says."""
    ways = node.home(ALICE) / "way"

    def start(way, **about):
        ways.write_text(way)
        (node.home(ALICE) / "report.txt").unlink(missing_ok=True)
        grant = node.grant(**about)
        node.ask(grant)
        wait_until((node.home(ALICE) / "report.txt").exists, WAIT_S, "the probe's report")
        return Path(node.settings["cgroup_mount"]) / node.cgroup / grant.slice_id.hex()

    yield start
    assert node.hook("rfaas-hook/1 evict job=9").startswith("rfaas-hook/1 done")
    node.hook("rfaas-hook/1 free job=9")


def test_a_slice_has_its_limits_and_memory_beyond_is_not_to_be_had(node, group):
    made = group("wait", memory_bytes=32 * MIB)
    assert "cgroup=v2" in node.said()
    said = {name: (made / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max", "cpu.weight")}
    assert said == {"memory.max": str(32 * MIB), "pids.max": "64", "cpu.max": "100000 100000", "cpu.weight": "1"}
    assert (made / "cpuset.cpus").read_text().strip() == str(max(os.sched_getaffinity(0)))
    hog = f"echo $$ > {made}/cgroup.procs && exec /usr/bin/python3 -c 'bytearray(200 << 20)'"
    assert subprocess.run(["sh", "-c", hog], timeout=WAIT_S, capture_output=True).returncode == -signal.SIGKILL


@pytest.mark.parametrize("way", ["stubborn", "fork"])
def test_what_does_not_go_is_killed(node, group, way):
    made = group(way)
    if way == "fork":
        wait_until(lambda: int((made / "pids.current").read_text()) >= 60, WAIT_S, "a fork bomb at its limit")
    answer = node.hook("rfaas-hook/1 evict job=5")
    node.hook("rfaas-hook/1 free job=5")
    print(way, answer)
    assert answer.startswith("rfaas-hook/1 done evicted=1")
    assert not made.exists()
