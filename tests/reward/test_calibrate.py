import json

import numpy as np
import pytest

from mcts_ray.reward.calibrate import Calibration, Level, fit, fit_map, prior

SNR = [4.0, 2.0, 0.0, -2.0, -4.0]  # of levels 0 ... 4


def world(rng, prompts=200, samples=20, slope=0.5, noise=0.3, offset=0.2, tilt=0.1):
    """R = 1 + (slope + b_p) S + a_p + noise, with a prompt's own a_p and b_p: scores (P, N) and rewards (P, N)."""
    score = rng.normal(size=(prompts, samples))
    own_slope = slope + tilt * rng.normal(size=(prompts, 1))
    reward = 1 + own_slope * score + offset * rng.normal(size=(prompts, 1)) + noise * rng.normal(size=score.shape)
    return score, reward


def test_a_known_map_and_its_variances_are_recovered():
    """Standard errors with 200 prompts x 20 samples: slope .009, variances below 12 % of themselves; four of them: < 1 in 10,000 fails."""
    score, reward = world(np.random.default_rng(0))
    one = fit(score[:, :, None], reward, [2], SNR, method="linear").levels[0]
    assert one.mean(1.0) - one.mean(-1.0) == pytest.approx(1.0, abs=2 * 4 * 0.009)
    assert one.mean(0.0) == pytest.approx(1.0, abs=4 * 0.015)
    assert one.noise == pytest.approx(0.09, rel=0.1)
    assert one.offset == pytest.approx(0.04, rel=0.48)
    assert one.slope == pytest.approx(0.01, rel=0.48)
    assert one.variance == pytest.approx(0.09 + 0.04 + 0.01, rel=0.4)


def test_what_is_the_same_for_all_prompts_leaves_no_variance_between_them():
    score, reward = world(np.random.default_rng(1), offset=0.0, tilt=0.0)
    one = fit(score[:, :, None], reward, [2], SNR).levels[0]
    assert one.offset < 0.002 and one.slope < 0.002  # four standard errors


def test_isotonic_blocks_are_known_answers_and_best_takes_the_curve_that_is_none():
    knots, values = fit_map(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 5]), "isotonic")
    assert np.interp([1, 2, 3, 4, 9], knots, values).tolist() == [1, 2.5, 2.5, 5, 5]
    knots, values = fit_map(np.array([1.0, 1, 2]), np.array([0.0, 2, 3]), "isotonic")  # equal scores are one
    assert np.interp([1, 2], knots, values).tolist() == [1, 3]
    rng = np.random.default_rng(2)
    score = rng.normal(size=(20, 20))
    step = (score > 0) + 0.1 * rng.normal(size=score.shape)
    line = score + 0.1 * rng.normal(size=score.shape)
    assert fit(score[:, :, None], step, [1], SNR).levels[0].kind == "isotonic"
    assert fit(score[:, :, None], line, [1], SNR).levels[0].kind == "linear"


def test_a_score_that_ranks_the_wrong_way_or_not_at_all_predicts_the_mean():
    score = np.linspace(0, 1, 10)
    for wrong in (score, np.zeros(10)):
        for kind in ("linear", "isotonic"):
            assert np.interp(0.3, *fit_map(wrong, 1 - score, kind)) == pytest.approx(0.5)


def level(number, snr, low, high, **more):
    fields = {"kind": "linear", "knots": (0.0, 1.0), "values": (low, high), "center": 0.5}
    fields |= {"variance": 1.0, "noise": 0.8, "offset": 0.2, "slope": 0.0}
    return Level(number, snr, **{**fields, **more})


KNOWN = Calibration("m", "x0", "r", 4, (level(1, 2.0, 0.0, 1.0, within=0.2), level(3, -2.0, 0.4, 0.6, variance=2.0, within=0.6)))


