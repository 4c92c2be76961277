"""What every algorithm owes whoever runs it: no budget is exceeded, and there is a best image from the first finished one on."""

import pytest

from mcts_ray.config import SearchConfig
from mcts_ray.gain import Constant
from mcts_ray.search import ALGORITHMS, Cost, Setting

from .fake import carry_out_in_flight, outcome_of, worth

T = 10


def make(name, **options):
    config = SearchConfig(algorithm=name, levels=T, **{"budget": 8 * T, **options}).resolved(True, (64, 64), "scenes")
    return ALGORITHMS[name].from_config("s", Setting("", levels=T), config, lambda a, s: 0.3, Constant(config.k))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("budget, k", [(T, 1), (2 * T - 1, 1), (8 * T + 3, 1), (33, 3)])
def test_no_more_nfe_are_spent_than_the_budget_and_one_image_is_always_there(name, budget, k):
    search = make(name, budget=budget, k=k)
    carry_out_in_flight(search, 7)
    assert search.finished and search.ledger.nfe <= budget


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("most", [1, 3, 7, 20])
def test_no_more_images_are_decoded_than_asked_for_and_one_is_always_there(name, most):
    if name == "psp" and most < 3:
        with pytest.raises(ValueError, match="psp needs max_decodes of at least 3"):
            make(name, max_decodes=most)
        return
    search = make(name, max_decodes=most)
    carry_out_in_flight(search, 7)
    assert search.finished and search.ledger.decodes <= most


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_nothing_is_asked_for_once_the_time_is_up_and_the_best_is_kept(name):
    search = make(name, max_seconds=5.0)
    while not search.finished:
        for work in search.ask(7):
            search.tell(outcome_of(work))
    out = search.ask(2)
    best = search.best(1)
    search.tick(5.0)
    assert search.ask(7) == [] and search.best(1) == best != []
    search.halt([Cost(nfe=1)] * len(out))
    assert search.done and search.best(1) == best and search.ledger.nfe <= 8 * T


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_the_best_so_far_is_there_at_any_time(name):
    search = make(name)
    seen = []
    while not search.done:
        for work in search.ask(3):
            search.tell(outcome_of(work))
            seen += [worth(work.edges[-1].node)] * work.terminal
            assert [candidate.reward for candidate in search.best(1)] == ([max(seen)] if seen else [])
    assert seen
