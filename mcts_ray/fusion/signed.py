"""Towards good siblings and away from bad ones: the innovations summed with weights of either sign.

    z* = (sum_i |a_i| ||z_i|| / sum_i |a_i|) sum_i a_i z_i / ||sum_i a_i z_i||       a_i = tanh(r~_i), r~ standardised rewards

No barycenter, as weights need not be positive: where the reward is linear in the innovation, r_i = g z_i, the sum points along g on
average, since E[sum_i (r_i - mean r) z_i] = (N - 1) g, and tanh keeps a single outlier from deciding it. Weights that sum to 0 are
nothing special; the noise is as long as a sibling's all the same.

Shapes: N particles of C channels, H x W latents.
"""

from __future__ import annotations

import torch

from mcts_ray.fusion.innovation import lengthened
from mcts_ray.tree.weights import Refusal


@torch.no_grad()
def signed_sum(z_NCHW: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor | Refusal:
    """z* (C, H, W) in the type of `z_NCHW`, or why the noise cannot be fused: it cancels, or gives a particle or its mirror image."""
    return lengthened(z_NCHW, a_N)
