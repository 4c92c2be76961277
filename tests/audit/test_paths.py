import numpy as np
import pytest

from mcts_ray.audit.paths import regrets

# One tree of T = 2 with jumps 1 and 2: a seed (level 2), its jump to the end, a state at level 1 and its end.
PARENT, LEVEL = np.array([[-1, 0, 0, 2]]), np.array([[2, 0, 1, 0]])


def found(straight, scored, end, judge=lambda level, score: score):
    score = np.array([[0.0, straight, scored, end]])
    return regrets(PARENT, LEVEL, score, np.array([[0.0, 0.9, 0.0, 0.3]]), judge)


def test_the_right_path_costs_nothing():
    right = found(straight=0.4, scored=0.5, end=0.8)
    assert (right["paths"], right["trees"], right["prompts"]) == (2, 1, 1)
    assert right["best_chosen"][0] == 1 and right["guide_lost"][0] == 0 and right["best_chosen_blindly"][0] == 0.5
    assert right["guide_lost_blindly"][0] == pytest.approx(0.2) and right["guide_lost_by_single_levels"][0] == 0
    assert right["gold_lost"][0] == pytest.approx(0.6) == right["gold_of_best_by_guide_lost"][0]  # the guide itself is wrong there


def test_the_wrong_path_is_seen_and_scores_are_compared_as_they_are_judged():
    wrong = found(straight=0.4, scored=0.3, end=0.8)
    assert wrong["best_chosen"][0] == 0 and wrong["guide_lost"][0] == pytest.approx(0.4) and wrong["gold_lost"][0] == 0
    assert found(0.4, 0.3, 0.8, lambda level, score: score + 0.2 * level)["best_chosen"][0] == 1


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="score holds 1"):
        found(0.4, np.nan, 0.8)
