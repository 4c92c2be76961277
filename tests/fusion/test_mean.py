import numpy as np
import pytest
import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.innovation import weighted_sum
from mcts_ray.fusion.mean import weighted_mean
from mcts_ray.fusion.siblings import Siblings
from mcts_ray.fusion.transport import Grid, read_back
from mcts_ray.tree.weights import Refusal
from tests.fusion.family import ALPHA, NAMES, SIGMA, kept, weights, work

Z, A = draw(NAMES, (4, 8, 8)), torch.tensor(weights())


def test_it_is_the_weighted_mean_whatever_the_weights_sum_to():
    expected = (A / A.sum())[:, None, None, None].mul(Z).sum(0)
    for scale in (1, 5):
        torch.testing.assert_close(weighted_mean(Z, scale * A), expected)


def test_the_mean_of_predictions_and_of_noise_predictions_is_the_mean_of_states():
    """[12]"""
    states = list(kept().values())
    x = torch.stack([ALPHA * state.x0 + SIGMA * state.eps for state in states])
    w = (A / A.sum())[:, None, None, None]
    parts = [(w * torch.stack([getattr(state, name) for state in states])).sum(0) for name in ("x0", "eps")]
    torch.testing.assert_close(ALPHA * parts[0] + SIGMA * parts[1], (w * x).sum(0), atol=1e-6, rtol=1e-6)


def test_the_modes_own_parts_make_the_mean_of_states():
    """[12] A transport in which no token moves, with noise whose norm is not kept, is what the mode `mean` starts from."""
    siblings = Siblings.of(work("mean"), (4, 8, 8), kept())
    mu, s = siblings.origin
    w = siblings.a_N / siblings.a_N.sum()
    still = read_back(np.tile(np.arange(64), (6, 1)), siblings.x0_NCHW, w.double().numpy(), Grid(8, 8))
    noise = weighted_sum(siblings.eps_NCHW.flatten(1), w).reshape(4, 8, 8)
    torch.testing.assert_close(ALPHA * still + SIGMA * noise, mu + s * weighted_mean(siblings.z_NCHW, w), atol=2e-6, rtol=1e-5)


def test_types_and_copies():
    half = weighted_mean(Z.half(), A)
    assert half.dtype == torch.float16 and torch.equal(half, weighted_mean(Z.half().float(), A).half())
    assert weighted_mean(Z, torch.eye(6)[2]) is Refusal.COPY
    with pytest.raises(RuntimeError):
        weighted_mean(Z.to("meta"), A)
