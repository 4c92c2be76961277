"""DTS on a mixture of Gaussians whose soft values and target are known."""

import math
from functools import cache

import numpy as np
import pytest

from mcts_ray.diffusion.noise import draw
from mcts_ray.search import DTS, DTSStar
from mcts_ray.search.dts import boltzmann
from mcts_ray.tree import Widening
from tests.mixture import GRID_G, Mixture, expect, expect_target, run_together, soft_value

T, STRENGTH = 8, 2.0
MODEL = Mixture()
EVERYWHERE = {"branchings": T, "widening": Widening(2.0, 0.5)}
ONCE = {"branchings": 1, "widening": Widening(2.0, 0.5)}


def reward(x):
    return x


def right(x):
    return (x > 0).astype(float)


class Uniform(DTS):
    """Selection that does not look at values."""

    def _choose(self, node, children, rng):
        return children[int(rng.integers(len(children)))]


class Exact(DTS):
    """Selection by the exact soft values of the children in place of the estimates; the states are made again from their ids."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.truth = soft_value(MODEL, reward, self.strength, self)
        self.known = {}

    def _choose(self, node, children, rng):
        found = [Estimate(child, np.interp(self.state(child), GRID_G, self.truth[child.level])) for child in children if child.level]
        return boltzmann(found, self.strength, rng).node if found else boltzmann(children, self.strength, rng)

    def state(self, node):
        if node.id not in self.known:
            levels, noise = MODEL.levels(T), float(draw([node.id], (1,)))
            if node.parent is self.tree.root:
                self.known[node.id] = levels.start_scale * noise
            else:
                a, s = node.parent.level, node.level
                x0, eps = MODEL.predict(self.state(node.parent), float(levels.alpha_L[a]), float(levels.sigma_L[a]))
                mixed = math.cos(node.phi) * eps + math.sin(node.phi) * noise
                self.known[node.id] = float(levels.alpha_L[s]) * x0 + float(levels.sigma_L[s]) * mixed
        return self.known[node.id]


class Estimate:
    def __init__(self, node, value):
        self.node, self.value = node, value


def grown(algorithm, budget, runs, **options):
    """Trees of as many seeds, and x of their images by node."""
    searches = [algorithm(str(seed), MODEL.setting(T), budget, phi=MODEL.phi(T), seed=seed, **options) for seed in range(runs)]
    return searches, run_together(searches, MODEL, reward)


def errors(searches):
    """What the values at the roots are off by."""
    exact = soft_value(MODEL, reward, STRENGTH, searches[0])[-1]
    return np.array([search.tree.root.value for search in searches]) - exact


@pytest.mark.parametrize("algorithm", [Uniform, Exact])
def test_values_are_unbiased_where_selection_does_not_see_the_estimates(algorithm):
    """Ten trees of 320 NFE that branch everywhere: exp(lambda V) of the root is within 4 standard errors of the exact one (chance,
    by t with 9 degrees: 3e-3; the seeds are fixed), also where children are visited as the target wants it."""
    searches, _ = grown(algorithm, 320, 10, strength=STRENGTH, **EVERYWHERE)
    ratio = np.exp(STRENGTH * errors(searches))
    assert abs(ratio.mean() - 1) < 4 * ratio.std(ddof=1) / math.sqrt(10)


def test_values_that_select_hold_themselves_down():
    """The same trees by Boltzmann selection are too low, so the test above has power: in 48 of them the mean was -.36 with a standard
    deviation of .24, so that the mean of ten is above -.1 once in 3,000 seeds."""
    searches, _ = grown(DTS, 320, 10, strength=STRENGTH, **EVERYWHERE)
    assert errors(searches).mean() < -0.1


@cache
def approach(trajectories, runs):
    """Of trees that branch at one level besides the root: the errors of the values, and the shares of the right mode in 200 draws."""
    searches, images = grown(DTS, trajectories * T, runs, strength=STRENGTH, **ONCE)
    shares = []
    for search, x in zip(searches, images):
        rng = np.random.default_rng(search.seed)
        shares.append(np.mean([x[search.descend(rng).node] > 0 for _ in range(200)]))
    return errors(searches), np.array(shares)


def mean_and_error(values):
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values))


def test_values_approach_the_exact_ones_as_the_budget_grows():
    """By 8, 16, 64, 128 and 256 trajectories' worth of calls the mean error was -.27, -.15, -.08, -.04 and -.05 in 24 to 48 other trees,
    its root mean square .54, .26, .18, .12 and .09. From 8 to 128 the latter must fall to two thirds at least (F test with 24 and
    12 degrees: by chance 1e-3), and the mean of 12 at 128 lie within 4 of its standard errors of 0 (t with 11 degrees: 2e-3, and
    some 6e-3 with the bias that is left)."""
    few, many = approach(8, 24)[0], approach(128, 12)[0]
    assert math.sqrt((few**2).mean()) > 1.5 * math.sqrt((many**2).mean())
    mean, error = mean_and_error(many)
    assert abs(mean) < 4 * error and error < 0.06


def test_draws_approach_the_target_as_the_budget_grows():
    """The chain is in the right mode with probability .30, the target with .93; draws of other trees were there with .76, .87, .90, .92 and
    .93 by 8, 16, 64, 128 and 256 trajectories' worth. At 128 the mean share of 12 lies within 4 standard errors of the target
    (t with 11 degrees: by chance 2e-3), nearer than at 8."""
    few, many = approach(8, 24)[1], approach(128, 12)[1]
    search = DTS("s", MODEL.setting(T), T, phi=MODEL.phi(T))
    start, target = expect(MODEL, right, search), expect_target(MODEL, reward, STRENGTH, right, search)
    mean, error = mean_and_error(many)
    assert start < 0.35 and target > 0.9
    assert abs(mean - target) < 4 * error and error < 0.03
    assert abs(mean - target) < abs(few.mean() - target)


def test_dts_star_reaches_the_optimum():
    """-|x| is best in the valley between the modes, where one image in 110 is within .1 of it. 200 trajectories' worth of calls get there
    with each of three seeds. (So does best-of-n in most: on a line there is little to search.)"""
    options = {"phi": MODEL.phi(T), **EVERYWHERE}
    searches = [DTSStar(str(seed), MODEL.setting(T), 200 * T, seed=seed, **options) for seed in range(3)]
    for search, x in zip(searches, run_together(searches, MODEL, lambda x: -np.abs(x))):
        best = search.best(1)[0]
        assert best.reward == -abs(x[best.node]) > -0.1
