from itertools import combinations

import numpy as np
import pytest

from mcts_ray.compare.figures import best_of


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_expectation_over_subsets_is_exact(n):
    rng = np.random.default_rng(0)
    guide, gold = rng.random((2, 6)), rng.random((2, 6))
    for p, expected in enumerate(best_of(guide, gold, n)):
        brute = np.mean([gold[p][max(subset, key=lambda i: guide[p][i])] for subset in combinations(range(6), n)])
        assert expected == pytest.approx(brute)
