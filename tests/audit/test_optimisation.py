import numpy as np
import pytest

from mcts_ray.audit.optimisation import (
    divergence,
    fit_gao,
    highest_normal,
    over_optimisation,
    sizes,
)


def pool(rng, hack=0.0, prompts=40, samples=128, rho=0.6):
    """Guide and gold normal with correlation rho; `hack`: what gold loses with the square of a high guide."""
    guide = rng.normal(size=(prompts, samples))
    gold = rho * guide + np.sqrt(1 - rho**2) * rng.normal(size=guide.shape)
    return guide, gold - hack * np.maximum(0, guide) ** 2


def test_known_numbers():
    assert [highest_normal(n) for n in (1, 2, 4, 16, 128)] == pytest.approx([0, 0.564, 1.029, 1.766, 2.595], abs=0.001)
    assert divergence(1) == 0 and divergence(2) == pytest.approx(np.log(2) - 0.5)
    assert sizes(10) == [1, 2, 3, 4, 6, 8, 10] and sizes(320)[-1] == 256


def test_the_fit_finds_its_own_curve():
    d = np.linspace(0, 2, 9)
    assert fit_gao(d, d * (1.5 - 0.4 * d)) == pytest.approx((1.5, 0.4))


def test_a_weak_guide_is_no_exploited_one():
    """Bivariate normal, rho .6: gold follows rho m_n. 40 prompts: standard error at n = 128 is .13; three of them (.3 % fail)."""
    found = over_optimisation(*pool(np.random.default_rng(0)))
    last = found["curve"][-1]
    assert last["n"] == 128 and last["normal"] == pytest.approx(0.6 * 2.6, abs=0.03)
    assert last["gold"][0] == pytest.approx(last["normal"], abs=0.4)
    assert found["rho"] == pytest.approx(0.6, abs=0.03) and found["share_kept"] == pytest.approx(0.6, abs=0.18)
    assert found["beyond_regression"][2] > 0 and found["drop"][2] >= 0


def test_gold_that_turns_over_is_seen():
    found = over_optimisation(*pool(np.random.default_rng(1), hack=0.5))
    assert 1 < found["peak_n"] < 16 and found["drop"][2] < 0
    assert found["beyond_regression"][2] < 0
    assert found["fitted_peak_d"] == pytest.approx(found["alpha"] / (2 * found["beta"]), abs=0.01)


def test_bad_pools_are_refused():
    guide, gold = pool(np.random.default_rng(2), prompts=2, samples=4)
    with pytest.raises(ValueError, match="gold of the pool is the same"):
        over_optimisation(guide, np.ones_like(gold))
    guide[1, 2] = np.nan
    with pytest.raises(ValueError, match="guide holds 1 entries that are not finite"):
        over_optimisation(guide, gold)
