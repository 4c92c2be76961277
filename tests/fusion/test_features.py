import torch
from torch.nn import functional as F

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.features import feature_transport, on_grid
from mcts_ray.fusion.transport import Grid
from mcts_ray.fusion.x0_transport import x0_transport
from mcts_ray.tree.weights import Refusal
from tests.fusion.family import ALPHA, SIGMA, kept, weights

W = torch.tensor(weights())
STATES = kept(shape=(4, 16, 16)).values()
X0, EPS = torch.stack([state.x0 for state in STATES]), torch.stack([state.eps for state in STATES])


def fuse(features, x0=X0, eps=EPS):
    return feature_transport(x0, eps, features, W, ALPHA, SIGMA)


def test_features_that_say_what_the_picture_says_move_the_same_things():
    """With the unit vectors of the picture itself plus a constant as features, the blob lands where x0_transport lays it."""
    features = torch.cat([X0, torch.ones(6, 1, 16, 16)], 1)
    fused, by_x0 = fuse(features), x0_transport(X0, EPS, W, ALPHA, SIGMA)
    assert F.cosine_similarity(fused.flatten(), by_x0.flatten(), 0) > 0.95


def test_features_that_stay_put_are_still_although_the_picture_moves():
    places = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"))
    assert fuse(torch.cat([places, torch.ones(1, 16, 16)])[None].expand(6, -1, -1, -1)) is Refusal.STILL


def test_their_length_does_not_matter():
    features = draw([f"f{i}" for i in range(6)], (12, 16, 16)) + 3 * X0.repeat(1, 3, 1, 1)
    torch.testing.assert_close(fuse(5 * features), fuse(features), rtol=1e-5, atol=1e-5)


def test_features_of_any_grid_are_brought_to_the_tokens():
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    assert torch.equal(on_grid(ramp, Grid(16, 16))[0, 0, 0], torch.arange(16.0) * 2 + 0.5)
    assert on_grid(torch.ones(1, 3, 4, 4), Grid(64, 64)).shape == (1, 3, 16, 16)
