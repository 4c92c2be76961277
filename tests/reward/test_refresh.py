import numpy as np
import pytest

from mcts_ray.reward.calibrate import Calibration, Level
from mcts_ray.reward.refresh import Refreshed


def calibration(noise=0.09, offset=0.25, slope=0.04, within=0.05):
    level = Level(2, 0.0, "linear", (-4.0, 4.0), (-3.0, 5.0), 0.5, noise + offset, noise, offset, slope, within)
    return Calibration("m", "x0", "r", 4, (level,))


def test_without_observations_it_is_the_offline_fit():
    offline, online = calibration(), Refreshed(calibration())
    assert online(2, 0.5).mean == offline(2, 0.5).mean
    assert online(2, 0.5).variance == pytest.approx(offline(2, 0.5).variance)  # at the mean score; further off the slope adds to it


def test_it_is_the_exact_gaussian_posterior():
    """Against the closed form theta = (X'X / v + P0^-1)^-1 X'e / v."""
    rng = np.random.default_rng(0)
    scores, rewards = rng.normal(size=12), rng.normal(size=12)
    online = Refreshed(calibration())
    for score, reward in zip(scores, rewards):
        online.observe(2, score, reward)
    X = np.stack([np.ones(12), scores - 0.5], 1)
    P = np.linalg.inv(X.T @ X / 0.09 + np.diag([1 / 0.25, 1 / 0.04]))
    theta = P @ X.T @ (rewards - (1 + scores)) / 0.09
    x = np.array([1, 1.3 - 0.5])
    found = online(2, 1.3)
    assert found.mean == pytest.approx(1 + 1.3 + x @ theta)
    assert found.variance == pytest.approx(0.09 + x @ P @ x)


def test_with_many_observations_it_is_the_map_of_its_own_prompt():
    """Offset -.8 and slope +.3 of one prompt; standard errors after 2,000 observations below .007: |z| < 4."""
    rng = np.random.default_rng(1)
    online = Refreshed(calibration())
    for score in rng.normal(0.5, 1, size=2000):
        online.observe(2, score, 1 + score - 0.8 + 0.3 * (score - 0.5) + 0.3 * rng.normal())
    assert online(2, 0.5).mean == pytest.approx(1.5 - 0.8, abs=0.03)
    assert online(2, 1.5).mean - online(2, 0.5).mean == pytest.approx(1.3, abs=0.03)
    assert online(2, 0.5).variance == pytest.approx(0.09, rel=0.01)


def test_a_prompt_that_cannot_differ_learns_nothing_and_exact_scores_do_not_divide_by_zero():
    online = Refreshed(calibration(offset=0.0, slope=0.0))
    online.observe(2, 1.0, 9.0)
    assert online(2, 1.0).mean == 2.0
    exact = Refreshed(calibration(noise=0.0, offset=0.0, slope=0.0))
    exact.observe(2, 1.0, 9.0)
    assert exact(2, 1.0).mean == 2.0


def test_due_at_doublings():
    online, due = Refreshed(calibration()), []
    for count in range(1, 40):
        online.observe(2, 0.0, 0.0)
        if online.due():
            due.append(count)
    assert due == [8, 16, 32]
