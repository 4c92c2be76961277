"""Figures of an IGE on small tables, by hand, and regret without the winner's luck."""

import numpy as np
import pytest

from mcts_ray.gain.folder import Config
from mcts_ray.gain.measure import best_places, chosen, figures, fixed_places, net_value, regret, to_pay

TABLE = (1, 2, 1, 4)


def config(**changed):
    values = dict(
        model="m", reward="r", reader={}, features=1, levels=4, grid="native", log_snr=(3.0, 2.0, 1.0, 0.0, -1.0), jumps=(1, 2, 4),
        targets=("reward_rate", "value"), units={}, worth={"reward_rate": 1.0, "value": 1.0}, counts={}, table=TABLE, price=0.1, generator=(),
    )  # fmt: skip
    return Config(**values | changed)


def test_figures():
    found = figures(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 3.0, 2.0, 4.0]))
    assert found == {"r2": pytest.approx(1 - 2 / 2), "spearman": pytest.approx(0.5), "count": 3}
    assert figures(np.array([1.0, 2.0]), np.array([1.0, 2.0]))["r2"] is None


def test_calls_to_pay_are_those_of_the_table():
    """n(1) = 1, n(2) = 1 (jump 2), n(3) = 2, n(4) = 1 (jump 4)."""
    np.testing.assert_array_equal(to_pay(config(), np.array([4, 3])), [[2, 1, 0], [1, 1, np.nan]])


def test_choice():
    """Level 4, price .1: nets -.2, mean - .1, mean. A rate counts k times."""
    mean_NKM = np.array([[[0.0, 0.0], [0.3, 0.05], [0.1, -0.15]]])
    assert chosen(mean_NKM, config(), np.array([4]), "value", 0.1).tolist() == [1]
    assert chosen(mean_NKM, config(), np.array([4]), "value", 0.3).tolist() == [2]
    assert chosen(mean_NKM, config(), np.array([4]), "reward_rate", 0.0).tolist() == [1]  # .6 against .4
    assert best_places(np.array([[1.0, np.nan, 1.0], [2.0, 0.0, np.nan]])).tolist() == [2, 0]
    assert fixed_places((1, 2, 4), np.array([4, 3, 1]), [4, 4, 2]).tolist() == [2, 1, 0]


def test_net_value_is_over_a_single_step():
    reward_NKJ = np.array([[[0.5, 0.1], [0.6, 0.0], [0.2, np.nan]]])
    np.testing.assert_allclose(
        net_value(reward_NKJ, np.array([4]), config(), 0.1), [[[0, 0], [0.1 + 0.1, -0.1 + 0.1], [-0.3 + 0.2, np.nan]]], atol=1e-12
    )


def test_regret_of_equal_jumps_is_none_but_for_noise():
    """Three jumps of equal worth, noise of sd 1 in 8 completions, 4000 states: the mean regret is 0 within 4.5 standard errors (false
    alarm 7e-6). Chosen and valued on the same completions it would be about .3. One jump that is .5 worse costs that."""
    rng = np.random.default_rng(0)
    net_NKJ = rng.normal(size=(4000, 3, 8))
    found = regret(net_NKJ, np.zeros(4000, int))
    assert abs(found.mean()) < 4.5 * found.std() / np.sqrt(4000)
    worse = net_NKJ + np.array([0.0, -5.0, -5.0])[None, :, None]
    assert regret(worse, np.ones(4000, int)).mean() == pytest.approx(5.0, abs=0.1)
