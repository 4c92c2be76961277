from dataclasses import replace

import pytest

from mcts_ray.gain import Constant
from mcts_ray.search import FK, Setting

from .fake import carry_out, carry_out_in_flight, outcome_of, worth


def make(budget, levels=30, **options):
    return FK("s", Setting("a red circle", levels=levels), budget, **{"phi": lambda a, s: 0.3, **options})


@pytest.mark.parametrize("budget, levels, k", [(240, 30, 1), (77, 10, 3), (30, 30, 1)])
@pytest.mark.parametrize("potential", ["diff", "max", "add"])
def test_all_of_the_budget_that_pays_for_whole_particles_is_spent(budget, levels, k, potential):
    search = make(budget, levels, policy=Constant(k), potential=potential)
    carry_out_in_flight(search, 7)
    size = budget // search.trajectory_nfe
    assert search.ledger.nfe == size * search.trajectory_nfe
    assert len(search.finished) == size == len(search.population)


def test_children_are_valued_not_their_parents():
    """Known trap: the public code weighs a child by the x0 of its parent, so siblings weigh the same. Here the scored node of each
    unit is the state that its own noise has led to."""
    for work in carry_out(make(240)):
        assert work.terminal or work.scored == (work.edges[-1].node,)


def test_weights_are_carried_on_when_the_effective_size_forbids_resampling():
    """Known trap: weights are dropped where adaptive resampling decides not to resample. With ess so low that it never
    resamples, the final weight of each particle must be exp(lambda r(x_0)), whatever the potential."""
    for potential in ("diff", "max", "add"):
        search = make(240, potential=potential, ess=1e-9, strength=3.0)
        carry_out(search)
        for particle in search.population:
            assert particle.log_weight == pytest.approx(3.0 * worth(particle.state.node))


@pytest.mark.parametrize("potential", ["diff", "max", "add", "current"])
def test_large_rewards_do_not_saturate(potential):
    """Known trap: weights clamped at 1e10 in linear space, so that resampling becomes uniform. Rewards are 1,000 to 1,007, one apart:
    with lambda 10 the best particle is e^10 times as heavy as the next, and all eight children must be its own. Equal weights, which a
    clamp leaves, would do that once in 8^7."""
    search = make(240, potential=potential, score_at=(0.5,))
    first = search.ask(99)
    scores = {work.edges[-1].node: 1000.0 + rank for rank, work in enumerate(first)}
    for work in first:
        search.tell(replace(outcome_of(work), scores=tuple((node, scores[node]) for node in work.scored)))
    assert [work.parent for work in search.ask(99)] == 8 * [max(scores, key=scores.get)]


def test_rewards_below_zero_are_told_apart_by_max():
    """Known trap: a maximum that starts at 0 makes all rewards below it equal."""
    search = make(240, potential="max", strength=1e4, score_at=(0.5,))
    first = search.ask(99)
    scores = {work.edges[-1].node: worth(work.edges[-1].node) - 5 for work in first}
    for work in first:
        search.tell(replace(outcome_of(work), scores=((work.edges[-1].node, scores[work.edges[-1].node]),)))
    assert {work.parent for work in search.ask(99)} == {max(scores, key=scores.get)}


def test_copies_of_a_particle_draw_noise_of_their_own():
    """Known trap: copies that go on without noise, or with the same, stay equal."""
    works = carry_out(make(240, strength=1e4))  # resampling keeps one particle alone
    later = [work for work in works if work.parent]
    assert len({work.parent for work in later}) < len(later)
    assert len({work.edges[0].node for work in later}) == len(later)


def test_the_search_is_the_same_whatever_the_order_of_answers():
    """Known trap: scores that come back in another order."""
    straight, turned = make(240), make(240)
    carry_out(straight)
    while not turned.done:
        for work in reversed(turned.ask(99)):
            turned.tell(outcome_of(work))
    assert {c.node for c in straight.finished} == {c.node for c in turned.finished}


def test_particles_that_fail_are_out():
    search = make(240)
    carry_out(search, fails=lambda work: work.id.endswith("3"))
    assert search.done and search.errors and search.finished


def test_runs_of_a_fixed_size_follow_each_other():
    search = make(260, particles=3)
    carry_out(search)
    assert len(search.finished) == 3 + 3 + 2
    assert search.ledger.nfe == 240


def test_decodes_limit_the_number_of_particles():
    search = make(240, max_decodes=12)
    carry_out(search)
    assert search.ledger.decodes == 10 and len(search.finished) == 2


def test_nodes_are_a_forest():
    search = make(240)
    carry_out(search)
    known = {None}
    for node in search.nodes():
        assert node["parent"] in known
        known.add(node["id"])
    assert len(known) - 1 == 240 + 8
    assert sum(node["visits"] for node in search.nodes() if node["parent"] is None) == 8
