import numpy as np
import pytest
from scipy import stats

from mcts_ray.audit import metrics


@pytest.fixture
def data():
    """With ties."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 6, (5, 12)).astype(float)
    return np.round(target + 3 * rng.normal(size=target.shape)), target


def test_rank_correlations_are_those_of_scipy(data):
    score, target = data
    assert metrics.spearman(score, target) == pytest.approx([stats.spearmanr(*pair).statistic for pair in zip(score, target)])
    assert metrics.kendall(score, target) == pytest.approx([stats.kendalltau(*pair).statistic for pair in zip(score, target)])
    assert metrics.pearson(score, target) == pytest.approx([stats.pearsonr(*pair).statistic for pair in zip(score, target)])


def test_a_prompt_without_spread_is_not_known():
    flat, target = np.ones((1, 4)), np.arange(4.0)[None]
    for figure in (metrics.spearman, metrics.kendall):
        assert np.isnan(figure(target, flat)).all() and np.isnan(figure(flat, flat)).all()
        assert (figure(flat, target) == 0).all()  # equal scores rank nothing
    assert np.isnan(metrics.pairwise_accuracy(target, flat)).all()
    for count in (3, 6, 7, 10, 12):  # the mean of equal numbers may differ from them in its last digit
        assert np.isnan(metrics.pearson(np.arange(float(count))[None], np.full((1, count), 0.7))).all()


def test_gold_that_is_the_guide_is_found_out_though_a_prompt_is_flat():
    guide = np.random.default_rng(0).normal(size=(3, 8))
    guide[1] = 1.0
    with pytest.raises(ValueError, match="exactly the order of the guide"):
        metrics.check_gold(guide, 2 * guide + 1)
    metrics.check_gold(guide, guide[:, ::-1])


def test_pairs_count_ties_of_the_score_one_half_and_leave_out_those_of_the_target():
    # pairs with different targets: (0, 2) right, (1, 2) tied
    assert metrics.pairwise_accuracy(np.array([[0.0, 1, 1]]), np.array([[5.0, 5, 6]])) == pytest.approx([0.75])
    assert sorted(metrics.margins(np.array([[0.0, 1, 1]]), np.array([[5.0, 5, 6]]))) == [0, 1]


def test_a_known_temperature_is_found_and_leaves_no_calibration_error():
    """Bradley-Terry data at temperature 2.5, 20,000 pairs: standard error of the temperature .03, of ECE below .012; four of them."""
    rng = np.random.default_rng(1)
    gap = 4 * rng.normal(size=20_000)
    margin = np.where(rng.random(len(gap)) < 1 / (1 + np.exp(-gap / 2.5)), gap, -gap)
    t = metrics.temperature(margin)
    assert t == pytest.approx(2.5, abs=0.15)
    error, brier = metrics.calibration_error(margin, t)
    assert error < 0.02 and brier < 0.25
    assert metrics.calibration_error(margin, t / 5)[0] > 0.1  # too sure


def test_scores_that_say_nothing_have_no_temperature_and_are_honest_at_one_half():
    margin = np.array([1.0, -1.0, 2.0, -2.0])
    assert metrics.temperature(margin) == np.inf
    assert metrics.calibration_error(margin, np.inf) == (0.0, 0.25)
    assert metrics.temperature(np.zeros(3)) == np.inf


def test_calibration_error_by_hand():
    margin = np.array([0.0, 10.0, 10.0, 10.0, -10.0])  # certain four times, right three times; once undecided
    error, brier = metrics.calibration_error(margin, 0.1)
    assert error == pytest.approx(4 / 5 * 0.25) and brier == pytest.approx((0.25 + 1) / 5)


def test_what_pruning_keeps():
    score, target = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3]]), np.array([[0.0, 1, 0, 0], [2, 0, 2, 1]])
    assert metrics.kept_best(score, target, 0.25).tolist() == [0, 0]
    assert metrics.kept_best(score, target, 0.5).tolist() == [1, 0.5]


def test_picking_by_the_target_itself_gains_what_the_highest_of_four_does():
    """Highest of 4 standard normal numbers: 1.029 on average; 400 prompts x 16: standard error below .02."""
    target = np.random.default_rng(2).normal(size=(400, 16))
    assert metrics.picked(target, target).mean() == pytest.approx(1.029, abs=0.08)


def test_the_map_explains_what_it_can_on_prompts_that_it_has_not_seen():
    """R = S + noise of equal variance, 100 prompts x 20: R^2 = 1/2 with a standard error of .015, coverage .95 of .005; four of them."""
    rng = np.random.default_rng(3)
    score = rng.normal(size=(100, 20))
    reward = score + rng.normal(size=score.shape)
    found = metrics.explained(score, reward)
    assert found.r2 == pytest.approx(0.5, abs=0.06) and found.within == pytest.approx(0.5, abs=0.06)
    assert found.coverage == pytest.approx(0.95, abs=0.02)
    assert (found.intercept, found.slope) == pytest.approx((0, 1), abs=0.1)
    assert metrics.explained(rng.normal(size=score.shape), reward).r2 < 0.01
    between = np.repeat(rng.normal(size=(100, 1)), 20, 1)  # differences of prompts alone
    found = metrics.explained(between, between + rng.normal(size=score.shape))
    assert found.r2 > 0.4 and found.within == pytest.approx(0)


def test_components_of_variance_are_recovered():
    """Between .5, within 1, 300 parents x 8 children x 8 completions: standard errors .02 and .012; four of them."""
    rng = np.random.default_rng(4)
    state = rng.normal(size=(300, 1, 1)) + np.sqrt(0.5) * rng.normal(size=(300, 8, 1))
    found = metrics.components(state + rng.normal(size=(300, 8, 8)))
    assert found.between == pytest.approx(0.5, abs=0.08) and found.within == pytest.approx(1, abs=0.05)
    assert found.icc == pytest.approx(found.between / (found.between + found.within)) and found.ceiling == pytest.approx(found.icc**0.5)
    assert found.ceiling_of_means == pytest.approx(np.sqrt(0.5 / (0.5 + 1 / 8)), abs=0.02)
    true = np.broadcast_to(state[..., 0], (300, 8))  # the perfect score reaches that ceiling; standard error .006
    means = true + rng.normal(size=(300, 8)) / np.sqrt(8)
    assert np.mean(metrics.pearson(true, means)) == pytest.approx(found.ceiling_of_means, abs=0.04)


def test_equal_states_have_an_icc_of_zero():
    values = np.tile(np.array([0.0, 1.0]), (3, 4, 1))
    assert metrics.components(values).icc == 0 and metrics.components(np.zeros((3, 4, 2))).ceiling_of_means != 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(data, bad):
    score, target = data
    score[3, 7] = bad
    for figure in (metrics.spearman, metrics.kendall, metrics.pairwise_accuracy, metrics.margins):
        with pytest.raises(ValueError, match=r"score holds 1 entries that are not finite, the first at \[3, 7\]"):
            figure(score, target)
    with pytest.raises(ValueError, match="completions"):
        metrics.components(np.full((1, 2, 2), bad))
