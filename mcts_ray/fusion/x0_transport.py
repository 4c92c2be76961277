"""Predicted clean images fused as clouds of tokens: objects move to their mean place instead of fading into each other.

    x* = alpha B(x0_1, ..., x0_N) + sigma eps*      eps* = sum_i w_i eps_i, with the mean norm of the eps_i

B is the free-support barycenter of `mcts_ray.fusion.transport`, read back by displacement. Where hardly a token moves, as between
siblings of one small step, B is the weighted mean with its blur, and the mode says STILL.

Shapes: N siblings of C channels, H x W latents; K tokens.
"""

from __future__ import annotations

import torch

from mcts_ray.fusion.innovation import transported
from mcts_ray.fusion.transport import LIGHT, Grid, displaced
from mcts_ray.tree.weights import Refusal


@torch.no_grad()
def x0_transport(
    x0_NCHW: torch.Tensor, eps_NCHW: torch.Tensor, w_N: torch.Tensor, alpha: float, sigma: float
) -> torch.Tensor | Refusal:
    """The fused state (C, H, W) in the type of `x0_NCHW`, fp32 inside; weights are at least 0.

    The transport starts from the heaviest, of equal ones from the first.
    """
    content_NKF = Grid(*x0_NCHW.shape[2:]).cut(x0_NCHW).flatten(2)
    return with_noise(content_NKF, x0_NCHW, eps_NCHW, w_N, alpha, sigma)


def with_noise(
    content_NKF: torch.Tensor, x0_NCHW: torch.Tensor, eps_NCHW: torch.Tensor, w_N: torch.Tensor, alpha: float, sigma: float
) -> torch.Tensor | Refusal:
    """alpha B + sigma eps*, the tokens of B matched by `content_NKF`. Particles of hardly any weight are left out."""
    heavy_N = w_N >= LIGHT * w_N.sum()
    x0, eps, w = x0_NCHW[heavy_N].float(), eps_NCHW[heavy_N].float(), w_N[heavy_N].float()
    clean = displaced(content_NKF[heavy_N], x0, w)
    if isinstance(clean, Refusal):
        return clean
    noise = transported(eps.flatten(1), w).reshape(clean.shape)
    return (alpha * clean + sigma * noise).to(x0_NCHW.dtype)
