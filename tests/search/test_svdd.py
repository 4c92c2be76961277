from mcts_ray.search import SVDD, Setting

from .fake import carry_out, worth


def make(budget, **options):
    return SVDD("s", Setting("a red circle", levels=10), budget, **{"phi": lambda a, s: 0.3, **options})


def test_the_papers_setting_costs_what_it_says():
    search = make(1 + 20 * 9)
    works = carry_out(search)
    assert search.ledger.nfe == 1 + 20 * 9 and len(search.finished) == 1
    assert max(sum(work.parent == parent for work in works) for parent in {work.parent for work in works}) == 20


def test_children_shrink_to_the_budget_and_whole_runs_follow_each_other():
    search = make(80)
    carry_out(search)
    assert search.ledger.nfe == 1 + 8 * 9
    search = make(200, offspring=4)
    carry_out(search)
    assert len(search.finished) == 5 + 1 and search.ledger.nfe == 5 * (1 + 4 * 9) + 10


def test_the_best_child_goes_on():
    works = carry_out(make(80))
    parents = {work.parent for work in works}
    for parent in parents - {None}:
        children = [work.edges[0].node for work in works if work.parent == parent and work.scored]
        assert not children or max(children, key=worth) in parents


def test_a_finite_alpha_draws_children_in_proportion():
    """With next to no strength the choice is even: the best of 8 is chosen about once in 8 times of 9 steps."""
    works = carry_out(make(80, strength=1e-6))
    parents = {work.parent for work in works} - {None}
    best = 0
    for parent in parents:
        children = [work.edges[0].node for work in works if work.parent == parent and work.scored]
        best += bool(children) and max(children, key=worth) in parents
    assert best < 6
    assert carry_out(make(80, strength=1e9)) == carry_out(make(80))
