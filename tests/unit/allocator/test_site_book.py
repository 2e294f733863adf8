"""What the site's allocator grants: within shares and quotas, never twice, and forgotten in time."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rfaas.site.query import Lent, NodeSays
from rfaas_allocator.site_book import (
    NODE_TAKES_S,
    USE_WITHIN_S,
    Closed,
    Refusal,
    SiteBook,
    SiteLimits,
    SiteNode,
    SiteWant,
)

GIB = 1 << 30
NODES = [SiteNode("n1", "10.0.0.1:7410", 4, 8 * GIB), SiteNode("n2", "10.0.0.2:7410", 2, 16 * GIB)]
RANDOM = Random(7)


def book(**limits):
    return SiteBook.of(NODES, SiteLimits(**limits))


def want(cores=1, memory_bytes=GIB, uid=1001, lasts_s=100, node=""):
    return SiteWant(uid, cores, memory_bytes, lasts_s, node)


def choose(a_book, a_want, now_s=1000):
    return a_book.choose(a_want, now_s, RANDOM.randbytes(32))


def test_a_grant_says_what_was_wanted_for_whom_and_until_when():
    grant, node = choose(book(), want(2, 3 * GIB, uid=1002, lasts_s=50, node="n2"))
    assert (grant.uid, grant.cores, grant.memory_bytes, grant.node) == (1002, 2, 3 * GIB, "n2")
    assert (grant.issued_s, grant.use_by_s, grant.ends_s) == (1000, 1000 + USE_WITHIN_S, 1050)
    assert node == NODES[1]


def test_the_fullest_node_that_has_room_is_taken():
    a_book = book()
    assert choose(a_book, want(1))[1].name == "n2"
    assert choose(a_book, want(2))[1].name == "n1"  # n2 has one core left
    assert choose(a_book, want(1))[1].name == "n2"


def test_what_is_granted_is_not_granted_again_until_it_is_over_or_given_back():
    a_book = book()
    first, _ = choose(a_book, want(4, node="n1"))
    assert choose(a_book, want(1, node="n1")).code == "no-room"
    assert not a_book.give_back(1002, first.slice_id, 1001)  # another user's word
    assert a_book.give_back(1001, first.slice_id, 1001)
    choose(a_book, want(4, node="n1"))
    assert choose(a_book, want(1, node="n1"), now_s=1099).code == "no-room"
    assert not isinstance(choose(a_book, want(1, node="n1"), now_s=1100), Refusal)


def test_what_can_t_be_is_refused_with_its_code():
    a_book = book(cores=2, memory_bytes=4 * GIB, lasts_s=1000)
    assert choose(a_book, want(0)).code == "bad-want"
    assert choose(a_book, want(lasts_s=1001)).code == "bad-want"
    assert choose(a_book, want(node="n9")).code == "unknown-node"
    assert choose(a_book, want(3)).code == "quota"
    assert choose(a_book, want(1, 5 * GIB)).code == "quota"
    choose(a_book, want(2))
    assert choose(a_book, want(1)).code == "quota"
    assert not isinstance(choose(a_book, want(2, uid=1002)), Refusal)


@given(
    st.lists(
        st.tuples(
            st.integers(1000, 1003), st.integers(1, 5), st.integers(1, 20), st.integers(1, 300), st.integers(0, 60)
        ),
        max_size=60,
    )
)
def test_no_node_is_ever_overbooked(steps):
    a_book, now_s = book(cores=5), 1000
    for uid, cores, gib, lasts_s, passes_s in steps:
        now_s += passes_s
        choose(a_book, want(cores, gib * GIB, uid, lasts_s), now_s)
        for node in NODES:
            here = [grant for grant in a_book.grants.values() if grant.node == node.name]
            assert sum(grant.cores for grant in here) <= node.cores
            assert sum(grant.memory_bytes for grant in here) <= node.memory_bytes


def says(*slices, jobs=0):
    return NodeSays(tuple(slices), jobs, False)


def lent(grant, state="running"):
    return Lent(grant.slice_id, grant.uid, grant.cores, grant.memory_bytes, 60, state)


def ends(a_book):
    return [(one.reason, one.at_s) for one in a_book.taken_changes() if isinstance(one, Closed)]


def test_what_a_node_has_named_and_names_no_more_is_over_and_what_it_never_named_in_due_time():
    a_book = book()
    first, _ = choose(a_book, want(2, node="n1"))
    second, _ = choose(a_book, want(2, node="n1"))
    a_book.hear("n1", says(lent(first)), 1001, 1001)
    assert ends(a_book) == []
    a_book.hear("n1", says(), 1005, 1005)  # the second may be on its way
    assert ends(a_book) == [("left", 1005)]
    over_s = second.use_by_s + NODE_TAKES_S
    a_book.hear("n1", says(), over_s, over_s)
    assert ends(a_book) == []
    a_book.hear("n1", says(), over_s + 1, over_s + 1)
    assert ends(a_book) == [("not-used", over_s + 1)]
    assert a_book.grants == {}


def test_what_a_node_lends_and_nobody_knows_is_taken_into_the_books_unless_it_is_ending():
    a_book = book()
    grant, _ = choose(book(), want(3, node="n1"))
    a_book.hear("n1", says(lent(grant, "killing")), 1001, 1001)
    assert a_book.grants == {}
    a_book.hear("n1", says(lent(grant)), 1002, 1002)
    assert (a_book.grants[grant.slice_id].cores, a_book.grants[grant.slice_id].uid) == (3, 1001)
    assert choose(a_book, want(2, node="n1")).code == "no-room"


def test_a_node_with_a_job_and_one_that_is_left_alone_are_granted_to_nobody():
    a_book = book()
    a_book.hear("n1", says(jobs=1), 1000, 1000)
    assert choose(a_book, want(1, node="n1")).code == "no-room"
    a_book.leave_alone({"n2": "it is drained", "n9": "who is that"}, 30, 1000)
    refused = choose(a_book, want(1))
    assert (refused.code, "1 because it is drained" in refused.hint) == ("no-room", True)
    assert not isinstance(choose(a_book, want(1), now_s=1030), Refusal)


def test_where_somebody_is_to_watch_nothing_is_granted_when_nobody_does():
    a_book = book()
    a_book.trust_s = 30
    assert choose(a_book, want(1)).code == "no-room"
    a_book.watched(1000)
    assert not isinstance(choose(a_book, want(1)), Refusal)
    assert choose(a_book, want(1), now_s=1031).code == "no-room"


def test_nodes_are_asked_that_are_unknown_lend_or_have_jobs_the_longest_silent_first():
    a_book = book()
    assert {node.name for node in a_book.to_ask(1000, 9)} == {"n1", "n2"}
    for name in "n1", "n2":
        a_book.hear(name, says(), 1000, 1000)
    assert a_book.to_ask(1000, 9) == []
    grant, _ = choose(a_book, want(1, node="n2"))
    a_book.hear("n1", says(jobs=1), 1001, 1001)
    assert [node.name for node in a_book.to_ask(1002, 9)] == ["n2", "n1"]
    assert [node.name for node in a_book.to_ask(1002, 1)] == ["n2"]
    a_book.give_back(1001, grant.slice_id, 1003)
    assert [node.name for node in a_book.to_ask(1004, 9)] == ["n2", "n1"]  # it may be used all the same
    assert [node.name for node in a_book.to_ask(grant.use_by_s + NODE_TAKES_S + 1, 9)] == ["n1"]
