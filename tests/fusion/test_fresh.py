import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.fresh import fresh


def test_it_is_the_draw_of_the_node():
    assert torch.equal(fresh("n", (4, 8, 8)), draw(["n"], (4, 8, 8))[0]) and not torch.equal(fresh("n", (4, 8, 8)), fresh("m", (4, 8, 8)))
