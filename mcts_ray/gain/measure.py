"""How good an IGE is on states of held-out prompts: prediction by target, jump and level; what the chosen jumps are worth, and regret.

Net value of a jump from a state: E[R] - c (calls to finish), both by the completions that were recorded, so that no gain is paid for by
another policy's calls. The best jump of a state is chosen on one half of its completions and valued on the other, or the winner's luck
would count as its worth. All rules are judged on the same states and jumps (`fair`).

Legend: N states, K jumps, J completions, M targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import stats

from mcts_ray.gain.evaluator import predict
from mcts_ray.gain.folder import Config
from mcts_ray.gain.learn import Examples
from mcts_ray.gain.network import GainNetwork
from mcts_ray.gain.targets import Transitions

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
        true_NK = mean_of(examples.targets[name].numpy())
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


def fair(data: Transitions, jumps: Sequence[int]) -> tuple[Transitions, np.ndarray]:
    """The states (their rows) at which jumps can be compared, with what all jumps share.

    Children without noise are left out, and jumps that end at level 0, where noise changes nothing and no search may choose them: their
    rewards are NaN, their calls -1. Of each other jump, at least two, both halves of the children must be there.
    """
    noisy_NKJ = data.reward[:, :, 1:].copy()
    open_NK = np.asarray(jumps)[None] < data.level[:, None]
    noisy_NKJ[~open_NK] = np.nan
    there_NK = np.all([np.isfinite(noisy_NKJ[:, :, half::2]).any(2) for half in (0, 1)], axis=0)
    rows = np.flatnonzero((there_NK | ~open_NK).all(1) & (open_NK.sum(1) > 1))
    return replace(data, reward=noisy_NKJ, calls=np.where(open_NK, data.calls, -1)).take(rows), rows


def chosen(mean_NKM: np.ndarray, config: Config, calls_NK: np.ndarray, target: str, price: float) -> np.ndarray:
    """The jump (its place in `jumps`) that a search would choose greedily for each state, on a target; calls: -1 for jumps left out."""
    unit_K = np.array([config.worth[target] * (k if target == "reward_rate" else 1) for k in config.jumps])
    gain_NK = unit_K * mean_NKM[:, :, config.targets.index(target)]
    return best_places(gain_NK - price * _known(calls_NK))


def rules_of(mean_NKM: np.ndarray, config: Config, data: Transitions, price: float) -> dict[str, np.ndarray]:
    """The jumps (their places) at states, `fair` ones, by every rule: the IGE on each target, the table, each constant."""
    rules = {f"ige {name}": chosen(mean_NKM, config, data.calls, name, price) for name in config.targets}
    rules["table"] = fixed_places(config.jumps, data.level, [config.table[level - 1] for level in data.level])
    return rules | {f"k={k}": fixed_places(config.jumps, data.level, [k] * len(data)) for k in config.jumps}


def best_places(net_NK: np.ndarray) -> np.ndarray:
    """The place of the highest of each row, of equal ones the last, that is the largest jump."""
    filled = np.where(np.isfinite(net_NK), net_NK, -np.inf)
    return net_NK.shape[1] - 1 - filled[:, ::-1].argmax(1)


def fixed_places(jumps: Sequence[int], level_N: np.ndarray, wanted_N: Sequence[int]) -> np.ndarray:
    """For each state the place of the largest jump of at most `wanted` that does not end at level 0."""
    most_N = np.minimum(wanted_N, level_N - 1).tolist()
    return np.array([max(place for place, k in enumerate(jumps) if k <= most) for most in most_N])


def net_value(data: Transitions, jumps: Sequence[int], price: float) -> np.ndarray:
    """Net values of completions (N, K, J), over that of k = 1 at the same noise."""
    first = list(jumps).index(1)
    pay_NK = _known(data.calls)
    gain_NKJ = data.reward - data.reward[:, [first]]
    return gain_NKJ - price * (pay_NK - pay_NK[:, [first]])[:, :, None]


def regret(net_NKJ: np.ndarray, places_N: np.ndarray) -> np.ndarray:
    """(N,): by how much the jumps at `places` are worse than the best, found on one half of the completions and valued on the other,
    both ways round."""
    halves = [mean_of(net_NKJ[:, :, half::2]) for half in (0, 1)]
    rows = np.arange(len(places_N))
    found = [worth_NK[rows, best_places(seen_NK)] - worth_NK[rows, places_N] for seen_NK, worth_NK in (halves, halves[::-1])]
    return (found[0] + found[1]) / 2


def _known(calls_NK: np.ndarray) -> np.ndarray:
    return np.where(calls_NK < 0, np.nan, calls_NK)


def mean_of(value_NKJ: np.ndarray) -> np.ndarray:
    """Over J, of those that are there; NaN where none is."""
    known = np.isfinite(value_NKJ)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, value_NKJ, 0.0).sum(2) / known.sum(2)
