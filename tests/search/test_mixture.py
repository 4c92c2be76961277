"""Searches on a Gaussian mixture with an exact denoiser, where the target, the soft values and the optimum are known."""

from functools import cache

import numpy as np
import pytest

from mcts_ray.search import BFS, FK, BestOfN, TemperedSMC
from tests.mixture import GRID_G, Mixture, expect, expect_target, expected, run, soft_value, tilted

MODEL = Mixture()
T = 6


def make(cls, budget, model=MODEL, T=T, **options):
    return cls("s", model.setting(T), budget, **{"phi": model.phi(T), **options})


def bump(x):
    """A reward that prefers the lighter mode."""
    return 1.5 * np.exp(-((x - 1) ** 2) / (2 * 0.3**2))


def right(x):
    return (x > 0).astype(float)


def position(x):
    return x


# the model -------------------------------------------------------------------------------------------------------------


def test_the_engine_walks_the_chain_that_the_grid_integrates():
    """Mass of the right mode and mean of 800 samples, each within 4.5 standard errors: by chance once in 70,000 seeds."""
    search = make(BestOfN, 800 * T, seed=1)
    x_N = np.array(list(run(search, MODEL, bump).values()))
    for f in (right, position):
        assert abs(f(x_N).mean() - expect(MODEL, f, search)) < 4.5 * f(x_N).std() / np.sqrt(len(x_N))


def test_the_chain_tends_to_the_mixture():
    """Ten levels miss the tilted mass by about .02; the error shrinks with their number."""
    wanted = tilted(MODEL, 2.0).weights[1]
    error = {T: abs(expect_target(MODEL, position, 2.0, right, make(BestOfN, T, T=T)) - wanted) for T in (10, 50)}
    assert error[50] < error[10] / 3


def test_soft_values_of_one_gaussian_under_a_linear_reward():
    """The chain is then linear and Gaussian: the soft value is the expected reward plus a constant of the level."""
    model = Mixture((0.4,), (1.0,), 0.5)
    search = make(BestOfN, T, model)
    value, mean = soft_value(model, position, 2.0, search), expected(model, position, search)
    inside = np.abs(GRID_G) < 2
    for level in range(1, T + 1):
        gap_G = (value[level] - mean[level])[inside]
        assert np.ptp(gap_G) < 1e-3 and gap_G.min() > -1e-6


@pytest.mark.parametrize("cls", [BestOfN, FK, TemperedSMC, BFS])
def test_a_search_does_not_depend_on_the_batches_that_carry_it(cls):
    """Known trap: what a sample draws depends on who shares its batch."""
    whole, thin = make(cls, 12 * T), make(cls, 12 * T)
    assert run(whole, MODEL, bump) == run(thin, MODEL, bump, room=5)


# sampling the target ---------------------------------------------------------------------------------------------------

SAMPLERS = {
    "fk diff": (FK, dict(potential="diff", score_at=(0.4, 0.7))),
    "fk max": (FK, dict(potential="max", score_at=(0.4, 0.7))),
    "fk add": (FK, dict(potential="add", score_at=(0.4, 0.7))),
    "smc-tempered": (TemperedSMC, {}),
    "bfs": (BFS, dict(score_at=(0.4, 0.7))),
    "bfs current": (BFS, dict(potential="current", score_at=(0.4, 0.7))),
}
RUNS = 24


@cache
def target():
    """The exact mass of the right mode and mean, (2,), of the law of the noisy chain times exp(bump)."""
    return np.array([expect_target(MODEL, bump, 1.0, f, make(BestOfN, T)) for f in (right, position)])


def estimates(name, particles):
    """Weighted estimates of the right mode's mass and of the mean, (RUNS, 2), each run with a seed of its own."""
    cls, options = SAMPLERS[name]
    rows = []
    for seed in range(RUNS):
        search = make(cls, particles * T, strength=1.0, seed=seed, **options)
        images = run(search, MODEL, bump)
        x_K = np.array([images[particle.state.node] for particle in search.population])
        weight_K = np.exp([particle.log_weight for particle in search.population])
        rows.append([np.average(f(x_K), weights=weight_K) for f in (right, position)])
    return np.array(rows)


@pytest.mark.parametrize("name", SAMPLERS)
def test_weighted_particles_sample_the_target(name):
    """24 runs of 80 particles: their mean lies within 5 of its standard errors of the exact value (Student's t, 23 degrees of
    freedom: by chance 5e-5 for each of 12; the bias, of order 1/80, was below one of them in 48 other runs). And more particles
    come closer: the error of 80 is below that of 8 by at least 1.4, where sqrt(10) = 3.2 is expected (F test: by chance 1e-4)."""
    exact = target()
    few, many = estimates(name, 8), estimates(name, 80)
    assert (np.abs(many.mean(0) - exact) < 5 * many.std(0, ddof=1) / np.sqrt(RUNS)).all()
    rms_few, rms_many = (np.sqrt(((each - exact) ** 2).mean(0)) for each in (few, many))
    assert (rms_few > 1.4 * rms_many).all()


def test_without_weights_the_target_would_be_missed():
    """The test above has power: the model alone is more than .1 away from the target in mass."""
    assert target()[0] - expect(MODEL, right, make(BestOfN, T)) > 0.1


# finding the optimum ---------------------------------------------------------------------------------------------------


def near(x):
    """Best at 1.2, where the model has mass."""
    return -((x - 1.2) ** 2)


@pytest.mark.parametrize("cls", [BestOfN, FK, TemperedSMC, BFS])
def test_the_best_image_is_close_to_the_optimum(cls):
    """One of 150 images lies within .1 of 1.2, where the model puts more than .05: best-of-n fails once in 2,000 seeds, and the
    others, which steer there, more rarely."""
    options = {} if cls is BestOfN else {"strength": 5.0}
    search = make(cls, 150 * T, **options)
    run(search, MODEL, near)
    assert search.best(1)[0].reward > -0.01
