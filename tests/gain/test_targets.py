"""Each target against its equation, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mcts_ray.gain import targets
from mcts_ray.gain.targets import Calibration, Transitions

JUMPS = (1, 2, 4)
NONE = np.nan


def transitions(**changed):
    """Two states: one at level 6, one at level 2, from which no jump of 4 can be made."""
    values = {
        "level": [6, 2],
        "prompt": [0, 1],
        "trajectory": [0, 0],
        "score": [1.0, 2.0],
        "similarity": [0.6, 0.99],
        "end": [0.5, 0.7],
        "landed": [[1.5, 2.0, 3.0], [2.5, NONE, NONE]],
        "similar": [[0.7, 0.9, 0.5], [0.995, 1.0, NONE]],
        "error": [[0.0, 0.01, 0.04], [0.0, 0.02, NONE]],
        "reward": [[[0.4, 0.6], [0.5, 0.3], [0.1, NONE]], [[0.7, NONE], [0.9, NONE], [NONE, NONE]]],
        "calls": [[5, 4, 2], [1, 0, -1]],
    }
    return Transitions(**{name: np.array(value) for name, value in (values | changed).items()})


def test_value_is_over_that_of_a_single_step_by_the_same_noise():
    expected = [[[0, 0], [0.1, -0.3], [-0.3, NONE]], [[0, NONE], [0.2, NONE], [NONE, NONE]]]
    np.testing.assert_allclose(targets.value(transitions(), JUMPS), expected, atol=1e-12)


def test_reward_rate_is_on_calibrated_scores_and_on_the_reward_at_level_0():
    """Level l: C = a_l + b_l S."""
    calibration = Calibration({6: (0.1, 0.1), 5: (0.0, 0.2), 4: (0.2, 0.1), 2: (0.05, 0.25), 1: (0.3, 0.1)})
    expected = [
        [0.3 - 0.2, (0.4 - 0.2) / 2, (0.8 - 0.2) / 4],
        [0.55 - 0.55, (0.9 - 0.55) / 2, NONE],
    ]
    np.testing.assert_allclose(targets.reward_rate(transitions(), JUMPS, calibration), expected, atol=1e-12)


def test_similarity_is_the_share_of_what_is_still_open():
    expected = [[0.25, 0.75, 0.0], [NONE, NONE, NONE]]  # .4 open, less is none; then only .01 < .02 was open
    np.testing.assert_allclose(targets.similarity(transitions()), expected, atol=1e-12)
    barely = targets.similarity(transitions(similarity=[0.6, 0.975]))
    np.testing.assert_allclose(barely[1], [0.02 / 0.025, 1.0, NONE], atol=1e-9)


def test_jump_error_is_what_was_recorded():
    np.testing.assert_array_equal(targets.make("jump_error", transitions(), JUMPS, Calibration({}))[:, :, 0], transitions().error)


def test_calibration_is_a_line_that_does_not_fall():
    """Level 5 is met by the k = 1 jumps of 8 states at level 6: R = .1 + .2 S exactly. Level 4: R falls with S, so the map is flat."""
    score = np.arange(8.0)
    blank = np.full((8, 3), NONE)
    data = Transitions(
        level=np.full(8, 6), prompt=np.arange(8), trajectory=np.zeros(8), score=np.full(8, NONE), similarity=score, end=score,
        landed=np.stack([score, score, np.full(8, NONE)], 1), similar=blank, error=blank,
        reward=np.stack([0.1 + 0.2 * score, 1 - score, score], 1)[:, :, None], calls=np.zeros((8, 3)),
    )  # fmt: skip
    found = targets.calibrate(data, JUMPS)
    assert set(found.lines) == {5, 4}
    assert found.lines[5] == pytest.approx((0.1, 0.2)) and found.lines[4] == pytest.approx((1 - 3.5, 0.0))
    np.testing.assert_allclose(found(np.array([5, 6]), np.array([2.0, 3.0])), [0.5, 0.7])  # level 6 takes the nearest line


def test_worth_is_the_slope_of_value_on_the_target():
    """Jump errors .01, .04, .02 against values .1, -.3, .2 (children without noise): sum xy / sum x^2."""
    expected = (0.01 * 0.1 + 0.04 * -0.3 + 0.02 * 0.2) / (0.01**2 + 0.04**2 + 0.02**2)
    assert targets.worth("jump_error", transitions(), JUMPS, Calibration({})) == pytest.approx(expected)
    assert targets.worth("value", transitions(), JUMPS, Calibration({})) == 1.0


def test_the_slope_of_best_of_n_is_exact():
    """Of 0, 1, 2, 3 the best of 2 is 3, 2, 1 in 3, 2, 1 of 6 pairs: 14/6; the best of 3 is 3 or 2 in 3 or 1 of 4: 11/4. Of 0, 0, 0, 1 the
    best of n is n/4. A call is a tenth of a sample."""
    even, skew = np.array([[3.0, 0.0, 2.0, 1.0]]), np.array([[0.0, 0.0, 0.0, 1.0]])
    assert targets.best_of_n_slope(even, 10, 20) == pytest.approx((11 / 4 - 14 / 6) / 10)
    assert targets.best_of_n_slope(skew, 10, 29) == pytest.approx((3 / 4 - 2 / 4) / 10)
    assert targets.best_of_n_slope(np.vstack([skew, 0 * skew]), 10, 10) == pytest.approx((2 / 4 - 1 / 4) / 20)
    with pytest.raises(ValueError, match="a pool of 4 samples has no slope at 4 samples"):
        targets.best_of_n_slope(even, 10, 40)


def test_the_price_is_exact_where_pools_were_recorded():
    rng = np.random.default_rng(0)
    end = rng.random((2, 40))
    blank = {name: np.zeros(80) for name in ("score", "similarity", "landed", "similar", "error", "reward", "calls")}
    data = Transitions(level=np.full(80, 6), prompt=np.repeat([0, 1], 40), trajectory=np.tile(np.arange(40), 2), end=end.ravel(), **blank)
    assert targets.price_of_a_call(data, 30) == pytest.approx(targets.best_of_n_slope(end, 30, 240))


def test_price_is_else_that_of_normal_rewards():
    """Rewards .4 and .6 of two trajectories of one prompt: sd = .1 sqrt 2; a state that shares a trajectory counts once."""
    data = transitions(prompt=[0, 0], trajectory=[0, 1], end=[0.4, 0.6])
    assert targets.price_of_a_call(data, 30) == pytest.approx(0.02**0.5 * 0.0614 / 30)
    shared = transitions(prompt=[0, 0], trajectory=[0, 0], end=[0.4, 0.6])
    assert targets.price_of_a_call(shared, 30) == 0.0


def test_the_luckiest_of_noisy_means_is_no_table():
    """No jump gains anything, completions have an sd of .05, and a call costs .003: the table is the constant jump that saves most calls.
    What is sure it says: with an sd of .01, jumps of 4 that gain .1 from level 20 on, and like those of 2 lose .02 below."""
    rng = np.random.default_rng(0)
    level = np.tile(np.arange(2, 31), 20)
    others = ("prompt", "trajectory", "score", "similarity", "end", "landed", "similar", "error", "calls")
    blank = {name: np.zeros(len(level)) for name in others}
    noise = rng.normal(0, 1, (len(level), 3, 2))
    noise[level[:, None] < np.array(JUMPS)] = np.nan
    data = Transitions(level=level, reward=0.05 * noise, **blank)
    assert targets.best_jumps(data, JUMPS, 30, 3e-3) == tuple(max(k for k in JUMPS if k <= at) for at in range(1, 31))
    gain_N3 = np.where(level[:, None] >= 20, [0.0, -0.02, 0.1], [0.0, -0.02, -0.02])
    table = targets.best_jumps(replace(data, reward=0.01 * noise + gain_N3[:, :, None]), JUMPS, 30, 1e-4)
    assert set(table[23:]) == {4} and set(table[:15]) == {1}


def test_the_best_constant_is_worth_its_path():
    """Gains of -.02 for every jump of 2 and -.03 for every one of 4, T = 8: k = 1 pays 8 calls, 2 loses .08 and pays 4, 4 loses .06 and
    pays 2."""
    reward = np.broadcast_to(np.array([0.0, -0.02, -0.03])[None, :, None], (2, 3, 2)).copy()
    data = transitions(level=[8, 6], reward=reward)
    assert targets.best_constant(data, JUMPS, 8, 0.009) == 1 and targets.best_constant(data, JUMPS, 8, 0.011) == 4
    assert targets.best_constant(transitions(level=[8, 6], reward=-reward), JUMPS, 8, 0.0) == 2


def test_the_table_is_a_recursion_over_calls_left():
    """All gains 0: what is paid decides, the largest jump wins. With gains -.1 for 2 and -.2 for 4 and a price of .06: one call is
    saved by 2 (not worth .1); by 4 from level 4 three calls against n(3) = 3 are saved (.18 < .2); a price of .07 pays for it."""
    data = transitions(level=[6, 6], reward=np.zeros((2, 3, 2)))
    assert targets.best_jumps(data, JUMPS, 6, 0.01) == (1, 2, 2, 4, 4, 4)
    lossy = transitions(level=[4, 4], reward=np.broadcast_to(np.array([0.0, -0.1, -0.2])[None, :, None], (2, 3, 2)).copy())
    assert targets.best_jumps(lossy, JUMPS, 4, 0.06) == (1, 1, 1, 1)
    assert targets.best_jumps(lossy, JUMPS, 4, 0.07) == (1, 1, 1, 4)
    assert targets.best_jumps(lossy, JUMPS, 4, 0.11) == (1, 2, 1, 4)
