"""What tells a node from the same node after a reboot."""

import os

import pytest

from rfaas.control.incarnation import Incarnation


def proc(directory, *slurmds, boot_id="b00t"):
    """A /proc with these slurmds: (pid, start in ticks, arguments)."""
    for pid, ticks, *words in slurmds:
        (directory / str(pid)).mkdir(parents=True)
        (directory / str(pid) / "comm").write_text("slurmd\n")
        (directory / str(pid) / "cmdline").write_bytes("\0".join(["slurmd", *words]).encode() + b"\0")
        fields = ["S", *["0"] * 18, str(ticks), "0"]
        (directory / str(pid) / "stat").write_text(f"{pid} (slurmd) {' '.join(fields)}\n")
    (directory / "sys/kernel/random").mkdir(parents=True)
    (directory / "sys/kernel/random/boot_id").write_text(f"{boot_id}\n")
    (directory / "self/ns").mkdir(parents=True)
    (directory / "self/ns/pid").touch()
    return directory


def test_of_a_node_with_slurmd(tmp_path):
    found = Incarnation.of_this_node("n1", proc(tmp_path, (20, 1234)))
    assert found.init_start_ticks == 0  # there is no init here
    assert (found.boot_id, found.slurmd_start_ticks) == ("b00t", 1234)
    assert found.pid_namespace == os.stat(tmp_path / "self/ns/pid").st_ino
    assert Incarnation.parse(str(found)) == found


def test_of_several_slurmds_the_nodes_own_counts_else_the_oldest(tmp_path):
    directory = proc(tmp_path, (20, 50, "-N", "n1"), (21, 60, "-N", "n2"))
    assert Incarnation.of_this_node("n2", directory).slurmd_start_ticks == 60
    assert Incarnation.of_this_node("n3", directory).slurmd_start_ticks == 50


def test_a_host_without_slurmd_has_one_too():
    here = Incarnation.of_this_node()
    assert here.boot_id.count("-") == 4
    assert Incarnation.parse(str(here)) == here


@pytest.mark.parametrize("text", ["", "boot", "boot:1:2", "boot:x:2:3", "boot:1:x:3", ":1:2:3", "boot:1:2:3:4"])
def test_anything_else_is_none(text):
    assert Incarnation.parse(text) is None


@pytest.mark.parametrize(
    ("now", "proves"),
    [
        ("other:10:1:5", True),  # a reboot
        ("other:0:1:5", True),
        ("boot:11:2:6", True),  # a container that was started again
        ("boot:11:1:6", True),  # and got the same number for its namespace
        ("boot:10:1:5", False),
        ("boot:11:1:5", False),  # slurmd alone was started again: steps outlive it
        ("boot:10:2:6", False),  # a job with a namespace of its own
        ("boot:0:2:6", False),  # slurmd can't be seen
    ],
)
def test_what_proves_the_death_of_all_before(now, proves):
    later, before = Incarnation.parse(now), Incarnation.parse("boot:10:1:5")
    assert later.proves_death_of(before) == proves
