from dataclasses import replace

import pytest

from mcts_ray.search import BFS, FK, Setting

from .fake import carry_out, outcome_of, worth


def make(cls=BFS, budget=240, levels=30, **options):
    return cls("s", Setting("a red circle", levels=levels), budget, **{"phi": lambda a, s: 0.3, **options})


def test_the_defaults_are_the_papers():
    search = make(levels=100)
    assert (search.potential, search.tempering, search.resampling, search.ess) == ("max", 0.008, "ssp", None)
    assert [part[-1] for part in search.parts] == [81, 61, 21, 0]  # 20, 40, 80 calls


def test_the_temperature_grows_past_one():
    """(1 + gamma)^i - 1 is not capped: gamma = .024 is 5.6 after 80 of 100 steps."""
    assert make(levels=100, tempering=0.024)._temper(20) == pytest.approx(1.024**80 - 1)


def test_with_constant_temperature_and_multinomial_selection_it_is_fk():
    """arXiv 2505.23614, table 1: FK = max + constant + multinomial, particle for particle."""
    fk, bfs = make(FK), make(tempering=0.0, resampling="multinomial", score_at=(0.2, 0.4, 0.6, 0.8))
    carry_out(fk), carry_out(bfs)
    assert fk.population == bfs.population


@pytest.mark.parametrize("potential, weights", [("current", [2, 1]), ("max", [2, 2]), ("diff", [2, 1])])
def test_scores_by_hand(potential, weights):
    """One particle scored 2, then 1, never resampled, lambda 1, constant: the log potentials by hand."""
    search = make(budget=30, potential=potential, tempering=0.0, strength=1.0, score_at=(0.3, 0.6), ess=1e-9)
    seen = []
    weigh = search._weigh
    search._weigh = lambda particle: seen.append(weigh(particle)) or seen[-1]
    for score in (2.0, 1.0):
        (work,) = search.ask(9)
        search.tell(replace(outcome_of(work), scores=((work.edges[-1].node, score),)))
    total = weights[0] + (weights[1] if potential != "diff" else weights[1] - weights[0])
    assert [particle.booked for particle in seen] == [weights[0], total]


def test_top_keeps_the_better_half_twice():
    search = make(resampling="top")
    first = search.ask(99)
    for work in first:
        search.tell(outcome_of(work))
    better = sorted((work.edges[-1].node for work in first), key=worth)[4:]
    assert sorted(work.parent for work in search.ask(99)) == sorted(2 * better)
