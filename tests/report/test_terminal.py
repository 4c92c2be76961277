"""What is said at the end of a search."""

import pytest

from mcts_ray import SearchConfig
from mcts_ray.report.terminal import result_text
from mcts_ray.tree.weights import REASONS, Refusal
from tests.report.trees import result_of, small_tree

FUSING = SearchConfig(algorithm="mcts", budget=54321, reward="jpeg", fuse="signed")


def lines_of(**fields):
    return result_text(result_of(small_tree(), mean_reward=0.5, **fields)).splitlines()


def test_a_search_that_may_fuse_says_what_came_of_it():
    assert "  3 fused" in lines_of(config=FUSING)
    told = lines_of(config=FUSING, refusals={"dominated": 2, "still": 1})
    words = "  3 fused · 2 x dominated (one sibling has all the weight) · 1 x still (hardly a token moved: fused by innovation instead)"
    assert words in told
    assert not any("fused" in line for line in lines_of())


@pytest.mark.parametrize("reason", Refusal)
def test_every_reason_has_words(reason):
    assert f"  3 fused · 1 x {reason.value} ({REASONS[reason]})" in lines_of(config=FUSING, refusals={reason.value: 1})
