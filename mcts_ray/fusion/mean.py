"""A control: the Dirac barycenter of siblings, their weighted mean, which loses noise variance.

    x* = sum_i a_i x_i = mu + s sum_i a_i z_i,   sum_i a_i = 1        with the law N(mu, ||a||^2 s^2 I) instead of N(mu, s^2 I)
"""

from __future__ import annotations

import torch

from mcts_ray.fusion.innovation import copies, weighted_sum
from mcts_ray.tree.weights import Refusal


@torch.no_grad()
def weighted_mean(z_NCHW: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor | Refusal:
    """sum_i a_i z_i / sum_i a_i (C, H, W) in the type of `z_NCHW`; a copy is refused. The maths is in fp32."""
    z_ND, a_N = z_NCHW.float().flatten(1), a_N.float()
    mean_D = weighted_sum(z_ND, a_N) / a_N.sum()
    if copies(z_ND, mean_D):
        return Refusal.COPY
    return mean_D.reshape(z_NCHW.shape[1:]).to(z_NCHW.dtype)
