from mcts_ray.config import SearchConfig
from mcts_ray.gain import Constant
from mcts_ray.search import NTS, Setting

from .fake import carry_out, worth


def make(budget, **options):
    return NTS("s", Setting("a red circle", levels=10), budget, **{"phi": lambda a, s: 0.3, **options})


def steps_of(works):
    steps = {}
    for work in works:
        if work.parent and work.scored:
            steps.setdefault(work.parent, []).append(work)
    return list(steps.values())


def test_the_papers_setting_costs_what_it_says():
    search = make(1 + 80 * 9)
    steps = steps_of(carry_out(search))
    assert search.ledger.nfe == 1 + 80 * 9 and [len(step) for step in steps] == [80] * 9


def test_the_pivot_really_moves():
    """Known trap: a search that never takes over what it has found. Every neighbour is one of the best noise of its step so far."""
    pivots = set()
    for step in steps_of(carry_out(make(1 + 12 * 9, rounds=3))):
        pivot = step[0]
        for start in range(0, 12, 4):
            for work in step[start : start + 4]:
                if work.fuse:
                    assert work.fuse.particles[-1] == pivot.edges[0].node
                    assert work.fuse.particles[:-1] == (pivot.fuse.particles if pivot.fuse else ())
                    assert work.fuse.weights[:-1] == (pivot.fuse.weights if pivot.fuse else ())
            pivot = max(step[: start + 4], key=lambda work: worth(work.edges[0].node))
            pivots.add(pivot.edges[0].node)
    assert len(pivots) > 9


def test_the_step_is_made_with_the_best_noise():
    works = carry_out(make(1 + 12 * 9))
    parents = {work.parent for work in works}
    for step in steps_of(works):
        assert max((work.edges[0].node for work in step), key=worth) in parents


def test_fresh_draws_come_with_probability_epsilon():
    assert not any(work.fuse for work in carry_out(make(400, epsilon=1.0)))
    for step in steps_of(carry_out(make(400, epsilon=0.0))):
        assert sum(work.fuse is None for work in step) == 1


def test_neighbours_lie_within_the_radius():
    sizes = [size for work in carry_out(make(721)) if work.fuse for size in work.fuse.weights]
    assert 0 <= min(sizes) < 0.01 and 0.14 < max(sizes) <= 0.15


def test_a_small_budget_has_fewer_rounds_before_it_has_fewer_candidates():
    for budget, tries in ((80, 8), (1 + 7 * 9, 4), (1 + 3 * 9, 3)):
        assert len(steps_of(carry_out(make(budget)))[0]) == tries


def test_settings_come_from_the_configuration():
    """Those of the paper where none are given: N = 4, K = 20, lambda = .15, epsilon = .4."""

    def found(**settings):
        config = SearchConfig(algorithm="nts", levels=10, **settings).resolved(True, (64, 64), "scenes")
        search = NTS.from_config("s", Setting("", levels=10), config, lambda a, s: 0.3, Constant(1))
        return search.offspring, search.rounds, search.radius, search.epsilon

    assert found() == (4, 20, 0.15, 0.4)
    assert found(offspring=3, rounds=7, radius=0.3, epsilon=0.1) == (3, 7, 0.3, 0.1)
