import numpy as np
import pytest

from mcts_ray.reward.compose import WeightedSum

IMAGES = np.zeros((2, 4, 4, 3), dtype=np.uint8)


class Graded:
    center, scale, forwards = 10.0, 4.0, 3

    def __call__(self, images, prompts):
        return [14.0, 6.0][: len(prompts)]


def plain(images, prompts):
    return [1.0, 2.0][: len(prompts)]


def test_terms_are_standardised_by_their_own_constants_then_weighted():
    total = WeightedSum([(Graded(), 1.0), (plain, -0.5)])
    np.testing.assert_allclose(total(IMAGES, ["a", "b"]), [1.0 - 0.5, -1.0 - 1.0])


def test_an_image_has_the_same_reward_alone_and_in_a_batch():
    total = WeightedSum([(Graded(), 2.0), (plain, 1.0)])
    assert total(IMAGES[:1], ["a"])[0] == total(IMAGES, ["a", "b"])[0]


@pytest.mark.parametrize("scores", [[0.5], 0.5, [[0.5, 0.5]], [0.1, 0.2, 0.3]])
def test_a_term_without_a_score_for_each_image_is_refused(scores):
    """Spread over the batch, an image's reward would hang on the others."""
    with pytest.raises(ValueError, match="term 2 of the sum returned shape .* for 2 images"):
        WeightedSum([(plain, 1.0), (lambda images, prompts: scores, 1.0)])(IMAGES, ["a", "b"])


def test_forwards_add_up():
    assert WeightedSum([(Graded(), 1.0), (plain, 1.0), (Graded(), 0.5)]).forwards == 6
