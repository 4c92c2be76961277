from mcts_ray.search import SVDD, Beam, Setting

from .fake import carry_out, worth


def make(budget, cls=Beam, **options):
    return cls("s", Setting("a red circle", levels=10), budget, **{"phi": lambda a, s: 0.3, **options})


def test_the_best_children_go_on_whoever_their_parents_are():
    """Known trap: every survivor continued from parent 0. Here the children of each level hang on exactly those states of the
    level above that were the best of all."""
    works = carry_out(make(3 + 3 * 4 * 9, active=3, offspring=4), room=99)
    below = {}
    for work in works:
        below.setdefault(work.edges[-1].level, []).append(work)
    for level in range(9, 1, -1):
        best = sorted((work.edges[0].node for work in below[level]), key=worth)[-3:]
        assert {work.parent for work in below[level - 1]} == set(best)
    assert len({work.parent for work in below[9]}) == 3


def test_one_state_is_svdd():
    beam, svdd = make(73, active=1, offspring=8), make(73, SVDD, offspring=8)
    carry_out(beam), carry_out(svdd)
    assert [c.node for c in beam.finished] == [c.node for c in svdd.finished]


def test_sizes_fit_the_budget():
    for budget, active, finished in ((80, None, 4), (200, 4, 4 + 4 + 2 + 1), (10, 4, 1)):
        search = make(budget, active=active)
        carry_out(search)
        assert len(search.finished) == finished
