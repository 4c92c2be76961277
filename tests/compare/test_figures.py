"""Statistics on made-up values with known answers."""

import numpy as np
import pytest

from mcts_ray.compare.figures import best_of, best_of_each, interval, known_interval, multiplier, within_sd

LINE_PN = np.tile(np.log2(np.arange(1, 129)), (20, 1))  # best-of-n gains 1 with every doubling, in every prompt


def test_best_of_each_is_best_of_for_every_n():
    rng = np.random.default_rng(0)
    guide, gold = rng.random((3, 9)), rng.random((3, 9))
    np.testing.assert_allclose(best_of_each(guide, gold)[:, 4], best_of(guide, gold, 5))
    np.testing.assert_allclose(best_of_each(guide, gold)[:, 0], gold.mean(1))
    np.testing.assert_allclose(best_of_each(gold, gold)[:, -1], gold.max(1))


@pytest.mark.parametrize("n", [1, 1.5, 8, 50.3, 127.9, 128])
def test_the_multiplier_is_exact_where_values_go_with_log_n(n):
    found = multiplier(np.full(20, np.log2(n)), LINE_PN, cost=30, spent=240)
    expected = n * 30 / 240
    assert found.ratio == pytest.approx(expected) and found.low == pytest.approx(expected) and found.high == pytest.approx(expected)


def test_a_multiplier_beyond_the_pool_is_a_bound():
    above = multiplier(np.full(20, 7.5), LINE_PN, cost=30, spent=240)
    assert above.to_dict() == {"ratio": None, "text": "> 16", "low": "> 16", "high": "> 16"}
    below = multiplier(np.full(20, -1.0), LINE_PN, cost=30, spent=240)
    assert below.to_dict()["text"] == "< 0.12"


def test_the_interval_of_a_multiplier_may_reach_beyond_the_pool():
    found = multiplier(np.linspace(2, 11, 20), LINE_PN, cost=30, spent=240)
    assert found.ratio == pytest.approx(2**6.5 / 8) and found.low < found.ratio and found.to_dict()["high"] == "> 16"


def test_best_of_n_itself_has_the_multiplier_1():
    rng = np.random.default_rng(1)
    guide_PN = rng.random((30, 64))
    gold_PN = 0.5 * guide_PN + 0.5 * rng.random((30, 64))
    reach_PN = best_of_each(guide_PN, gold_PN)
    assert multiplier(reach_PN[:, 7], reach_PN, cost=30, spent=8 * 30).ratio == pytest.approx(1)


def test_paired_intervals_see_what_unpaired_ones_cannot():
    rng = np.random.default_rng(2)
    prompt_P = rng.normal(0, 10, 100)  # prompts differ far more than searches do
    a_P, b_P = prompt_P + rng.normal(1, 1, 100), prompt_P + rng.normal(0, 1, 100)
    mean, low, high = interval(a_P - b_P)
    assert 0 < low < mean < high < 2
    same = interval(prompt_P + rng.normal(0, 1, 100) - b_P)
    assert same[1] < 0 < same[2]
    assert interval(a_P)[1] < interval(b_P)[2]


def test_prompts_without_a_value_are_left_out():
    assert known_interval(np.array([1.0, np.nan, 1.0])) == (1, 1, 1)
    assert known_interval(np.array([np.nan])) is None


def test_the_deviation_within_prompts_knows_nothing_of_that_between_them():
    assert within_sd(np.array([[0.0, 2.0], [100.0, 102.0]])) == pytest.approx(np.sqrt(2))
    assert within_sd(np.full((2, 7), 0.7)) == 0 and within_sd(1e-6 * np.arange(6.0).reshape(2, 3)) > 0
