from mcts_ray.search import RBF, Setting

from .fake import carry_out, worth


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
    record, base = max(seeds), (250 - 25) // 9
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
    works = carry_out(make(500))
    assert sum(work.parent is None for work in works) == 2 * 25
