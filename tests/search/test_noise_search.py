from mcts_ray.config import SearchConfig
from mcts_ray.gain import Constant
from mcts_ray.search import BestOfN, RandomSearch, Setting, ZeroOrder

from .fake import carry_out, outcome_of, worth


def make(cls, budget=200, **options):
    return cls("s", Setting("a red circle", levels=10), budget, **{"phi": lambda a, s: 0.0, **options})


def rounds(search):
    found = []
    while not search.done:
        works = search.ask(999)
        found.append(works)
        for work in works:
            search.tell(outcome_of(work))
    return found


def test_random_search_doubles_and_its_images_are_those_of_best_of_n():
    search, plain = make(RandomSearch), make(BestOfN)
    assert [len(works) for works in rounds(search)] == [1, 2, 4, 8, 5]
    carry_out(plain)
    assert {c.node for c in search.finished} == {c.node for c in plain.finished}


def test_the_pivot_moves_to_better_neighbours_and_is_rejected_where_there_are_none():
    pivot, moved, restarts = None, 0, 0
    for works in rounds(make(ZeroOrder, 2000)):
        if pivot is None:
            assert len(works) == 1 and works[0].action == "seed"
        else:
            for work in works:
                assert work.action == "fuse" and work.parent is None and work.fuse.mode == "rotate"
                assert work.fuse.particles[-1] == pivot.edges[0].node and set(work.fuse.weights) == {0.95}
        best = max(works, key=lambda work: worth(work.edges[-1].node))
        if pivot is None or worth(best.edges[-1].node) > worth(pivot.edges[-1].node):
            moved += pivot is not None
            pivot = best
        else:
            restarts += 1
            pivot = None
    assert moved > 3 and restarts > 3


def test_lineages_grow_with_the_pivot():
    longest = max((work.fuse.particles for works in rounds(make(ZeroOrder, 4000)) for work in works if work.fuse), key=len)
    assert len(longest) > 2 and len(set(longest)) == len(longest)


def test_settings_come_from_the_configuration():
    """M = 4 and c = .95 where none are given."""

    def found(**settings):
        config = SearchConfig(algorithm="zero-order", levels=10, **settings).resolved(True, (64, 64), "scenes")
        search = ZeroOrder.from_config("s", Setting("", levels=10), config, lambda a, s: 0.0, Constant(1))
        return search.offspring, search.cosine

    assert found() == (4, 0.95) and found(offspring=2, cosine=0.5) == (2, 0.5)
