import pytest
import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion import MODES, Refusal, fusion_weights
from mcts_ray.fusion.fuser import fuse, fuse_all
from mcts_ray.fusion.innovation import barycenter
from mcts_ray.search import Edge, Fuse, Setting, Work

SHAPE = (4, 8, 8)
NAMES = ("a", "b", "c", "d", "e", "f")
WEIGHTS = fusion_weights("innovation", [0.3, 0.7, 0.1, 0.45, 0.6, 0.52]).a


def unit(weights=WEIGHTS, mode="innovation"):
    return Work("s/9", "s", Setting("a red circle"), "p", "fuse", (Edge("x", 5, 0.5),), fuse=Fuse(mode, NAMES, weights))


@pytest.mark.parametrize("mode", MODES)
def test_the_noise_of_the_particles_is_drawn_again_and_fused(mode):
    expected = barycenter(draw(NAMES, SHAPE), torch.tensor(WEIGHTS))
    fused = fuse(unit(mode=mode), SHAPE)
    assert torch.equal(fused, expected) and fused.dtype == torch.float32 and fused.shape == SHAPE


def test_refusals_come_back_as_they_are():
    assert fuse(unit((1.0, 0.0, 0.0, 0.0, 0.0, 0.0)), SHAPE) is Refusal.COPY


def test_many_units_of_different_shapes():
    one, two = fuse_all([unit(), unit((0.0,) * 6)], [(1, 16, 8), SHAPE])
    assert torch.equal(one, fuse(unit(), (1, 16, 8))) and two is Refusal.CANCELLED


def test_other_rules_are_not_its_business():
    with pytest.raises(AssertionError, match="not a unit"):
        fuse(unit(mode="ensemble"), SHAPE)
