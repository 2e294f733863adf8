"""What the site's allocator is told of a view of Slurm."""

from rfaas_slurm_plugin.harvest.site_watch import NODES_TOLD, REASON_LETTERS, parts


def test_rules_go_in_parts_and_an_empty_one_says_that_somebody_watches():
    assert list(parts({})) == [{}]
    rules = {f"n{number}": "x" * 500 for number in range(NODES_TOLD + 1)}
    told = list(parts(rules))
    assert [len(part) for part in told] == [NODES_TOLD, 1]
    assert {name for part in told for name in part} == set(rules)
    assert {len(why) for part in told for why in part.values()} == {REASON_LETTERS}
