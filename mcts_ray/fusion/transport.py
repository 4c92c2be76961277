"""Images as clouds of patch tokens with positions, their exact barycenter, and the image at the barycenter's places.

A latent is cut into at most 16 x 16 patches; a token is what a patch holds and where it is, a point (f_k, lambda p_k). The
free-support Wasserstein barycenter of N such clouds with weights w minimises sum_i w_i W2^2(y, m_i) over the K points of y; the
fixed point y_k <- sum_i w_i T_i(y_k) (Alvarez-Esteban et al. 2016; Cuturi and Doucet, arXiv 1310.4375) lowers it in each step,
T_i being the optimal assignment of y to cloud i (a permutation, as weights are equal; scipy's solver finds that of `ot.emd` in
half of the time). Read back by displacement: the mean patch of token k is laid down at its mean place, spread bilinearly over
cells, and holes take the nearest cell.

lambda = sqrt(2 Var(f)) / rho: rho tokens of distance cost as much as two contents that have nothing to do with each other.

Shapes: N clouds of K = h w tokens, patches of p x q cells of C-channel, H x W latents; F numbers per token, fp32 in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from mcts_ray.tree.weights import Refusal

SIDE = 16  # tokens along a side, at most
REACH = 6 / 16  # rho, as a share of the side
ITERATIONS = 2  # of the fixed point; further ones hardly move a token
LIGHT = 1e-3  # share of the weight below which a particle is left out
STILL = 0.1  # share of tokens that must move, or the barycenter is the mean
ROUNDING = 1e-6  # of objectives, as a share
HOLE = 1e-3  # mass below which nothing has been laid down on a cell


@dataclass(frozen=True)
class Grid:
    """How H x W cells are cut: min(SIDE, H) x min(SIDE, W) patches, the last ones filled up where a side is no multiple."""

    H: int
    W: int

    @property
    def patch(self) -> tuple[int, int]:
        """(p, q)."""
        return math.ceil(self.H / SIDE), math.ceil(self.W / SIDE)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return min(SIDE, self.H), min(SIDE, self.W)

    @property
    def places_K2(self) -> np.ndarray:
        """Where the tokens are, in tokens."""
        return np.stack(np.meshgrid(*map(np.arange, self.size), indexing="ij"), -1).reshape(-1, 2).astype(float)

    def cut(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Patches (N, K, C, p, q) fp32."""
        (p, q), (h, w) = self.patch, self.size
        x_NCHW = F.pad(x_NCHW.float(), (0, w * q - self.W, 0, h * p - self.H), mode="replicate")
        return x_NCHW.unflatten(3, (w, q)).unflatten(2, (h, p)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

    def lay_down(self, patch_KCpq: torch.Tensor, at_K2: np.ndarray) -> torch.Tensor:
        """The image (C, H, W) of patches at places, in tokens: bilinear, divided by mass, holes filled from the nearest cell."""
        (p, q), (h, w) = self.patch, self.size
        inside = np.stack(np.meshgrid(np.arange(p), np.arange(q), indexing="ij"), -1)
        cell_2M = (at_K2[:, None, None] * (p, q) + inside).reshape(-1, 2).T
        value_CM = patch_KCpq.permute(1, 0, 2, 3).flatten(1)
        sum_CM, mass_M = torch.zeros(len(value_CM), h * p * w * q), torch.zeros(h * p * w * q)
        low_2M = np.floor(cell_2M).astype(int)
        high_2M, past_2M = np.minimum(low_2M + 1, [[h * p - 1], [w * q - 1]]), (cell_2M - low_2M).astype(np.float32)
        rows, columns = (((low, 1 - past), (high, past)) for low, high, past in zip(low_2M, high_2M, past_2M))
        for (row_M, by_row_M), (column_M, by_column_M) in product(rows, columns):
            index_M, share_M = torch.from_numpy(row_M * w * q + column_M), torch.from_numpy(by_row_M * by_column_M)
            sum_CM.index_add_(1, index_M, value_CM * share_M)
            mass_M.index_add_(0, index_M, share_M)
        image = (sum_CM / mass_M.clamp_min(HOLE)).unflatten(1, (h * p, w * q))
        return _filled(image, mass_M.unflatten(0, (h * p, w * q)) < HOLE)[:, : self.H, : self.W]


def _filled(image_CHW: torch.Tensor, hole_HW: torch.Tensor) -> torch.Tensor:
    if not hole_HW.any():
        return image_CHW
    row_HW, column_HW = distance_transform_edt(hole_HW.numpy(), return_distances=False, return_indices=True)
    return image_CHW[:, torch.from_numpy(row_HW), torch.from_numpy(column_HW)]


def clouds(content_NKF: torch.Tensor, grid: Grid) -> np.ndarray:
    """Tokens (N, K, F + 2): contents, and places in the unit that REACH makes of them."""
    content_NKF = content_NKF.float()
    content_NKF = (content_NKF - content_NKF.mean((0, 1))).numpy()  # what all have in common would drown the rest in fp32
    variance = content_NKF.var((0, 1)).sum()
    rho = REACH * math.sqrt(math.prod(grid.size))
    scale = math.sqrt(2 * variance) / rho or 1.0
    places_NK2 = np.broadcast_to((scale * grid.places_K2).astype(np.float32), (*content_NKF.shape[:2], 2))
    return np.concatenate([content_NKF, places_NK2], -1)


def free_support(
    cloud_NKF: np.ndarray, w_N: np.ndarray, start_KF: np.ndarray, iterations: int = ITERATIONS
) -> tuple[np.ndarray, np.ndarray]:
    """(y, T): the barycenter's points (K, F) from `start_KF`, and for each cloud the token that each of them is assigned to (N, K).

    y is the mean, with weights w that sum to 1, of the tokens in T; it stops early where T stays as it was.
    """
    y_KF, plan_NK = start_KF, None
    for _ in range(iterations):
        before, plan_NK = plan_NK, np.stack([assignment(y_KF, cloud_KF) for cloud_KF in cloud_NKF])
        if before is not None and np.array_equal(before, plan_NK):
            break
        y_KF = np.tensordot(w_N, taken(cloud_NKF, plan_NK), 1)
    return y_KF, plan_NK


def assignment(y_KF: np.ndarray, cloud_KF: np.ndarray) -> np.ndarray:
    """The optimal assignment of y's points to a cloud's (K,). Where every point may have its nearest one, that is it."""
    cost_KK = half_distances(y_KF, cloud_KF)
    nearest_K, count = cost_KK.argmin(1), len(cost_KK)
    if len(np.unique(nearest_K)) == count:
        return nearest_K
    cost_KK -= cost_KK[np.arange(count), nearest_K, None]
    return linear_sum_assignment(cost_KK.T)[1].argsort()  # costs less these minima, and turned, take the solver a quarter less time


def half_distances(y_KF: np.ndarray, cloud_KF: np.ndarray) -> np.ndarray:
    """Half of the squared distances (K, K), but for |y|^2 / 2, which no plan changes."""
    return np.square(cloud_KF).sum(1) / 2 - y_KF @ cloud_KF.T


def taken(cloud_NKF: np.ndarray, plan_NK: np.ndarray) -> np.ndarray:
    """The tokens of each cloud (N, K, F) that a plan assigns."""
    return cloud_NKF[np.arange(len(cloud_NKF))[:, None], plan_NK]


def objective(y_KF: np.ndarray, cloud_NKF: np.ndarray, w_N: np.ndarray) -> float:
    """sum_i w_i W2^2(y, m_i)."""
    costs = [np.square(y_KF - cloud_KF[assignment(y_KF, cloud_KF)]).sum(1).mean() for cloud_KF in cloud_NKF]
    return float(w_N @ costs)


def lowest(cloud_NKF: np.ndarray, w_N: np.ndarray, anchor: int) -> np.ndarray | None:
    """The tokens (N, K) of a fixed point with an objective no higher than that of any cloud and of their mean; None if none is found.

    A fixed point is a local minimum: where that from the cloud `anchor` is above the mean, the one from the mean is tried.
    """
    mean_KF = np.tensordot(w_N, cloud_NKF, 1)
    for start_KF, rivals in ((cloud_NKF[anchor], [mean_KF, *np.delete(cloud_NKF, anchor, 0)]), (mean_KF, cloud_NKF)):
        y_KF, plan_NK = free_support(cloud_NKF, w_N, start_KF)
        if beats(y_KF, plan_NK, rivals, cloud_NKF, w_N):
            return plan_NK
    return None


def beats(y_KF: np.ndarray, plan_NK: np.ndarray, rivals: Sequence[np.ndarray], cloud_NKF: np.ndarray, w_N: np.ndarray) -> bool:
    """Whether no rival (K, F) has a lower objective than y, with the tokens in `plan_NK` assigned to it.

    Bounds settle most of it without a solver: y costs no more than by its plan, a rival no less than by its nearest tokens in the
    heaviest clouds.
    """
    away_NKF = y_KF - taken(cloud_NKF, plan_NK)
    most = float(w_N @ np.einsum("nkf,nkf->n", away_NKF, away_NKF)) / len(y_KF)
    left = [rival_KF for rival_KF in rivals if not _costs(rival_KF, cloud_NKF, w_N, most)]
    value = objective(y_KF, cloud_NKF, w_N) if left else most
    return all(value <= objective(rival_KF, cloud_NKF, w_N) + ROUNDING * value for rival_KF in left)


def _costs(y_KF: np.ndarray, cloud_NKF: np.ndarray, w_N: np.ndarray, most: float) -> bool:
    """Whether the objective of y is surely `most` or more, with a margin for what is rounded off."""
    least, own = 0.0, np.square(y_KF).sum(1).mean()
    for i in np.argsort(-w_N):
        least += float(w_N[i] * (own + 2 * half_distances(y_KF, cloud_NKF[i]).min(1).mean()))
        if least >= 1.001 * most:
            return True
    return False


def displaced(content_NKF: torch.Tensor, x0_NCHW: torch.Tensor, w_N: torch.Tensor) -> torch.Tensor | Refusal:
    """The barycenter (C, H, W), fp32, of predictions whose tokens are matched by `content_NKF`; the heaviest one is the start.

    STILL if fewer than a tenth of the tokens of the others are matched to another place, for a single one, and where no better
    barycenter is found than their mean or one of them.
    """
    grid, w_N = Grid(*x0_NCHW.shape[2:]), w_N.float().numpy()
    cloud_NKF, anchor = clouds(content_NKF, grid), int(w_N.argmax())
    w_N = w_N / w_N.sum()
    plan_NK = lowest(cloud_NKF, w_N, anchor)
    if len(w_N) < 2 or plan_NK is None or moved(plan_NK) < STILL:
        return Refusal.STILL
    return read_back(plan_NK, x0_NCHW, w_N, grid)


def moved(plan_NK: np.ndarray) -> float:
    """Share of the tokens that are matched to another place, of all clouds but the one that stays most as it was, the start."""
    away_N = (plan_NK != np.arange(plan_NK.shape[1])).mean(1)
    return float((away_N.sum() - away_N.min()) / (len(away_N) - 1))


def read_back(plan_NK: np.ndarray, x0_NCHW: torch.Tensor, w_N: np.ndarray, grid: Grid) -> torch.Tensor:
    """The mean patches of assigned tokens, laid down at their mean places."""
    patch_NKCpq = grid.cut(x0_NCHW)
    mean_KCpq = sum(float(w) * patch_KCpq[torch.from_numpy(plan_K)] for w, patch_KCpq, plan_K in zip(w_N, patch_NKCpq, plan_NK))
    at_K2 = np.einsum("n,nkd->kd", w_N, grid.places_K2[plan_NK])
    return grid.lay_down(mean_KCpq, at_K2)
