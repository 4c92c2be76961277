"""What holds for every algorithm of the particle family; what is special about FK is in test_fk.py."""

import pytest

from mcts_ray.config import SearchConfig
from mcts_ray.gain import Constant
from mcts_ray.search import ALGORITHMS, BFS, FK, Setting, TemperedSMC

from .fake import carry_out, carry_out_in_flight, outcome_of, worth

FAMILY = [FK, TemperedSMC, BFS]


def make(cls, budget, levels=30, **options):
    return cls("s", Setting("a red circle", levels=levels), budget, **{"phi": lambda a, s: 0.3, **options})


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("budget, levels, k", [(240, 30, 1), (77, 10, 3), (30, 30, 1), (5, 1, 1), (7, 2, 1)])
def test_all_of_the_budget_that_pays_for_whole_particles_is_spent(cls, budget, levels, k):
    search = make(cls, budget, levels, policy=Constant(k))
    carry_out_in_flight(search, 7)
    size = budget // search.trajectory_nfe
    assert search.ledger.nfe == size * search.trajectory_nfe <= budget
    assert search.ledger.decodes == size * len(search.parts)
    assert len(search.finished) == size == len(search.population)


@pytest.mark.parametrize("cls", FAMILY)
def test_decodes_limit_the_number_of_particles(cls):
    parts = len(make(cls, 240).parts)
    search = make(cls, 240, max_decodes=3 * parts - 1)
    carry_out(search)
    assert search.ledger.decodes == 2 * parts and len(search.finished) == 2


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("most", [1, 3])
def test_decodes_that_do_not_pay_for_the_checks_pay_for_images(cls, most):
    search = make(cls, 240, max_decodes=most)
    carry_out_in_flight(search, 2)
    assert search.done and len(search.finished) == search.ledger.decodes == most


@pytest.mark.parametrize("cls", FAMILY)
def test_particles_that_fail_are_out(cls):
    search = make(cls, 240)
    carry_out(search, fails=lambda work: work.id in ("s/3", "s/11"))
    assert search.done and search.errors and search.finished
    assert search.ledger.nfe <= 240 and 0 < len(search.population) < 8


@pytest.mark.parametrize("cls", FAMILY)
def test_the_search_ends_when_all_particles_fail(cls):
    search = make(cls, 240)
    carry_out(search, fails=lambda work: work.terminal)
    assert search.done and not search.finished and search.population == []


@pytest.mark.parametrize("cls", FAMILY)
def test_the_search_is_the_same_whatever_the_order_of_answers(cls):
    straight, turned = make(cls, 240), make(cls, 240)
    carry_out(straight)
    while not turned.done:
        for work in reversed(turned.ask(99)):
            turned.tell(outcome_of(work))
    assert straight.population == turned.population


@pytest.mark.parametrize("cls", FAMILY)
def test_the_last_step_is_not_resampled(cls):
    """Known trap: a resampling after the last step, which only loses images. All are there, each once, with its last weight."""
    search = make(cls, 240, strength=1e3)
    carry_out(search)
    assert len({candidate.node for candidate in search.finished}) == 8
    assert [particle.state.node for particle in search.population] == [candidate.node for candidate in search.finished]
    assert len({particle.log_weight for particle in search.population}) == 8


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("potential", ["diff", "max", "add", "current"])
@pytest.mark.parametrize("tempering", [0.0, 0.024])
def test_weights_are_carried_on_when_the_effective_size_forbids_resampling(cls, potential, tempering):
    """Known trap: dropped weights. Never resampled, each particle ends with lambda r(x_0), whatever came before."""
    search = make(cls, 240, potential=potential, tempering=tempering, ess=1e-9, strength=3.0)
    carry_out(search)
    for particle in search.population:
        assert particle.log_weight == pytest.approx(3.0 * worth(particle.state.node))


@pytest.mark.parametrize("name", ["fk", "smc-tempered", "bfs"])
def test_settings_come_from_the_configuration(name):
    settings = dict(population=3, strength=2.0, tempering=0.1, score_at=(0.5,), resampling="top", potential="current", ess=0.3)
    config = SearchConfig(algorithm=name, levels=10, **settings).resolved(True, (64, 64), "scenes")
    assert config.eta == 1 and config.step_reward == "x0"
    search = ALGORITHMS[name].from_config("s", Setting("", levels=10), config, lambda a, s: 0.3, Constant(1))
    assert (search.size, search.strength, search.tempering, search.ess) == (3, 2.0, 0.1, 0.3)
    assert (search.resampling, search.potential, search.parts) == ("top", "current", search.stages((0.5,)))
