"""A control: no fusion at all. Where siblings would be fused, one more of them is drawn, at the same moment and the same price."""

from __future__ import annotations

import torch

from mcts_ray.diffusion.noise import draw


def fresh(node: str, shape: tuple[int, int, int]) -> torch.Tensor:
    """The node's own noise (C, H, W), fp32."""
    return draw([node], shape)[0]
