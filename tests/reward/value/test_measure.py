import numpy as np
import pytest

from mcts_ray.reward.value.measure import Prediction, by_level, summary


def prediction(level, mean, true, sd=1.0):
    return Prediction(level, np.array(mean, float), np.full(len(mean), sd), np.array(true, float))


def test_ranks_count_within_groups_only():
    """Two groups that are each ranked the wrong way, though the harder prompt is known to be the harder one."""
    found = summary([prediction(3, [2, 1, 0], [0, 1, 2]), prediction(3, [22, 21, 20], [20, 21, 22])])
    assert found["spearman"] == pytest.approx(-1) and found["r2"] > 0.9 and (found["groups"], found["states"]) == (2, 6)


def test_groups_that_cannot_be_ranked_do_not_count():
    assert prediction(1, [1, 2, 3], [5, 5, 5]).spearman is None and prediction(1, [1, 2], [1, 2]).spearman is None
    assert prediction(1, [1, 1, 1], [1, 2, 3]).spearman == 0
    assert summary([prediction(1, [1, 2, 3], [5, 5, 5]), prediction(1, [1, 2, 3], [1, 2, 3])])["spearman"] == pytest.approx(1)
    assert summary([prediction(1, [0, 0], [1, 1])])["spearman"] is None


def test_intervals_hold_as_often_as_they_should():
    """20,000 draws: the shares' standard errors are .003 and .0015, the bounds four of them."""
    true = np.random.default_rng(0).standard_normal(20_000)
    found = summary([prediction(1, np.zeros(20_000), true)])
    assert abs(found["within_68"] - 0.68) < 0.013 and abs(found["within_95"] - 0.95) < 0.006
    assert found["nll"] == pytest.approx(0.5, abs=0.03)
    assert summary([prediction(1, np.zeros(20_000), true, sd=0.5)])["nll"] > found["nll"] + 0.5


def test_levels_come_highest_first():
    found = by_level([prediction(2, [0, 1, 2], [0, 1, 2]), prediction(9, [0, 1, 2], [2, 1, 0])])
    assert list(found) == ["9", "2"] and [found[level]["spearman"] for level in ("2", "9")] == pytest.approx([1, -1])
