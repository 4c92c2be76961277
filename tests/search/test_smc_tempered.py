from dataclasses import replace

import pytest

from mcts_ray.search import Setting, TemperedSMC

from .fake import carry_out, outcome_of, worth


def make(budget=240, levels=30, **options):
    return TemperedSMC("s", Setting("a red circle", levels=levels), budget, **{"phi": lambda a, s: 0.3, **options})


def test_the_tempering_is_that_of_the_paper_at_a_hundred_steps():
    """lambda_i = min(1.008^i - 1, 1) after i steps; it reaches 1 at the 87th."""
    search = make(100, levels=100)
    for steps in (0, 1, 20, 80, 87):
        assert search._temper(100 - steps) == pytest.approx(min(1, 1.008**steps - 1))
    assert search._temper(14) < 1 == search._temper(13)


@pytest.mark.parametrize("levels", [10, 20, 50])
def test_other_numbers_of_steps_end_at_the_same_tempering(levels):
    assert make(levels, levels)._temper(levels // 2) == pytest.approx(1.008**50 - 1)


def test_every_call_is_checked_but_the_first_and_the_last():
    """At x_T lambda is 0; what the last call predicts is the image, and copies of it would be equal."""
    scored = {work.edges[-1].level for work in carry_out(make(60)) if work.scored}
    assert scored == set(range(2, 30))


def test_weights_are_the_tempered_rewards():
    """Never resampled, a particle at x_t weighs lambda_t r(x0hat(x_t)) / alpha: the increments telescope."""
    search = make(60, ess=1e-9, strength=2.0)
    seen = []
    weigh = search._weigh
    search._weigh = lambda particle: seen.append(weigh(particle)) or seen[-1]
    carry_out(search)
    for particle in seen[:-2]:
        node, level = particle.state.node, particle.state.level
        assert particle.log_weight == pytest.approx(2.0 * search._temper(level) * worth(node))


def test_particles_are_resampled_when_the_effective_size_is_below_half():
    """Two of four particles far ahead are an effective size of 2, not below half: all go on. One far ahead: it alone."""
    for ahead, parents in [({0, 1}, 4), ({0}, 1)]:
        search = make(120, strength=1e4)
        first = search.ask(99)
        for index, work in enumerate(first):
            search.tell(replace(outcome_of(work), scores=((work.edges[-1].node, float(index in ahead)),)))
        assert len({work.parent for work in search.ask(99)}) == parents
