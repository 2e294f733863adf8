"""The hosts that the harvester names to the allocator, so that what none can hold is denied."""

from dataclasses import replace

import pytest

from rfaas.control.messages import Host
from rfaas_slurm_plugin.harvest.harvester import hosts_of
from rfaas_slurm_plugin.views.view import ClusterView, Node

NODE = Node("n1", "n1", frozenset({"IDLE"}), ("harvest",), 4, 3, 8000, 7000, 1)


def seen(*nodes):
    return hosts_of(ClusterView(0.0, nodes, ()))


def test_all_that_a_node_has_counts_whoever_holds_it_and_whatever_its_state():
    down = replace(NODE, name="n2", states=frozenset({"DOWN"}))
    known = seen(NODE, down)
    assert known.hosts == (Host("n1", 4, 8000 << 20, "slurm"), Host("n2", 4, 8000 << 20, "slurm"))
    assert known.complete


@pytest.mark.parametrize("nodes", [(), (NODE, replace(NODE, name="n2", memory_mib=1))])
def test_what_slurm_does_not_know_proves_nothing(nodes):
    assert not seen(*nodes).complete
