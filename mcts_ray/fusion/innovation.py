"""The transport-corrected barycenter of siblings, on their innovations.

Siblings are x_i = mu + s z_i with one mu and one s. The W2 barycenter of Dirac masses is the weighted mean, which loses
noise variance: mu + s sum_i w_i z_i has the law N(mu, ||w||^2 s^2 I). The optimal-transport map from there to the law
N(mu, s^2 I) of a legitimate child lengthens the innovation; with the measured norms it is

    z* = (sum_i |a_i| ||z_i|| / sum_i |a_i|) sum_i a_i z_i / ||sum_i a_i z_i||         x* = mu + s z*

exact for one particle and for equal ones. It has the form of Demon's noise (arXiv 2410.05760), which sets the length to sqrt(d).
The formula holds for weights of either sign too (`mcts_ray.fusion.signed`).

Shapes: N particles of C channels, H x W latents; D = C H W; inputs of any float type, maths in fp32.
"""

from __future__ import annotations

import torch

from mcts_ray.tree.weights import Refusal

CANCELLED = 1e-3  # ||sum a z|| as a share of the length of a particle, below which its direction is rounding
COPY = 0.98  # |cosine| with a particle from which on the fused noise is that particle again, or its mirror image


@torch.no_grad()
def barycenter(z_NCHW: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor | Refusal:
    """z* (C, H, W) in the type of `z_NCHW`, or why the noise cannot be fused: it cancels, or gives a particle again.

    Weights are at least 0.
    """
    return lengthened(z_NCHW, a_N)


def lengthened(z_NCHW: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor | Refusal:
    """The same for weights of either sign."""
    z_ND, a_N = z_NCHW.float().flatten(1), a_N.float()
    sum_D = weighted_sum(z_ND, a_N)
    if not sum_D.norm() >= CANCELLED * mean_norm(z_ND, a_N):  # `not`: NaN where all weights are 0
        return Refusal.CANCELLED
    if copies(z_ND, sum_D):
        return Refusal.COPY
    return transported(z_ND, a_N).reshape(z_NCHW.shape[1:]).to(z_NCHW.dtype)


def copies(z_ND: torch.Tensor, found_D: torch.Tensor) -> bool:
    """Whether a fused noise has the direction of one of the particles, or the opposite one."""
    return bool(torch.cosine_similarity(z_ND, found_D[None]).abs().max() > COPY)


def transported(z_ND: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor:
    """z* (D,), whatever it is worth."""
    sum_D = weighted_sum(z_ND, a_N)
    return mean_norm(z_ND, a_N) / sum_D.norm() * sum_D


def weighted_sum(z_ND: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor:
    """sum_i a_i z_i (D,); with weights that sum to 1 the Dirac barycenter."""
    return (a_N[:, None] * z_ND).sum(0)


def mean_norm(z_ND: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor:
    """sum_i |a_i| ||z_i|| / sum_i |a_i|."""
    return (a_N.abs() * z_ND.norm(dim=1)).sum() / a_N.abs().sum()
