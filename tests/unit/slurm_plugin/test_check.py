"""Which partition is harvested, and refusals that name cause and remedy."""

from dataclasses import replace

import pytest

from rfaas_slurm_plugin.check import choose_partition, make_plan, refuse_unknown_nodes
from rfaas_slurm_plugin.cli.check import OK, WARNING, judge
from rfaas_slurm_plugin.views.view import ClusterConfig, ClusterView, Node, Partition
from rfaas_transport.errors import ConfigError

HARVEST = Partition("harvest", ("n1", "n2"), True, 1, "CANCEL", 5.0, None)
RIGID = Partition("rigid", ("n1", "n2"), True, 10, "OFF", 0.0, None)
CONFIG = ClusterConfig("rig", "preempt/partition_prio", "CANCEL", 30.0, "22.05.8")


def test_the_preemptible_partition_is_found():
    assert choose_partition((RIGID, HARVEST), CONFIG, None) is HARVEST
    assert choose_partition((RIGID, HARVEST), CONFIG, "harvest") is HARVEST


@pytest.mark.parametrize(
    "partitions",
    [
        (RIGID,),
        (RIGID, replace(HARVEST, preempt_mode="OFF")),
        (replace(RIGID, priority_tier=1), HARVEST),
        (replace(RIGID, nodes=("n3",)), HARVEST),
    ],
)
def test_without_a_preemptible_partition_it_is_refused_with_the_lines_to_add(partitions):
    with pytest.raises(ConfigError, match="no partition of this cluster is preemptible") as caught:
        choose_partition(partitions, CONFIG, None)
    assert "PreemptMode=CANCEL" in caught.value.hint


def test_a_wrong_partition_is_refused_with_the_ones_there_are():
    with pytest.raises(ConfigError, match="no partition 'x'") as caught:
        choose_partition((RIGID, HARVEST), CONFIG, "x")
    assert "rigid, harvest" in caught.value.hint
    with pytest.raises(ConfigError, match="not taken back"):
        choose_partition((RIGID, HARVEST), CONFIG, "rigid")


def test_grace_is_the_partitions_or_else_kill_wait():
    plan = make_plan(HARVEST, CONFIG, "127.0.0.1", None)
    assert (plan.grace_s, plan.drain_s, plan.overdue_s, plan.listen) == (5.0, 4.0, 37.0, "127.0.0.1")
    plan = make_plan(replace(HARVEST, grace_s=0.0), CONFIG, "127.0.0.1", "10.0.0.1")
    assert (plan.grace_s, plan.drain_s, plan.overdue_s, plan.listen) == (30.0, 29.0, 32.0, "10.0.0.1")


def test_a_node_without_a_way_there_is_named():
    with pytest.raises(ConfigError, match=r"no way to compute node 'no-such-node\.invalid'"):
        make_plan(HARVEST, CONFIG, "no-such-node.invalid", None)


def test_nodes_that_are_not_there_are_refused_with_those_that_are():
    refuse_unknown_nodes(("n1",), ("n1", "n2"), "harvest")
    with pytest.raises(ConfigError, match=r"no node n7") as caught:
        refuse_unknown_nodes(("n1", "n7"), ("n1", "n2"), "harvest")
    assert "n1, n2" in caught.value.hint
    with pytest.raises(ConfigError, match="has no nodes"):
        refuse_unknown_nodes((), (), "harvest")


@pytest.mark.parametrize("listen", ["127.0.0.1", "localhost", "::1"])
def test_an_address_that_no_node_reaches_is_refused(listen):
    with pytest.raises(ConfigError, match="can't reach"):
        make_plan(HARVEST, CONFIG, "127.0.0.1", listen)


def test_a_partition_without_a_usable_node_is_a_warning_not_a_hindrance():
    away = Node("n1", "n1", frozenset(["DOWN"]), ("harvest",), 4, 0, 8000, 0, 0)
    for node, severity in ((away, WARNING), (replace(away, states=frozenset(["IDLE"])), OK)):
        view = ClusterView(0.0, (node,), ())
        found = judge("commands", "", view, (RIGID, HARVEST), CONFIG, None)
        assert [(one.check, one.severity) for one in found][-1] == ("nodes", severity)
        assert bool(found[-1].remedy) is (severity == WARNING)
