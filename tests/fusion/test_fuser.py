import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.fuser import fuse
from mcts_ray.fusion.innovation import barycenter
from mcts_ray.tree.weights import Refusal, fusion_weights

SHAPE = (4, 8, 8)
NAMES = ("a", "b", "c", "d", "e", "f")
WEIGHTS = fusion_weights("innovation", [0.3, 0.7, 0.1, 0.45, 0.6, 0.52]).a


def test_the_noise_of_the_particles_is_drawn_again_and_fused():
    expected = barycenter(draw(NAMES, SHAPE), torch.tensor(WEIGHTS))
    fused = fuse(NAMES, WEIGHTS, SHAPE)
    assert torch.equal(fused, expected) and fused.dtype == torch.float32 and fused.shape == SHAPE


def test_the_same_particles_fuse_at_every_shape():
    assert fuse(NAMES, WEIGHTS, (1, 16, 8)).shape == (1, 16, 8)


def test_refusals_come_back_as_they_are():
    assert fuse(NAMES, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), SHAPE) is Refusal.COPY
    assert fuse(NAMES, (0.0,) * 6, SHAPE) is Refusal.CANCELLED
