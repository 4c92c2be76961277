from collections import Counter
from dataclasses import replace

import pytest

from mcts_ray.search import RBF, Setting

from .fake import carry_out, outcome_of, worth


def make(budget, **options):
    return RBF("s", Setting("a red circle", levels=10), budget, **{"phi": lambda a, s: 0.3, **options})


def by_parent(works):
    steps = {}
    for work in works:
        if work.parent and work.scored:
            steps.setdefault(work.parent, []).append(worth(work.edges[0].node))
    return list(steps.values())


def test_quotas_roll_over_and_the_whole_budget_is_spent():
    """The account of one sample, followed child by child."""
    search = make(250, samples=1)
    works = carry_out(search, room=1)
    seeds = [worth(work.edges[0].node) for work in works if work.parent is None]
    assert len(seeds) == 25
    record, base = max(seeds), (250 - 25) // 10
    quota, *_ = [base]
    *steps, last = by_parent(works)
    assert len(steps) == 8
    for values in steps:
        better = [index for index, value in enumerate(values) if value > record]
        if better:
            assert better == [len(values) - 1]
            record, quota = values[-1], base + quota - len(values)
        else:
            assert len(values) == quota
            quota = base
    assert len(last) == 250 - 25 - sum(map(len, steps))
    assert search.ledger.nfe == 250 and len(search.finished) == 1


def test_the_best_child_of_a_step_goes_on():
    works = carry_out(make(250, samples=1))
    parents = {work.parent for work in works}
    for values, parent in zip(by_parent(works), [p for p in dict.fromkeys(work.parent for work in works) if p]):
        children = [work.edges[0].node for work in works if work.parent == parent and work.scored]
        assert max(children, key=worth) in parents and len(children) == len(values)


def test_a_sample_does_not_depend_on_those_beside_it():
    """Known trap: what a sample draws depends on the composition of its batch."""
    alone, beside = make(100, samples=1), make(200, samples=2)
    carry_out(alone), carry_out(beside, room=99)
    assert len(beside.finished) == 2
    assert {c.node for c in alone.finished} <= {c.node for c in beside.finished}


def test_the_papers_setting():
    """500 NFE for two samples of 10 steps: 25 noises each, and Q0 = floor((500 - 2 25) / (10 2)) = 22. With values that fall from
    step to step no child is ever better than r*, so that each step but the last has its whole quota and none rolls over."""
    search, works = make(500), []
    while not search.done:
        for work in search.ask(99):
            works.append(work)
            scores = tuple((node, float(work.edges[-1].level)) for node in work.scored)
            search.tell(replace(outcome_of(work), scores=scores))
    assert sum(work.parent is None for work in works) == 2 * 25
    steps = Counter(work.parent for work in works if work.parent and work.scored)
    assert Counter(steps.values()) == {22: 2 * 8, 500 // 2 - 25 - 8 * 22: 2}


@pytest.mark.parametrize("levels", [1, 2, 3, 10])
def test_a_budget_of_one_trajectory_pays_for_one(levels):
    search = RBF("s", Setting("", levels=levels), levels, phi=lambda a, s: 0.3)
    carry_out(search)
    assert search.ledger.nfe == levels and len(search.finished) == 1
