import numpy as np
import ot
import pytest
import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.ensemble import ensemble, mixed, pooled, transform
from mcts_ray.tree.weights import Refusal
from tests.fusion.family import NAMES, kept, weights
from tests.fusion.test_innovation import normal

W = np.array(weights())
F = np.random.default_rng(0).standard_normal((6, 5))


def test_it_is_the_optimal_plan_between_weighted_and_equal_siblings():
    D = transform(F, W)
    np.testing.assert_allclose(D.sum(0), 1)
    np.testing.assert_allclose(D.mean(1), W / W.sum(), atol=1e-9)  # the weighted mean is kept exactly
    cost = ((F[:, None] - F[None]) ** 2).sum(-1)
    best = ot.emd2(W / W.sum(), np.full(6, 1 / 6), cost)
    assert (D / 6 * cost).sum() == pytest.approx(best, rel=1e-9)


def test_equal_weights_leave_every_sibling_where_it_is():
    np.testing.assert_allclose(transform(F, np.ones(6)), np.eye(6), atol=1e-12)
    assert mixed(np.eye(6), np.ones(6)) == []
    assert ensemble(draw(NAMES, (4, 8, 8)), draw(NAMES, (4, 8, 8)), torch.ones(6)) is Refusal.COPY


def test_columns_that_are_one_sibling_make_no_child_and_the_heaviest_come_first():
    D = np.zeros((4, 4))
    D[:, 0], D[:, 1], D[:, 2], D[:, 3] = (1, 0, 0, 0), (0, 0, 0.5, 0.5), (0.5, 0.5, 0, 0), (0.9, 0.1, 0, 0)
    assert mixed(D, np.array([0.6, 0.2, 0.1, 0.1])) == [2, 1]


def test_children_are_noise_again():
    """[5] The coupling knows nothing of the noise, so each child must pass as a draw; 4 sd on 14 figures, three children."""
    z = draw(NAMES, (4, 64, 64))
    x0 = torch.from_numpy(F).float()[:, :, None, None].expand(6, 5, 4, 4)
    made = [ensemble(z, x0, torch.tensor(W), index) for index in range(6)]
    noises = [one for one in made if one is not Refusal.COPY]
    assert len(noises) > 1 and all(normal(one) for one in noises)


def test_predictions_are_averaged_over_cells():
    x0 = torch.stack([state.x0 for state in kept(shape=(4, 64, 32)).values()])
    assert pooled(x0).shape == (6, 4 * 8 * 8)
    np.testing.assert_allclose(pooled(x0)[2].reshape(4, 8, 8)[1, 3, 5], x0[2, 1, 24:32, 20:24].mean(), rtol=1e-5)


def test_types():
    z, x0 = draw(NAMES, (4, 8, 8)), torch.stack([state.x0 for state in kept().values()])
    half = ensemble(z.half(), x0.half(), torch.tensor(W))
    assert half.dtype == torch.float16 and torch.equal(half, ensemble(z.half().float(), x0.half().float(), torch.tensor(W)).half())
