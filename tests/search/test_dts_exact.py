"""DTS on a mixture of Gaussians whose soft values and target are known."""

import math

import numpy as np
import pytest

from mcts_ray.search import DTS, DTSStar
from mcts_ray.tree import Widening
from tests.mixture import Mixture, expect, expect_target, run, soft_value

T, STRENGTH = 8, 2.0
MODEL = Mixture()


def reward(x):
    return x


def right(x):
    return (x > 0).astype(float)


class Uniform(DTS):
    """Selection that does not follow the values, so that no child is left at an unlucky first return."""

    def _choose(self, node, children, rng):
        return children[int(rng.integers(len(children)))]


def searched(algorithm, budget, seed, **options):
    options = {"widening": Widening(2.0, 0.5), **options}
    search = algorithm("s", MODEL.setting(T), budget, phi=MODEL.phi(T), seed=seed, **options)
    return search, run(search, MODEL, reward, 1)


def test_the_backup_gives_the_exact_soft_value_where_selection_does_not_follow_it():
    """Ten trees of 1600 NFE: exp(lambda V) of the root is a mean of exp(lambda r), and within 4 standard errors of the exact one
    (chance, by t with 9 degrees: 3e-3; the seeds are fixed)."""
    roots = [searched(Uniform, 1600, seed, strength=STRENGTH)[0] for seed in range(10)]
    exact = soft_value(MODEL, reward, STRENGTH, roots[0])[-1]
    means = np.exp([STRENGTH * search.tree.root.value for search in roots])
    assert abs(means.mean() - math.exp(STRENGTH * exact)) < 4 * means.std(ddof=1) / math.sqrt(10)
    assert np.abs(np.log(means) / STRENGTH - exact).max() < 0.4


def test_boltzmann_descent_draws_from_near_the_target():
    """The chain is in the right mode with probability .3, the target with .93. By Boltzmann selection children whose first
    return was unlucky are seldom seen again, which keeps values low for long: of 6 trees, 200 draws each, the mean share must
    have gone 60 % of the way (measured: .81 with a standard error of .02)."""
    shares = []
    for seed in range(6):
        search, x = searched(DTS, 1600, seed, strength=STRENGTH)
        rng = np.random.default_rng(seed)
        shares.append(np.mean([right(np.array(x[search.descend(rng).node])) for _ in range(200)]))
    start, target = expect(MODEL, right, search), expect_target(MODEL, reward, STRENGTH, right, search)
    assert start < 0.35 and target > 0.9
    assert start + 0.6 * (target - start) < np.mean(shares) < target + 0.05


@pytest.mark.parametrize("seed", range(3))
def test_dts_star_reaches_the_optimum(seed):
    """-|x| is best in the valley between the modes, where one image in 220 is within .05 of it. 400 trajectories' worth of calls
    get there. (So does best-of-n: on a line there is little to search.)"""
    options = {"phi": MODEL.phi(T), "seed": seed, "widening": Widening(2.0, 0.5)}
    search = DTSStar("s", MODEL.setting(T), 400 * T, **options)
    x = run(search, MODEL, lambda x: -np.abs(x), 1)
    best = search.best(1)[0]
    assert best.reward == -abs(x[best.node]) > -0.05
