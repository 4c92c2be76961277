"""Resampling of weighted particles: which of them go on, and how often. Weights are logarithms throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Resample = Callable[[Sequence[float], np.random.Generator], list[int]]


def normalised(log_weight_K: Sequence[float]) -> np.ndarray:
    """Weights (K,) that sum to 1; equal ones where none is above zero. Never leaves the logarithm before the largest is taken off."""
    log_K = np.asarray(log_weight_K, float)
    if not len(log_K) or not np.isfinite(log_K.max()):
        return np.full(len(log_K), 1 / max(1, len(log_K)))
    weight_K = np.exp(log_K - log_K.max())
    return weight_K / weight_K.sum()


def effective_size(log_weight_K: Sequence[float]) -> float:
    """ESS = (sum W)^2 / sum W^2."""
    return float(1 / np.square(normalised(log_weight_K)).sum())


def multinomial(log_weight_K: Sequence[float], rng: np.random.Generator) -> list[int]:
    """K independent draws in proportion to the weights, in ascending order."""
    weight_K = normalised(log_weight_K)
    return sorted(rng.choice(len(weight_K), len(weight_K), p=weight_K).tolist())


def srinivasan(log_weight_K: Sequence[float], rng: np.random.Generator) -> list[int]:
    """Srinivasan sampling process (SSP; Gerber, Chopin and Whiteley, arXiv 1708.04221): a particle of weight W is taken
    floor(K W) or ceil(K W) times, K W on average."""
    expected_K = len(log_weight_K) * normalised(log_weight_K)
    count_K = np.floor(expected_K + 1e-12).astype(int)
    rest_K = np.clip(expected_K - count_K, 0, 1)
    open_, *others = range(len(rest_K))
    for other in others:  # one of each pair becomes whole
        p, q = rest_K[open_], rest_K[other]
        up, down = min(1 - p, q), min(p, 1 - q)
        if up + down <= 1e-12:
            moved = 0.0
        else:
            moved = up if rng.random() < down / (up + down) else -down
        rest_K[open_], rest_K[other] = p + moved, q - moved
        for index in (open_, other):
            if rest_K[index] > 1 - 1e-9:
                count_K[index], rest_K[index] = count_K[index] + 1, 0.0
        open_ = open_ if rest_K[open_] > 1e-9 else other
    if count_K.sum() < len(count_K):  # what rounding has left over
        count_K[open_] += 1
    return np.repeat(np.arange(len(count_K)), count_K).tolist()


def top(log_weight_K: Sequence[float], rng: np.random.Generator) -> list[int]:
    """The better half, each twice; of an odd number the last one once. Nothing is drawn."""
    best_K = sorted(range(len(log_weight_K)), key=lambda k: -log_weight_K[k])
    return sorted(best_K[place // 2] for place in range(len(best_K)))


RESAMPLERS: dict[str, Resample] = {"multinomial": multinomial, "ssp": srinivasan, "top": top}
