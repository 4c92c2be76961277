import math

import pytest
import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.fuser import fuse, start_of
from mcts_ray.search import ALGORITHMS, Setting
from mcts_ray.tree.weights import Refusal
from tests.search.fake import carry_out

SHAPE = (4, 8, 8)
ROOT_D = math.sqrt(4 * 8 * 8)


def cosine(a, b):
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_a_rotation_keeps_the_norm_and_has_the_cosine():
    (pivot,) = draw(["pivot"], SHAPE)
    for node in ("a", "b"):
        turned = fuse(("pivot",), (0.95,), SHAPE, "rotate", node)
        assert float(turned.norm()) == pytest.approx(float(pivot.norm()), rel=1e-5)
        assert cosine(turned, pivot) == pytest.approx(0.95, abs=1e-5)
    assert not torch.equal(turned, fuse(("pivot",), (0.95,), SHAPE, "rotate", "a"))


def test_a_neighbour_lies_at_its_radius_in_the_direction_of_its_draw():
    pivot, own = draw(["pivot", "a"], SHAPE)
    moved = fuse(("pivot",), (0.12,), SHAPE, "perturb", "a") - pivot
    assert float(moved.norm()) == pytest.approx(0.12 * ROOT_D, rel=1e-5)
    assert cosine(moved, own) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mode", ["rotate", "perturb"])
def test_a_lineage_is_one_step_after_the_other(mode):
    """The noise of a moved pivot is made again from ids, and its neighbours are neighbours of that."""
    pivot = fuse(("a", "b"), (0.9, 0.1), SHAPE, mode, "c")
    again = fuse(("a", "b", "c"), (0.9, 0.1, 0.0 if mode == "perturb" else 1.0), SHAPE, mode, "d")
    assert torch.allclose(pivot, again, atol=1e-5)
    near = fuse(("a", "b", "c"), (0.9, 0.1, 0.95), SHAPE, mode, "d")
    if mode == "rotate":
        assert cosine(near, pivot) == pytest.approx(0.95, abs=1e-5)
    else:
        assert float((near - pivot).norm()) == pytest.approx(0.95 * ROOT_D, rel=1e-4)


def test_demon_is_the_weighted_sum_at_the_length_of_noise():
    names, weights = ("a", "b", "c"), (0.7, -0.2, -0.6)
    mixed = fuse(names, weights, SHAPE, "demon")
    total = torch.einsum("n,nchw->chw", torch.tensor(weights), draw(names, SHAPE))
    assert float(mixed.norm()) == pytest.approx(ROOT_D, rel=1e-5) and cosine(mixed, total) == pytest.approx(1, abs=1e-5)
    assert fuse(names, (0.0, 0.0, 0.0), SHAPE, "demon") is Refusal.CANCELLED
    assert cosine(fuse(names, (1.0, 0.0, 0.0), SHAPE, "demon"), draw(["a"], SHAPE)[0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["nts", "demon", "zero-order"])
def test_every_unit_of_a_search_has_a_noise(name):
    search = ALGORITHMS[name]("s", Setting("a", levels=5), 200, phi=lambda a, s: 0.3)
    noises = [start_of(work, SHAPE).tensor for work in carry_out(search) if work.fuse]
    assert noises and all(0.8 < float(noise.norm()) / ROOT_D < 1.3 for noise in noises)
