"""Who gets the next unit: fair shares, placement, how much may wait, what is evicted."""

from collections import Counter

import pytest

from mcts_ray.executor import Job
from mcts_ray.executor.schedule import Depth, Places, Shares, least_used
from mcts_ray.executor.session import Session
from mcts_ray.search import BestOfN, Setting
from tests.search.fake import outcome_of


def deal(shares, room, costs, limits=None):
    """Who asks, in order; `limits`: how often each may."""
    asked = []

    def ask(id):
        if limits is not None and asked.count(id) >= limits.get(id, 0):
            return None
        asked.append(id)
        return costs[id]

    shares.deal(room, ask)
    return asked


def shares(*ids):
    made = Shares()
    for id in ids:
        made.enter(id)
    return made


def test_equal_units_go_round():
    made = shares("a", "b", "c")
    assert deal(made, 4, Counter(a=3, b=3, c=3)) == ["a", "b", "c", "a"]
    assert deal(made, 3, Counter(a=3, b=3, c=3)) == ["b", "c", "a"]  # and go on where they stopped


def test_searches_get_equal_nfe_whatever_their_units_cost():
    costs = {"long": 30, "short": 1, "middle": 5}
    asked = deal(shares(*costs), 3000, costs)
    spent = {id: asked.count(id) * cost for id, cost in costs.items()}
    assert max(spent.values()) - min(spent.values()) <= 30


def test_nobody_saves_up_turns():
    made = shares("a", "b")
    deal(made, 100, Counter(a=1, b=1), {"a": 100})  # b wants nothing
    made.enter("c")
    asked = deal(made, 30, Counter(a=1, b=1, c=1))
    assert set(Counter(asked).values()) == {10}


def test_what_one_cannot_use_the_others_get_and_all_of_it_is_dealt():
    assert Counter(deal(shares("a", "b", "c"), 20, Counter(a=8, b=1, c=1), {"a": 9, "b": 2})) == {"a": 9, "b": 2}
    assert deal(shares("a"), 0, Counter(a=1)) == [] and deal(shares(), 5, {}) == []


def test_one_that_has_left_is_not_asked():
    made = shares("a", "b")
    made.leave("a")
    made.leave("a")
    assert deal(made, 2, Counter(b=1)) == ["b", "b"]


def test_a_session_shares_by_nfe_and_keeps_the_cap_of_each_search():
    """Walks of 24 calls beside walks of 3, both always with more to do than there is room for."""
    searches = [BestOfN(id, Setting("a cat", levels=levels), 10_000) for id, levels in (("long", 24), ("short", 3))]
    session = Session([Job(search, in_flight=40) for search in searches], clock=lambda: 0.0)
    out, asked = [], Counter()
    for _ in range(60):
        out += (new := session.take(16 - len(out)))
        asked.update({work.search: 0 for work in new})
        for work in new:
            asked[work.search] += work.nfe
        done, out = out[:4], out[4:]
        for work in done:
            session.jobs[work.search].tell(outcome_of(work), work.edges[-1].node)
    assert abs(asked["long"] - asked["short"]) <= 24
    alone = Session([Job(BestOfN("s", Setting("a cat", levels=3), 10_000), in_flight=5)], clock=lambda: 0.0)
    assert len(alone.take(100)) == 5 and alone.take(100) == []


@pytest.mark.parametrize(
    "loads, holder, chosen",
    [
        ([(3, 8), (1, 8), (2, 8)], None, 1),  # the least loaded
        ([(2, 8), (1, 8), (1, 8)], None, 1),  # of equal ones the first
        ([(1, 8), (3, 8), (4, 8)], 1, 1),  # the holder, with a quarter of a batch more
        ([(1, 8), (3, 8), (4, 8)], 2, 0),  # but not with more than that
        ([(7, 8), (8, 8)], 1, 0),  # nor without room
        ([(0, 0), (5, 8)], 0, 1),  # dead ones have no room
        ([(3, 0), (8, 8), (2, 0)], None, 2),  # nobody has: the emptiest
    ],
)
def test_the_least_loaded_gets_it_with_affinity_for_the_holder(loads, holder, chosen):
    assert Places((out, room, 8) for out, room in loads).give(holder) == chosen


def test_units_spread_until_there_is_no_room():
    places = Places([(4, 8, 8), (12, 32, 32), (0, 0, 8)])
    assert places.free == 24
    given = [places.give() for _ in range(24)]
    assert Counter(given) == {0: 4, 1: 20} and given[:3] == [1, 1, 1] and places.free == 0  # larger batches are filled as far


def test_twice_as_many_wait_as_leave_with_a_call_and_two_batches_are_the_most():
    depth = Depth(8)
    assert (depth.leaving, depth.room) == (1, 10)
    for _ in range(40):
        depth.left(8)
    assert (depth.leaving, depth.room) == (8, 16)
    depth.left(60)
    assert (depth.leaving, depth.room) == (8, 16)
    for _ in range(60):
        depth.left(0)
    assert (depth.leaving, depth.room) == (1, 10)


def test_the_least_recently_used_is_evicted_and_what_is_needed_is_spared():
    sizes = [("a", 10), ("b", 10), ("c", 10), ("d", 10)]
    assert least_used(sizes, 40, lambda key: False) == []
    assert least_used(sizes, 25, lambda key: False) == ["a", "b"]
    assert least_used(sizes, 25, lambda key: key == "a") == ["b", "c"]
    assert least_used(sizes, 0, lambda key: key in "bd") == ["a", "c"]
