import math
import statistics

import pytest

from mcts_ray.tree import Node, Prior, Spread, mean


def test_the_weight_of_a_prior_is_within_over_between():
    assert Prior(0.3, within=0.4, between=0.1).weight == pytest.approx(4.0)
    assert Prior(0.3, within=0.0, between=0.1).weight == 0.0
    assert math.isfinite(Prior(0.3, within=0.4, between=0.0).weight)


def test_value_and_sd_join_prior_and_returns():
    """V = (n0 prior + sum R) / (n0 + n), sd = sigma_w / sqrt(n0 + n)."""
    node = Node("a", None, 5)
    node.believe(Prior(0.5, within=0.36, between=0.18))
    assert mean(node) == pytest.approx(0.5) and node.sd(9.0) == pytest.approx(0.6 / math.sqrt(2))
    node.returns, node.total = 3, 0.9
    assert mean(node) == pytest.approx((2 * 0.5 + 0.9) / 5) and node.sd(9.0) == pytest.approx(0.6 / math.sqrt(5))


def test_a_finished_image_takes_no_prior():
    node = Node("a", None, 0)
    node.believe(Prior(0.5, 0.36, 0.18))
    assert node.prior is None and node.prior_weight == 0


def test_without_a_prior_sd_follows_the_returns():
    node = Node("a", None, 5)
    assert node.sd(0.5) == math.inf
    node.returns = 4
    assert node.sd(0.5) == 0.25


def test_spread_is_the_sample_standard_deviation():
    spread, rewards = Spread(), [3.0, -1.0, 4.0, 1.0, -5.0]
    assert spread.sd == 1.0
    for count, reward in enumerate(rewards, start=1):
        spread.add(reward)
        assert spread.sd == pytest.approx(statistics.stdev(rewards[:count]) if count > 1 else 1.0)


def test_the_spread_of_the_prior_holds_until_eight_returns():
    spread = Spread()
    spread.expect(Prior(0.0, within=0.09, between=0.16))
    spread.expect(Prior(0.0, within=9.0, between=16.0))
    for count in range(1, 9):
        spread.add(float(count))
        assert spread.sd == (0.5 if count < 8 else pytest.approx(statistics.stdev(range(1, 9))))
