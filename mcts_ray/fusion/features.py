"""As `x0_transport`, with tokens matched by what the network makes of them: features of an up block, known from the same call.

Such features find what belongs together across images (DIFT, arXiv 2306.03881). Each token's features have norm 1, so that the
ground cost is 2 - 2 cos, to which the places add theirs.

Shapes: N siblings of C channels, H x W latents; features of C' channels on any grid; K tokens.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mcts_ray.fusion.transport import Grid
from mcts_ray.fusion.x0_transport import with_noise
from mcts_ray.tree.weights import Refusal


@torch.no_grad()
def feature_transport(
    x0_NCHW: torch.Tensor, eps_NCHW: torch.Tensor, features_NChw: torch.Tensor, w_N: torch.Tensor, alpha: float, sigma: float
) -> torch.Tensor | Refusal:
    """The fused state (C, H, W) in the type of `x0_NCHW`; weights are at least 0, and the transport starts from the heaviest."""
    content_NKF = on_grid(features_NChw, Grid(*x0_NCHW.shape[2:])).flatten(2).transpose(1, 2)
    return with_noise(F.normalize(content_NKF, dim=2), x0_NCHW, eps_NCHW, w_N, alpha, sigma)


def on_grid(features_NChw: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Features with one vector for each token: averaged where they are finer, interpolated where they are coarser."""
    features = features_NChw.float()
    if all(there >= wanted for there, wanted in zip(features.shape[2:], grid.size)):
        return F.adaptive_avg_pool2d(features, grid.size)
    return F.interpolate(features, grid.size, mode="bilinear", align_corners=False)
