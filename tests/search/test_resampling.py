from math import floor, log

import numpy as np
import pytest

from mcts_ray.search.resampling import RESAMPLERS, effective_size

WEIGHTS = [0.05, 0.4, 0.1, 0.25, 0.2]


def counts(name, runs, weights=WEIGHTS):
    """How often each particle was taken, (runs, K)."""
    rng = np.random.default_rng(7)
    taken = [RESAMPLERS[name]([log(w) for w in weights], rng) for _ in range(runs)]
    return np.array([np.bincount(each, minlength=len(weights)) for each in taken])


@pytest.mark.parametrize("name", ["multinomial", "ssp"])
def test_a_particle_is_taken_k_w_times_on_average(name):
    """Each of ten means over 4,000 runs within 4.5 standard errors, which multinomial has largest: sqrt(K W (1 - W) / runs).
    All together fail by chance once in 15,000 seeds."""
    expected = 5 * np.array(WEIGHTS)
    error = np.sqrt(expected * (1 - np.array(WEIGHTS)) / 4000)
    assert (np.abs(counts(name, 4000).mean(0) - expected) < 4.5 * error).all()


def test_ssp_takes_the_floor_or_the_ceiling():
    taken = counts("ssp", 500)
    assert (taken.sum(1) == 5).all()
    for count, weight in zip(taken.T, WEIGHTS):
        assert set(count) <= {floor(5 * weight + 1e-9), floor(5 * weight + 1e-9) + 1}


def test_top_takes_the_better_half_twice():
    assert counts("top", 1).tolist() == [[0, 2, 0, 2, 1]]
    assert counts("top", 1, WEIGHTS[:4]).tolist() == [[0, 2, 0, 2]]


@pytest.mark.parametrize("name", RESAMPLERS)
def test_weights_beyond_the_range_of_floats(name):
    """Known trap: weights that leave the logarithm saturate."""
    assert set(RESAMPLERS[name]([1e4, 1e4 - 800, 1e4 - 900], np.random.default_rng(0))) <= {0, 1}
    assert effective_size([1e4, 1e4]) == pytest.approx(2)
    assert effective_size([0.0, log(3.0)]) == pytest.approx(16 / 10)
