"""Where leases go: fewest nodes, then tightest fit, then slice id; held against a search of all choices. And spread."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rfaas_allocator.placement import Item, Placement, in_parts, place
from rfaas_allocator.rooms import Room, Rooms


def room(name, cores, memory=1000, node=None):
    return Room(name.encode(), node or name, cores, memory)


def chosen(rooms, workers, cores=1, memory=1):
    return [(p.slice_id.decode(), p.workers) for p in place(rooms, Item(workers, cores, memory))]


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_leases_of_one_slice_give_together_what_was_placed_there(workers, most):
    parts = in_parts(workers, most)
    assert sum(parts) == workers
    assert min(parts) > 0
    assert len(parts) == (-(-workers // most) if most else 1)
    assert max(parts) <= (most or workers)


def test_one_node_is_better_than_two():
    assert chosen([room("a", 2), room("b", 2), room("c", 4)], 4) == [("c", 4)]


def test_the_tightest_that_holds_all_is_taken():
    assert chosen([room("a", 9), room("b", 3), room("c", 4)], 3) == [("b", 3)]


def test_of_equal_cores_the_tighter_memory_is_taken():
    assert chosen([room("a", 3, 900), room("b", 3, 500)], 2) == [("b", 2)]


def test_of_equals_the_lowest_slice_id_is_taken():
    assert chosen([room("b", 3, node="n1"), room("a", 3, node="n1")], 2) == [("a", 2)]


def test_slices_of_one_node_count_as_one_node():
    rooms = [room("a", 2, node="n1"), room("b", 2, node="n1"), room("c", 3, node="n2")]
    assert chosen(rooms, 4) == [("a", 2), ("b", 2)]


def test_the_largest_first_and_the_rest_where_it_fits_tightest():
    assert chosen([room("a", 4), room("b", 1), room("c", 2)], 5) == [("a", 4), ("b", 1)]


def test_what_fits_is_given_when_not_all_does():
    assert chosen([room("a", 1), room("b", 2)], 9) == [("b", 2), ("a", 1)]


def test_a_worker_is_not_split_over_slices():
    assert chosen([room("a", 3), room("b", 3)], 3, cores=2) == [("a", 1), ("b", 1)]


def test_memory_may_be_what_limits():
    assert chosen([room("a", 8, 100)], 8, memory=40) == [("a", 2)]


def test_nothing_fits_nowhere():
    assert chosen([], 1) == []
    assert chosen([room("a", 1)], 1, cores=2) == []


ROOMS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40), st.sampled_from(["n1", "n2", "n3"])), max_size=6).map(
    lambda rows: [Room(bytes([i]), node, cores, memory) for i, (cores, memory, node) in enumerate(rows)]
)
ITEMS = st.builds(Item, st.integers(1, 12), st.integers(1, 3), st.integers(1, 20))


@given(rooms=ROOMS, item=ITEMS)
def test_every_placement_fits_and_together_they_are_all_that_fits(rooms, item):
    by_id = {room.slice_id: room for room in rooms}
    placements = place(rooms, item)
    assert all(0 < p.workers <= item.fitting(by_id[p.slice_id]) for p in placements)
    assert len({p.slice_id for p in placements}) == len(placements)
    possible = sum(item.fitting(room) for room in rooms)
    assert sum(p.workers for p in placements) == min(possible, item.workers)


@given(rooms=ROOMS, item=ITEMS)
def test_no_choice_of_fewer_nodes_would_do(rooms, item):
    by_id = {room.slice_id: room for room in rooms}
    placements = place(rooms, item)
    used = {by_id[p.slice_id].node for p in placements}
    placed = sum(p.workers for p in placements)
    on_node = {node: sum(item.fitting(room) for room in rooms if room.node == node) for node in ("n1", "n2", "n3")}
    for fewer in itertools.combinations(on_node, max(0, len(used) - 1)):
        assert sum(on_node[node] for node in fewer) < placed or not placed


@given(rooms=ROOMS, item=ITEMS, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_rooms_does_not_matter(rooms, item, seed):
    shuffled = rooms[:]
    seed.shuffle(shuffled)
    assert place(rooms, item) == place(shuffled, item)


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["n1", "n2", "n3"]), st.integers(-1, 4), st.integers(0, 40)),
        max_size=40,
    ),
    item=ITEMS,
    hint=st.sampled_from(["pack", "spread"]),
    serving=st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), st.integers(0, 4)),
)
def test_an_index_that_changed_gives_what_a_new_one_gives(changes, item, hint, serving):
    rooms, index = {}, Rooms()
    for number, node, cores, memory in changes:
        slice_id = bytes([number])
        if cores < 0:
            rooms.pop(slice_id, None)
            index.drop(slice_id)
        else:
            rooms[slice_id] = Room(slice_id, node, cores, memory)
            index.put(rooms[slice_id])
    assert {room.slice_id: room for room in index} == rooms
    assert place(index, item, hint, serving) == place(rooms.values(), item, hint, serving)


@given(rooms=ROOMS, item=ITEMS)
def test_nodes_are_chosen_as_one_chooses_who_looks_at_each(rooms, item):
    """The largest first; once one holds the rest, the tightest of those: by all that is free there, then by name."""
    on_node = {room.node: [other for other in rooms if other.node == room.node] for room in rooms}
    left = {node: (sum(r.cores for r in here), sum(r.memory_bytes for r in here)) for node, here in on_node.items()}
    fits = {node: min(item.workers, sum(map(item.fitting, here))) for node, here in on_node.items()}
    nodes = sorted((node for node in fits if fits[node]), key=lambda node: (-fits[node], left[node], node))
    expected, workers = {}, item.workers
    while nodes and workers:
        enough = [node for node in nodes if fits[node] >= workers]
        node = min(enough, key=lambda node: (left[node], node)) if enough else nodes[0]
        nodes.remove(node)
        expected[node] = min(workers, fits[node])
        workers -= expected[node]
    given_to = {}
    node_of = {room.slice_id: room.node for room in rooms}
    for placement in place(rooms, item):
        node = node_of[placement.slice_id]
        given_to[node] = given_to.get(node, 0) + placement.workers
    assert list(given_to.items()) == list(expected.items())


def test_a_placement_is_a_plain_value():
    assert Placement(b"a", 1) == Placement(b"a", 1)


# --- spread --------------------------------------------------------------------------------------


def spread(rooms, workers, serving=None, cores=1, memory=1):
    found = place(rooms, Item(workers, cores, memory), "spread", serving)
    return [(p.slice_id.decode(), p.workers) for p in found]


def test_spread_gives_every_node_its_part():
    rooms = [room("a", 8), room("b", 8), room("c", 8)]
    assert spread(rooms, 3) == [("a", 1), ("b", 1), ("c", 1)]
    assert spread(rooms, 7) == [("a", 3), ("b", 2), ("c", 2)]


def test_spread_fills_up_where_others_are_full():
    assert spread([room("a", 1), room("b", 9)], 5) == [("a", 1), ("b", 4)]


def test_spread_counts_what_serves_already():
    rooms = [room("a", 8), room("b", 8)]
    assert spread(rooms, 2, {"a": 2}) == [("b", 2)]
    assert spread(rooms, 3, {"a": 1}) == [("a", 1), ("b", 2)]


def test_spread_takes_the_emptiest_of_equals():
    assert spread([room("a", 2), room("b", 3)], 1) == [("b", 1)]


def test_spread_within_a_node_packs():
    rooms = [room("a", 2, node="n1"), room("b", 4, node="n1"), room("c", 9, node="n2")]
    assert spread(rooms, 6) == [("b", 3), ("c", 3)]


def test_another_hint_counts_as_pack():
    rooms = [room("a", 8), room("b", 8)]
    assert place(rooms, Item(2, 1, 1), "sprinkle") == place(rooms, Item(2, 1, 1), "pack")


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from("xyz")), max_size=6),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(1, 3),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 4)),
)
def test_spread_gives_as_many_as_pack_and_leaves_no_node_two_behind(sizes, workers, cores, memory, serving):
    rooms = [Room(bytes([index]), node, *size) for index, (*size, node) in enumerate(sizes)]
    item = Item(workers, cores, memory)
    spread_out, packed = place(rooms, item, "spread", serving), place(rooms, item)
    assert sum(p.workers for p in spread_out) == sum(p.workers for p in packed)
    node_of = {each.slice_id: each.node for each in rooms}
    capacity, given_to = dict.fromkeys("xyz", 0), dict.fromkeys("xyz", 0)
    for each in rooms:
        capacity[each.node] += item.fitting(each)
    for placement in spread_out:
        assert 1 <= placement.workers <= item.fitting(rooms[placement.slice_id[0]])
        given_to[node_of[placement.slice_id]] += placement.workers
    for node, other in itertools.permutations("xyz", 2):
        if given_to[node] and given_to[other] < capacity[other]:
            assert serving.get(node, 0) + given_to[node] <= serving.get(other, 0) + given_to[other] + 1
