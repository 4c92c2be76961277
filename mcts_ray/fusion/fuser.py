"""The noise of a fused state: what its particles have drawn, drawn again from their ids and fused.

Innovations are exact functions of node ids (`mcts_ray.diffusion.noise`), so a fusion needs no stored latents, and the same
particles give the same noise on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.innovation import barycenter
from mcts_ray.tree.weights import Refusal


def fuse(particles: Sequence[str], weights: Sequence[float], shape: tuple[int, int, int]) -> torch.Tensor | Refusal:
    """z* (C, H, W), fp32 on the CPU, that a fused node uses in place of its own noise; `shape` is (C, H, W)."""
    return barycenter(draw(particles, shape), torch.tensor(weights))
