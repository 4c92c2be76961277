"""How good an IGE is on states of held-out prompts: prediction by target, jump and level; what the chosen jumps are worth, and regret.

Net value of a jump from a state: E[R] - c (calls to finish). The best jump of a state is chosen on one half of its completions and valued
on the other, or the winner's luck would count as its worth.

Legend: N states, K jumps, J completions, M targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats

from mcts_ray.gain.evaluator import predict
from mcts_ray.gain.folder import Config
from mcts_ray.gain.learn import Examples
from mcts_ray.gain.network import GainNetwork
from mcts_ray.gain.policy import Table, path

ROWS = 512  # at once


@torch.no_grad()
def predictions(network: GainNetwork, config: Config, examples: Examples) -> np.ndarray:
    """Means of all targets in their own units (N, K, M), NaN for jumps beyond level 0."""
    device, parts = network.center.device, []
    for at in range(0, len(examples), ROWS):
        part = examples.take(np.arange(at, min(at + ROWS, len(examples))))
        parts.append(predict(network, config, part.features.float().to(device), part.level.tolist())[0].cpu().numpy())
    mean_NKM = np.concatenate(parts).astype(float)
    mean_NKM[examples.level[:, None] < np.array(config.jumps)[None]] = np.nan
    return mean_NKM


def quality(mean_NKM: np.ndarray, config: Config, examples: Examples) -> dict[str, dict]:
    """By target: `all` its figures, over `k` and over `level`."""
    found = {}
    for m, name in enumerate(config.targets):
        true_NK = _mean(examples.targets[name].numpy())
        moving = [place for place, k in enumerate(config.jumps) if not (k == 1 and name in ("value", "jump_error"))]
        by_k = {str(config.jumps[place]): figures(mean_NKM[:, place, m], true_NK[:, place]) for place in moving}
        by_level = {}
        for level in sorted(set(examples.level.tolist()), reverse=True):
            rows = examples.level == level
            by_level[str(level)] = figures(mean_NKM[rows][:, moving, m].ravel(), true_NK[rows][:, moving].ravel())
        whole = figures(mean_NKM[:, moving, m].ravel(), true_NK[:, moving].ravel())
        found[name] = {"all": whole, "k": by_k, "level": by_level}
    return found


def figures(mean: np.ndarray, true: np.ndarray) -> dict[str, float | int | None]:
    """R^2, Spearman's rank correlation and how many there are."""
    known = np.isfinite(mean) & np.isfinite(true)
    mean, true = mean[known], true[known]
    if len(true) < 3 or np.ptp(true) == 0:
        return {"r2": None, "spearman": None, "count": len(true)}
    rank = float(stats.spearmanr(mean, true).statistic) if np.ptp(mean) > 0 else 0.0
    return {"r2": float(1 - ((true - mean) ** 2).sum() / ((true - true.mean()) ** 2).sum()), "spearman": rank, "count": len(true)}


def chosen(mean_NKM: np.ndarray, config: Config, level_N: np.ndarray, target: str, price: float) -> np.ndarray:
    """The jump (its place in `jumps`) that a search would choose greedily for each state, on a target, with n of the table."""
    unit_K = np.array([config.worth[target] * (k if target == "reward_rate" else 1) for k in config.jumps])
    gain_NK = unit_K * mean_NKM[:, :, config.targets.index(target)]
    return best_places(gain_NK - price * to_pay(config, level_N))


def best_places(net_NK: np.ndarray) -> np.ndarray:
    """The place of the highest of each row, of equal ones the last, that is the largest jump."""
    filled = np.where(np.isfinite(net_NK), net_NK, -np.inf)
    return net_NK.shape[1] - 1 - filled[:, ::-1].argmax(1)


def to_pay(config: Config, level_N: np.ndarray) -> np.ndarray:
    """n(a - k) (N, K) under the table, NaN for jumps beyond level 0."""
    calls = [len(path(Table(config.table), level)) - 1 for level in range(config.levels + 1)]
    return np.array([[calls[level - k] if k <= level else np.nan for k in config.jumps] for level in level_N.tolist()])


def fixed_places(jumps: Sequence[int], level_N: np.ndarray, wanted_N: Sequence[int]) -> np.ndarray:
    """The place of the largest jump of at most `wanted` and the level, for each state."""
    return np.array([max(place for place, k in enumerate(jumps) if k <= min(want, level)) for want, level in zip(wanted_N, level_N.tolist())])


def net_value(reward_NKJ: np.ndarray, level_N: np.ndarray, config: Config, price: float) -> np.ndarray:
    """Net values of completions (N, K, J), over that of k = 1 at the same noise."""
    first = config.jumps.index(1)
    pay_NK = to_pay(config, level_N)
    gain_NKJ = reward_NKJ - reward_NKJ[:, [first]]
    return gain_NKJ - price * (pay_NK - pay_NK[:, [first]])[:, :, None]


def regret(net_NKJ: np.ndarray, places_N: np.ndarray) -> np.ndarray:
    """(N,): by how much the jumps at `places` are worse than the best, found on one half of the completions and valued on the other,
    both ways round. NaN where a half is empty."""
    halves = [_mean(net_NKJ[:, :, half::2]) for half in (0, 1)]
    rows = np.arange(len(places_N))
    found = [worth_NK[rows, best_places(seen_NK)] - worth_NK[rows, places_N] for seen_NK, worth_NK in (halves, halves[::-1])]
    return (found[0] + found[1]) / 2


def _mean(value_NKJ: np.ndarray) -> np.ndarray:
    """Over J, of those that are there; NaN where none is."""
    known = np.isfinite(value_NKJ)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, value_NKJ, 0.0).sum(2) / known.sum(2)
