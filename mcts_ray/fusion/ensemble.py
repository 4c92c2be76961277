"""Reich's ensemble transform (SIAM J. Sci. Comput. 35, 2013) of siblings: several fused children from one fusion.

The optimal coupling T of the weighted siblings with as many equally weighted ones,

    min over T >= 0 of sum_ij T_ij ||f_i - f_j||^2    with   sum_j T_ij = w_i,   sum_i T_ij = 1 / N,

turns resampling into a linear map: column j of D = N T holds the weights of child j. The children have the weighted mean of the
siblings, but too little spread, since each is a convex combination; so each column is fused like any set of weights, with the
norm of its innovation kept (`mcts_ray.fusion.innovation`). Whole noisy latents are nearly equidistant and give no geometry: f_i
is the predicted clean image, averaged over cells. Many columns are a sibling itself; those make no new node.

Shapes: N siblings of C channels, H x W latents; F numbers of a pooled prediction.
"""

from __future__ import annotations

import numpy as np
import ot
import torch
from torch.nn.functional import adaptive_avg_pool2d

from mcts_ray.fusion.innovation import COPY, barycenter
from mcts_ray.tree.weights import Refusal

SIDE = 8  # of the pooled predictions


@torch.no_grad()
def ensemble(z_NCHW: torch.Tensor, x0_NCHW: torch.Tensor, w_N: torch.Tensor, index: int = 0) -> torch.Tensor | Refusal:
    """The noise (C, H, W) of child number `index`, in the type of `z_NCHW`; COPY if there are not so many that are no copies."""
    a_N = column(x0_NCHW, w_N, index)
    return a_N if isinstance(a_N, Refusal) else barycenter(z_NCHW, a_N.to(z_NCHW.device))


def column(x0_NCHW: torch.Tensor, w_N: torch.Tensor, index: int) -> torch.Tensor | Refusal:
    """The weights (N,) of that child, a column of D."""
    D_NN = transform(pooled(x0_NCHW), w_N.double().numpy())
    columns = mixed(D_NN, w_N.double().numpy())
    return torch.from_numpy(D_NN[:, columns[index]]) if index < len(columns) else Refusal.COPY


def pooled(x0_NCHW: torch.Tensor) -> np.ndarray:
    """Predictions averaged to at most `SIDE` x `SIDE` cells: (N, F)."""
    size = [min(SIDE, side) for side in x0_NCHW.shape[2:]]
    return adaptive_avg_pool2d(x0_NCHW.float(), size).flatten(1).double().cpu().numpy()


def transform(f_NF: np.ndarray, w_N: np.ndarray) -> np.ndarray:
    """D = N T (N, N), exact; its columns sum to 1, and their mean is w."""
    count = len(f_NF)
    cost_NN = ot.dist(f_NF, f_NF)
    return count * ot.emd(w_N / w_N.sum(), np.full(count, 1 / count), cost_NN)


def mixed(D_NN: np.ndarray, w_N: np.ndarray) -> list[int]:
    """The columns that are no sibling again, the most promising first: by the weight that they give to heavy siblings.

    Noises of siblings are orthogonal, nearly, so the cosine of a column with sibling i is D_ij / ||D_j||.
    """
    norm_N = np.linalg.norm(D_NN, axis=0)
    promise_N = w_N @ D_NN / norm_N
    fair = [j for j in range(len(D_NN)) if D_NN[:, j].max() <= COPY * norm_N[j]]
    return sorted(fair, key=lambda j: (-promise_N[j], j))
