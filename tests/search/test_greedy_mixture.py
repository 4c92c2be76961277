"""Greedy searches on the Gaussian mixture whose answers are known: the wanted mode is rare, and they find it."""

import numpy as np
import pytest

from mcts_ray.search import ALGORITHMS
from tests.mixture import Mixture, expect, run, run_together

MODEL = Mixture(means=(-1.0, 1.0), weights=(0.9, 0.1))


def reward(x):
    return -np.abs(np.asarray(x) - 1.2)


@pytest.mark.parametrize("name", ["svdd", "beam", "rbf", "dfs", "random"])
def test_the_rare_mode_is_found(name):
    """Budget of 8 trajectories, 10 seeds. Without search the mean reward is `expect`; the best possible is 0."""
    best = []
    for seed in range(10):
        search = ALGORITHMS[name]("s", MODEL.setting(), 8 * 20, seed=seed, phi=MODEL.phi())
        run(search, MODEL, reward)
        best.append(search.best(1)[0].reward)
    assert np.mean(best) > expect(MODEL, reward, search) + 0.5
    if name in ("svdd", "beam", "rbf"):
        assert np.mean(best) > -0.1


# in several dimensions, where noise can be turned ----------------------------------------------------------------------

SPACE = Mixture(weights=(0.5, 0.5), dim=4)
T, RUNS = 12, 8


def nearness(x):
    """Best, 0, at 1.2 in every coordinate; 1 of 16 images has all of them in the right mode."""
    return -np.abs(np.asarray(x) - 1.2).mean(-1)


def best_rewards(name, trajectories, eta=1.0, **options):
    make = ALGORITHMS[name]
    searches = [
        make(f"{name}{seed}", SPACE.setting(T), trajectories * T, seed=seed, phi=SPACE.phi(T, eta), **options) for seed in range(RUNS)
    ]
    run_together(searches, SPACE, nearness, 16)
    assert all(search.ledger.fusions > 0 for search in searches) == (name in ("nts", "demon", "zero-order"))
    return np.array([search.best(1)[0].reward for search in searches])


@pytest.mark.parametrize("name", ["nts", "demon"])
def test_searches_of_each_steps_noise_reach_the_optimum(name):
    """By 16 trajectories' worth of calls best-of-n's best is off by .37 in the mean of 8 seeds, the one image of theirs by .04; it must be
    by less than .1, and with every seed less than best-of-n's. (Standard errors .05 and .007; the seeds are fixed.)"""
    found = best_rewards(name, 16)
    assert found.mean() > -0.1 and (found > best_rewards("best-of-n", 16)).all()


def test_more_rounds_of_the_steps_noise_come_closer():
    """Twice as near in the mean by 64 trajectories' worth as by 16 (measured: .008 and .039, standard errors below .006)."""
    assert best_rewards("nts", 64).mean() > best_rewards("nts", 16).mean() / 2


def test_the_search_of_the_initial_noise_comes_near():
    """Zero-order search without other noise is off by .42, .15 and .09 in the mean of 8 seeds by 16, 64 and 256 trajectories, standard
    errors .10, .02 and .01; without search by 1.2. (Best-of-n: .37, .18 and .12.)"""
    few, many = (best_rewards("zero-order", n, eta=0.0) for n in (16, 64))
    assert many.mean() > -0.25 and many.mean() > few.mean() + 0.1
