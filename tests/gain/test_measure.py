"""Figures of an IGE on small tables, by hand, and regret without the winner's luck."""

import numpy as np
import pytest

from mcts_ray.gain.folder import Config
from mcts_ray.gain.measure import best_places, chosen, fair, figures, fixed_places, net_value, regret, rules_of
from mcts_ray.gain.targets import Transitions

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


def recorded(reward, level, calls, **changed):
    """Transitions of which only these are of use here."""
    n = len(level)
    blank = {name: np.zeros(n) for name in ("prompt", "trajectory", "score", "similarity", "end", "landed", "similar", "error")}
    return Transitions(**blank | {"reward": np.array(reward, float), "level": np.array(level), "calls": np.array(calls)} | changed)


def test_all_rules_are_judged_on_the_same_states_and_children():
    """Five children by each jump of 1, 2, 4, the first without noise. Level 6 stays with its four noisy children, so does level 4, whose
    jump of 4 would end at level 0; one more at level 6 has lost a half of one jump, and from level 2 only k = 1 is left to choose."""
    reward = np.arange(60.0).reshape(4, 3, 5)
    reward[1, 2, 1:] = np.nan
    reward[2, 1, 1::2] = np.nan
    data, rows = fair(recorded(reward, [6, 4, 6, 2], [[3, 2, 1], [2, 1, 0], [3, 2, 1], [1, 0, -1]]), (1, 2, 4))
    assert rows.tolist() == [0, 1] and data.level.tolist() == [6, 4] and data.calls.tolist() == [[3, 2, 1], [2, 1, -1]]
    np.testing.assert_array_equal(data.reward[0], reward[0, :, 1:])
    assert np.isnan(data.reward[1, 2]).all() and reward[1, 2, 0] == 25  # what was recorded is as it was
    rules = rules_of(np.zeros((2, 3, 2)), config(table=(*TABLE, 4, 4)), data, 0.1)
    assert set(rules) == {"ige reward_rate", "ige value", "table", "k=1", "k=2", "k=4"}
    assert rules["k=4"].tolist() == [2, 1] and rules["ige value"].tolist() == [2, 1]
    assert all(np.isfinite(net_value(data, (1, 2, 4), 0.1)[[0, 1], places]).all() for places in rules.values())


def test_a_change_of_the_table_changes_no_net_value():
    """Gains and calls are both those of the recorded completions: by jumps of 2 from levels 5, 4 and 2."""
    data = recorded([[[0.5], [0.6], [0.2]]], [6], [[3, 2, 1]])
    np.testing.assert_allclose(net_value(data, (1, 2, 4), 0.1), [[[0], [0.1 + 0.1], [-0.3 + 0.2]]], atol=1e-12)


def test_choice():
    """Calls 2, 1, 0, price .1: nets -.2, mean - .1, mean. A rate counts k times; a jump without calls is none."""
    mean_NKM = np.array([[[0.0, 0.0], [0.3, 0.05], [0.1, -0.15]]])
    calls_NK = np.array([[2, 1, 0]])
    assert chosen(mean_NKM, config(), calls_NK, "value", 0.1).tolist() == [1]
    assert chosen(mean_NKM, config(), calls_NK, "value", 0.3).tolist() == [2]
    assert chosen(mean_NKM, config(), np.array([[2, 1, -1]]), "value", 0.3).tolist() == [1]
    assert chosen(mean_NKM, config(), calls_NK, "reward_rate", 0.0).tolist() == [1]  # .6 against .4
    assert best_places(np.array([[1.0, np.nan, 1.0], [2.0, 0.0, np.nan]])).tolist() == [2, 0]
    assert fixed_places((1, 2, 4), np.array([5, 4, 3, 2]), [4, 4, 2, 2]).tolist() == [2, 1, 1, 0]


def test_regret_of_equal_jumps_is_none_but_for_noise():
    """Three jumps of equal worth, noise of sd 1 in 8 completions, 4000 states: the mean regret is 0 within 4.5 standard errors (false
    alarm 7e-6). Chosen and valued on the same completions it would be about .3. One jump that is .5 worse costs that."""
    rng = np.random.default_rng(0)
    net_NKJ = rng.normal(size=(4000, 3, 8))
    found = regret(net_NKJ, np.zeros(4000, int))
    assert abs(found.mean()) < 4.5 * found.std() / np.sqrt(4000)
    worse = net_NKJ + np.array([0.0, -5.0, -5.0])[None, :, None]
    assert regret(worse, np.ones(4000, int)).mean() == pytest.approx(5.0, abs=0.1)
