"""Noises that baselines make from other noises: around a pivot, or as the weighted sum of a step's noises.

    rotate    z' = ||z|| (c z / ||z|| + sqrt(1 - c^2) u),  u = w's part orthogonal to z, normalised    (zero-order search, arXiv 2501.09732)
    perturb   z' = z + r sqrt(d) w / ||w||                                                             (noise trajectory search, arXiv 2506.03164)
    demon     z* = sqrt(d) sum_i a_i z_i / ||sum_i a_i z_i||                                           (Demon, arXiv 2410.05760)

w is the new node's own draw. A pivot made by such a step is given by its lineage: the draws of all nodes since the one that drew
its noise alone, and the c or r of each step, so that its noise can be made again from ids.

Shapes: N particles of C channels, H x W latents; d = C H W; fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch

from mcts_ray.fusion.innovation import CANCELLED, mean_norm, weighted_sum
from mcts_ray.tree.weights import Refusal


def rotated(z_CHW: torch.Tensor, w_CHW: torch.Tensor, cosine: float) -> torch.Tensor:
    """z turned towards w until its cosine with itself is `cosine`; its norm stays."""
    unit = z_CHW / z_CHW.norm()
    across = w_CHW - (w_CHW * unit).sum() * unit
    return z_CHW.norm() * (cosine * unit + math.sqrt(1 - cosine**2) * across / across.norm())


def perturbed(z_CHW: torch.Tensor, w_CHW: torch.Tensor, radius: float) -> torch.Tensor:
    """z moved along w by `radius` times sqrt(d)."""
    return z_CHW + radius * math.sqrt(z_CHW.numel()) * w_CHW / w_CHW.norm()


def demon(z_NCHW: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor | Refusal:
    """The weighted sum, as long as noise is; Refusal.CANCELLED where nothing is left of it."""
    z_ND = z_NCHW.flatten(1)
    sum_D = weighted_sum(z_ND, a_N)
    if not sum_D.norm() >= CANCELLED * mean_norm(z_ND, a_N):  # `not`: NaN where all weights are 0
        return Refusal.CANCELLED
    return (math.sqrt(len(sum_D)) * sum_D / sum_D.norm()).reshape(z_NCHW.shape[1:])


STEPS: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {"rotate": rotated, "perturb": perturbed}


def stepped(mode: str, w_NCHW: torch.Tensor, sizes: Sequence[float]) -> torch.Tensor:
    """The noise at the end of a lineage: from the first draw, one step of `sizes` towards each of the others."""
    first, *others = w_NCHW
    return reduce(lambda z, step: STEPS[mode](z, *step), zip(others, sizes, strict=True), first)
