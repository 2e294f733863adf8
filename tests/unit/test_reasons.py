"""What `rfaas explain` says of channels: which medium, to whom, and why."""

from rfaas.cli.reasons import of_channels

LEASE, OTHER = b"\x1f" * 16, b"\x2f" * 16


def channel(lease=LEASE, node="n1", medium="verbs", why="both ends have RDMA", slot=0):
    return {"client": b"c" * 16, "lease": lease, "node": node, "slot": slot, "medium": medium, "why": why}


def texts(*channels, **which):
    return [reason.text for reason in of_channels(channels, **which)]


def test_channels_are_counted_by_node_medium_and_reason():
    told = texts(channel(), channel(slot=1), channel(OTHER, "n2", "tcp", "no RDMA: n2 says: no port is up"))
    assert told == [
        "calls from here to 2 workers on n1 go over verbs: both ends have RDMA",
        "calls from here to 1 worker on n2 go over tcp: no RDMA: n2 says: no port is up",
    ]


def test_only_those_of_the_lease_or_node_that_is_asked_for_are_told():
    both = channel(), channel(OTHER, "n2")
    assert ["n2" in text for text in texts(*both, lease="2f2f")] == [True]
    assert ["n1" in text for text in texts(*both, node="n1")] == [True]
    assert texts(*both, node="n3") == []
    assert texts() == []
