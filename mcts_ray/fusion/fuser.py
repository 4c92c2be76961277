"""The noise of a fused state: what its particles have drawn, drawn again from their ids and fused.

Innovations are exact functions of node ids (`mcts_ray.diffusion.noise`), so a fusion needs no stored latents, and the same
particles give the same noise on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.innovation import barycenter
from mcts_ray.fusion.rules import STEPS, demon, stepped
from mcts_ray.search.base import Work
from mcts_ray.tree.weights import Refusal


def fuse(
    particles: Sequence[str], weights: Sequence[float], shape: tuple[int, int, int], mode: str = "innovation", node: str = ""
) -> torch.Tensor | Refusal:
    """z* (C, H, W), fp32 on the CPU, that a fused node uses in place of its own noise; `shape` is (C, H, W).

    In the modes of `STEPS` the particles are a lineage that ends in `node`, whose own draw is the direction of the last step.
    """
    if mode in STEPS:
        return stepped(mode, draw([*particles, node], shape), weights)
    rule = demon if mode == "demon" else barycenter
    return rule(draw(particles, shape), torch.tensor(weights))


def noise_of(work: Work, shape: tuple[int, int, int]) -> torch.Tensor | Refusal:
    """The noise of the first node of a unit that is to be fused."""
    rule = work.fuse
    return fuse(rule.particles, rule.weights, shape, rule.mode, work.edges[0].node)
