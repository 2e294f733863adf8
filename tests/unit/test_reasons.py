"""What `rfaas explain` says of channels: which medium, to whom, and why."""

from rfaas.cli.reasons import of_channels, of_wants
from rfaas.control import messages as m

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


def test_what_a_program_wants_stands_beside_what_it_has():
    holder, other = b"\xab" * 16, b"\xcd" * 16

    def held(workers, state, request=1):
        terms = m.LeaseTerms(b"l" * 16, 1, b"s" * 16, 1, holder, request, workers, 1, 1, 10.0)
        return m.HeldLease(terms, (), state)

    leases = held(1, "ACTIVE"), held(2, "GRANTED"), held(4, "DRAINING"), held(8, "ACTIVE", request=2)
    view = m.SliceView(m.Slice(b"s" * 16, "n1", 16, 1, "unix:@a"), 1, "up", leases)
    wants = (
        m.Want(holder, 1, 5, 1, 1, lease_workers=1),
        m.Want(other, 1, 2, 1, 1),
        m.Want(other, 2, 1, 0, 1, kind=m.MEMORY),
    )
    assert [reason.text for reason in of_wants(m.Snapshot(1, (view,), wants))] == [
        "program abababab wants 5 workers, in leases of at most 1, and has 3",
        "program cdcdcdcd wants 2 workers, and has 0",
    ]
