import math

import pytest
import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.slerp import slerp, slerp_mean
from tests.fusion.family import NAMES, weights

Z, A = draw(NAMES, (4, 32, 32)), torch.tensor(weights())


def test_it_goes_along_the_arc():
    u, v = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    middle = slerp(u, v, 0.5)
    torch.testing.assert_close(middle, 3 * torch.tensor([math.sqrt(0.5), math.sqrt(0.5)]))
    torch.testing.assert_close(slerp(u, v, 0.0), u)
    torch.testing.assert_close(slerp(u, v, 1.0), v)
    torch.testing.assert_close(slerp(u, 3 * u, 0.5), 2 * u)


def test_one_state_and_equal_ones_give_that_state():
    """[1, 3]"""
    torch.testing.assert_close(slerp_mean(Z, torch.eye(6)[2]), Z[2])
    torch.testing.assert_close(slerp_mean(Z[:1].expand(6, -1, -1, -1), A), Z[0])


def test_the_norm_is_the_mean_of_theirs():
    norms = Z.flatten(1).norm(dim=1)
    assert float(slerp_mean(Z, A).norm()) == pytest.approx(float((A / A.sum()) @ norms), rel=1e-5)


def test_siblings_that_share_a_mean_lose_noise_although_the_norm_stays():
    """The reason why it is a control: of x = mu + s z with a large mu the noise in the result is too weak."""
    mu, s = 2 * draw(["mu"], (4, 32, 32))[0], 0.4
    fused = slerp_mean(mu + s * Z, A)
    assert float(fused.norm() / (mu + s * Z[0]).norm()) == pytest.approx(1, abs=0.02)
    assert float(((fused - mu) / s).norm() / Z[0].norm()) < 0.85


def test_types():
    half = slerp_mean(Z.bfloat16(), A)
    assert half.dtype == torch.bfloat16 and torch.equal(half, slerp_mean(Z.bfloat16().float(), A).bfloat16())
