"""Decisions of a study on rows made by hand."""

import numpy as np
import pytest

from mcts_ray.gain.decide import curve_of, decisions, ratio, regrets, saved

IGE, TABLE = "mcts,jump=ige,price=0.1", "mcts,jump=table,jump_table=[1,2,2]"


def rows(arm, curves, set_="hard", seed=0):
    return [{"arm": arm, "set": set_, "prompt": p, "seed": seed, "curve": curve} for p, curve in enumerate(curves)]


def test_curves_are_steps_and_means_over_seeds():
    """The image is better from call 2 and again from 4 on; another seed finds its only one at call 3."""
    both = rows("a", [[[2, 0.1, 0.4], [4, 0.2, 0.8]]]) + rows("a", [[[3, 0.5, 0.6]]], seed=1)
    np.testing.assert_allclose(curve_of(both, 5), [[0.0, 0.2, 0.5, 0.7, 0.7]])


def test_calls_saved_at_equal_gold():
    """The base climbs evenly to .8 at call 8, the other to .8 at call 4: half of the calls; one that ends at .5 never gets there."""
    base = np.tile(np.arange(1, 9) / 10, (3, 1))
    found = saved(np.tile(np.minimum(np.arange(1, 9) / 5, 0.8), (3, 1)), base)
    assert found == {"share": [0.5, 0.5, 0.5], "calls": 4.0, "base_calls": 8.0}
    found = saved(np.full((3, 8), 0.5), base)
    assert found == {"share": [None, None, None], "calls": None, "base_calls": 8.0}
    found = saved(np.tile([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], (3, 1)), base)
    assert found["calls"] == pytest.approx(2.8)  # .8 of the way from 0 at call 2 to 1 at call 3


def test_an_ige_is_held_against_the_table_and_the_best_constant():
    """Differences are paired: prompts differ by .5 from each other, arms by .1 at every one, so the interval is a point."""
    level = np.arange(6) / 10
    cells = {IGE: 0.3, TABLE: 0.2, "mcts,k=1": 0.0, "mcts,k=4": 0.1, "mcts,jump=ays": 0.4}
    every = [row for arm, more in cells.items() for row in rows(arm, [[[1, 0.0, at + more]] for at in level])]
    found = decisions(every, 4)
    assert (found["table"], found["best_constant"], set(found["ige"])) == (TABLE, "mcts,k=4", {IGE})
    assert found["ige"][IGE]["table"]["gold"] == pytest.approx((0.1, 0.1, 0.1))
    assert found["ige"][IGE]["best_constant"]["gold"] == pytest.approx((0.2, 0.2, 0.2))
    assert decisions(rows(IGE, [[]]), 4)["ige"][IGE] == {}


def test_regret_against_that_of_other_rules():
    """Two prompts with two states each: means .1 and .2 against .2 and .4 are differences of -.1 and -.2, and half as much."""
    prompt_N = np.array([0, 0, 1, 1])
    found = regrets({"a": np.array([0.0, 0.2, 0.1, 0.3]), "b": np.array([0.2, 0.2, 0.3, 0.5])}, prompt_N, ["b"])
    assert found["a"]["regret"][0] == pytest.approx(0.15) and found["a"]["difference"]["b"] == pytest.approx((-0.15, -0.2, -0.1))
    assert found["a"]["ratio"]["b"] == pytest.approx((0.5, 0.5, 0.5)) and found["b"]["ratio"] == {}
    assert ratio(np.array([0.1, 0.1]), np.array([-0.1, 0.3])) is None
