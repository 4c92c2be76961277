import pytest
import torch

from mcts_ray.fusion.siblings import Siblings
from mcts_ray.tree.weights import Refusal
from tests.fusion.family import ALPHA, NAMES, S, blob, kept, weights, work

SHAPE = (4, 8, 8)


def test_their_mean_and_step_follow_from_states_and_noises():
    """No parent is needed, and the innovations are those of the ids."""
    siblings = Siblings.of(work("slerp"), SHAPE, kept())
    mu, s = siblings.origin
    assert s == pytest.approx(S, rel=1e-5)
    torch.testing.assert_close(mu, ALPHA * blob(SHAPE, 0.5, 0.5), atol=1e-5, rtol=1e-5)
    for x, z in zip(siblings.x_NCHW, siblings.z_NCHW, strict=True):
        torch.testing.assert_close(siblings.innovation(x), z, atol=2e-5, rtol=1e-4)


def test_the_heaviest_comes_first_and_of_equal_ones_the_smaller_id():
    siblings = Siblings.of(work("slerp", a=(0.2, 0.3, 0.2, 0.3, 0.0, 0.0)), SHAPE, kept())
    assert siblings.names == ("b", "d", "a", "c", "e", "f")
    assert torch.equal(siblings.x0_NCHW[0], kept()["b"].x0) and siblings.a_N[0] == pytest.approx(0.3)


def test_a_missing_state_is_a_refusal():
    states = kept()
    del states[NAMES[-1]]
    assert Siblings.of(work("slerp", a=weights()), SHAPE, states) is Refusal.GONE
