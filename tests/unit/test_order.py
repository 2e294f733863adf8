"""Which files begin first: those that are there, in front of all others."""

from types import SimpleNamespace

from support import order


def test_the_listed_files_are_there():
    assert [str(path) for path in order._PLACES if not path.exists()] == []


def test_they_come_first_and_the_others_keep_their_order():
    last, first = list(order._PLACES)[-1], next(iter(order._PLACES))
    others = [first.with_name("test_a.py"), first.with_name("test_b.py")]
    items = [SimpleNamespace(path=path) for path in (others[1], last, others[0], first, first)]
    order.pytest_collection_modifyitems(items)
    assert [item.path for item in items] == [first, first, last, others[1], others[0]]
