"""Hostlists: what Slurm writes, and what nobody should."""

import pytest

from rfaas_slurm_plugin.views.hostlist import MAX_NAMES, expand


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[08-11]", ("n08", "n09", "n10", "n11")),
        ("n[1,3-4]-ib,login", ("n1-ib", "n3-ib", "n4-ib", "login")),
        ("r[1-2]c[1-2]", ("r1c1", "r1c2", "r2c1", "r2c2")),
    ],
)
def test_hostlists_expand_in_the_order_written(text, names):
    assert expand(text) == names


@pytest.mark.parametrize(
    "text", ["n[1-3", "n1-3]", "n[3-1]", "n[a-b]", "n[[1]]", f"n[0-{MAX_NAMES}]", "n[]", "n[1-\u0663]", "n[\u00b2]"]
)
def test_malformed_hostlists_are_refused_with_the_part_named(text):
    with pytest.raises(ValueError, match=r"bracket|range|number|names"):
        expand(text)
