"""Greedy searches on the Gaussian mixture whose answers are known: the wanted mode is rare, and they find it."""

import numpy as np
import pytest

from mcts_ray.search import ALGORITHMS
from tests.mixture import Mixture, expect, run

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
