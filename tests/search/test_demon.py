import math
import statistics

import pytest

from mcts_ray.search import Demon, Setting

from .fake import carry_out, outcome_of, refusal_of, worth


def make(budget, **options):
    return Demon("s", Setting("a red circle", levels=10), budget, **{"phi": lambda a, s: 0.3, **options})


def test_the_papers_setting_costs_what_it_says():
    search = make(1 + 17 * 9)
    works = carry_out(search)
    assert search.ledger.nfe == 1 + 17 * 9 and search.ledger.fusions == 9
    assert search.ledger.decodes == 16 * 9 + 1
    assert all(len(work.fuse.particles) == 16 for work in works if work.fuse)


def test_weights_are_tanh_of_the_standardised_values_and_the_mixture_goes_on():
    works = carry_out(make(1 + 17 * 9))
    parents = {work.parent for work in works}
    for work in works:
        if work.fuse:
            assert work.fuse.mode == "demon" and work.edges[0].node in parents
            values = [worth(node) for node in work.fuse.particles]
            mean, std = statistics.fmean(values), statistics.pstdev(values)
            assert work.fuse.weights == pytest.approx([math.tanh((v - mean) / std) for v in values], abs=1e-6)
            assert {other.parent for other in works if other.edges[0].node in work.fuse.particles} == {work.parent}


def test_without_a_mixture_the_best_child_goes_on():
    search, works = make(1 + 17 * 9), []
    while not search.done:
        for work in search.ask(99):
            works.append(work)
            search.tell(refusal_of(work, "cancelled") if work.fuse else outcome_of(work))
    parents = {work.parent for work in works}
    for parent in parents - {None}:
        children = [work.edges[0].node for work in works if work.parent == parent and work.scored]
        assert not children or max(children, key=worth) in parents
    assert search.finished and search.refusals