def test_a_prior_is_mean_within_and_what_is_left():
    found = KNOWN(1, 0.25)
    assert (found.mean, found.within, found.between) == pytest.approx((0.25, 0.2, 0.8))
    assert found.weight == pytest.approx(0.25) and found.variance == pytest.approx(1.0)
    assert KNOWN(1, 7.0).mean == 1.0 and KNOWN(1, -7.0).mean == 0.0  # not beyond what was seen
    assert prior(0.5, 0.3, None).weight == 1.0
    assert prior(0.5, 0.3, 0.5).weight == pytest.approx(10)  # noise larger than all: floored


def test_levels_without_data_lie_between_their_neighbours():
    assert KNOWN(2, 1.0).mean == pytest.approx(0.8) and KNOWN(2, 1.0).variance == pytest.approx(1.5)
    assert KNOWN(4, 1.0).mean == KNOWN(3, 1.0).mean  # beyond the last: as the last


def test_another_number_of_levels_is_met_by_log_snr():
    coarse = KNOWN.on([9.0, 2.0, -1.0])  # T = 2
    assert coarse.T == 2 and coarse(1, 0.25).mean == pytest.approx(0.25)
    assert coarse(2, 1.0).mean == pytest.approx(0.25 * 1.0 + 0.75 * 0.6)
    same = KNOWN.on([9.0, 2.0, 0.0, -2.0, -np.inf])
    assert same.at(1) == KNOWN.at(1) and same.at(3) == KNOWN.at(3) and np.isfinite(same.at(4).log_snr)


def test_completions_are_interpolated_and_nothing_is_open_at_level_0():
    rng = np.random.default_rng(3)
    scores, reward = rng.normal(size=(4, 10, 4)), rng.normal(size=(4, 10))
    found = fit(scores, reward, [4, 3, 2, 1], SNR, within={2: 0.4, 3: 0.6})
    assert [one.level for one in found.levels] == [1, 2, 3, 4]
    assert [one.within for one in found.levels] == pytest.approx([0.2, 0.4, 0.6, 0.6])
    assert fit(scores, reward, [4, 3, 2, 1], SNR).at(1).within is None


def test_files_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(4)
    found = fit(rng.normal(size=(4, 10, 2)), rng.normal(size=(4, 10)), [1, 3], SNR, model="scenes", reward="jpeg", within={2: 0.1})
    found.save(tmp_path / "deep" / "calibration.json")
    assert Calibration.load(tmp_path / "deep" / "calibration.json") == found
    assert {"model", "step_reward", "reward", "levels"} <= json.loads((tmp_path / "deep" / "calibration.json").read_text()).keys()


def test_bad_numbers_are_refused():
    scores, reward = np.ones((2, 5, 1)), np.ones((2, 5))
    with pytest.raises(ValueError, match=r"1 scores to calibrate on are not finite, the first at index \(1, 2, 0\)"):
        bad = scores.copy()
        bad[1, 2] = np.nan
        fit(bad, reward, [1], SNR)
    with pytest.raises(ValueError, match="1 rewards"):
        fit(scores, np.where(np.eye(2, 5), [[np.inf], [1]], reward), [1], SNR)
    with pytest.raises(ValueError, match="at least 8 finished trajectories, not 5"):
        fit(scores[:1], reward[:1], [1], SNR)
    with pytest.raises(ValueError, match="needs scores"):
        fit(scores, reward, [1, 2], SNR)
    with pytest.raises(ValueError, match="unknown calibration method"):
        fit(scores, reward, [1], SNR, method="cubic")


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "calibration.json"
    with pytest.raises(ValueError, match="cannot be read"):
        Calibration.load(path)
    KNOWN.save(path)
    good = json.loads(path.read_text())
    broken = [("{", "not JSON"), ("[]", "no calibration"), (json.dumps(good | {"version": 9}), "no calibration")]
    broken += [
        (json.dumps(good | {"levels": []}), "at least one level"),
        (json.dumps(good | {"levels": good["levels"][::-1]}), "ascending"),
    ]
    for field, value in (("variance", -1.0), ("knots", [1.0, 0.0]), ("knots", [0.0]), ("values", [0.0, float("nan")]), ("within", "x")):
        broken.append((json.dumps(good | {"levels": [good["levels"][0] | {field: value}]}), "no calibration"))
    for text, message in broken:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Calibration.load(path)
