"""The statistics of a comparison; prompts are what is resampled, so seeds are averaged within a prompt first.

Legend: P prompts, N samples of a pool per prompt, D bootstrap draws. A value that is not known is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np

DRAWS = 4000
Interval = tuple[float, float, float]


def interval(value_P: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Mean over prompts with a 95 % bootstrap interval (prompts resampled): (mean, low, high); of differences: paired."""
    rng = np.random.default_rng(seed)
    means = value_P[rng.integers(0, len(value_P), (draws, len(value_P)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return tuple(round(float(v), 4) for v in (value_P.mean(), low, high))


def known_interval(value_P: np.ndarray) -> Interval | None:
    """`interval` over the prompts whose value is known, or None if none is."""
    known = value_P[np.isfinite(value_P)]
    return interval(known) if len(known) else None


@cache
def _chances(count: int, n: int) -> np.ndarray:
    """Chance that the r-th best of `count` is the best of n drawn from them without replacement: (count,)."""
    return np.array([comb(count - 1 - r, n - 1) / comb(count, n) for r in range(count)])


def best_of(rank_by_PN: np.ndarray, value_PN: np.ndarray, n: int) -> np.ndarray:
    """Expected value of the sample that `rank_by` puts first among n drawn without replacement: (P,).

    Exact: with the samples sorted by `rank_by`, the r-th best (r = 0, 1, ...) is the best of a random subset with
    probability C(N-1-r, n-1) / C(N, n).
    """
    order = np.argsort(-rank_by_PN, 1, kind="stable")
    return np.take_along_axis(value_PN, order, 1) @ _chances(rank_by_PN.shape[1], n)


def best_of_each(rank_by_PN: np.ndarray, value_PN: np.ndarray) -> np.ndarray:
    """`best_of` for n = 1 ... N: (P, N)."""
    return np.stack([best_of(rank_by_PN, value_PN, n + 1) for n in range(rank_by_PN.shape[1])], 1)


def within_sd(value_PN: np.ndarray) -> float:
    """Standard deviation of single samples within a prompt, root mean square over prompts; 0 for what only rounding tells apart."""
    found = float(np.sqrt(value_PN.var(1, ddof=1).mean()))
    return found if found > 1e-9 * np.abs(value_PN).max() else 0.0


@dataclass(frozen=True)
class Multiplier:
    """The budget that best-of-n needs for the same value, over the budget spent.

    ratio, low, high: infinity where best-of-n never gets there with the N samples of its pool, zero where one sample is
    enough already; `most` is the ratio at n = N and `least` that at n = 1, so the truth is then beyond them.
    """

    ratio: float
    low: float
    high: float
    least: float
    most: float

    def text(self, value: float) -> str:
        """A ratio in words."""
        if np.isinf(value):
            return f"> {self.most:.2g}"
        return f"< {self.least:.2g}" if value == 0 else f"{value:.2g}"

    def to_dict(self) -> dict:
        """For JSON: the ratio (null where it is beyond the pool) and its interval in words."""
        beyond = np.isinf(self.ratio) or self.ratio == 0
        words = {name: self.text(getattr(self, name)) for name in ("low", "high")}
        return {"ratio": None if beyond else round(self.ratio, 3), "text": self.text(self.ratio), **words}


def multiplier(value_P: np.ndarray, reach_PN: np.ndarray, cost: float, spent: float, draws: int = 1000, seed: int = 0) -> Multiplier:
    """Compute multiplier of a search with `value_P` at `spent` NFE; `reach_PN`: best-of-n for every n at `cost` NFE a sample.

    The n at which the mean over prompts first reaches that of the search is interpolated on log n; the interval resamples
    prompts, the same ones for both.
    """
    rng = np.random.default_rng(seed)
    chosen_DP = np.vstack([np.arange(len(value_P)), rng.integers(0, len(value_P), (draws, len(value_P)))])
    share_DP = np.stack([np.bincount(row, minlength=len(value_P)) for row in chosen_DP]) / len(value_P)
    n_D = _first_n(share_DP @ value_P, share_DP @ reach_PN)
    ratio_D = n_D * cost / spent
    low, high = np.quantile(ratio_D[1:], [0.025, 0.975], method="nearest")  # infinities are not interpolated
    return Multiplier(float(ratio_D[0]), float(low), float(high), cost / spent, reach_PN.shape[1] * cost / spent)


def _first_n(value_D: np.ndarray, reach_DN: np.ndarray) -> np.ndarray:
    """The n, interpolated on log n, at which rows first reach their values: 0 below n = 1, infinity beyond N."""
    reached_DN = reach_DN >= value_D[:, None] - 1e-9
    at_D = reached_DN.argmax(1)
    rows = np.arange(len(value_D))
    before_D = np.maximum(at_D - 1, 0)
    low_D, high_D = reach_DN[rows, before_D], reach_DN[rows, at_D]
    part_D = np.divide(value_D - low_D, high_D - low_D, out=np.ones(len(rows)), where=high_D > low_D).clip(0, 1)
    n_D = np.exp(np.log(before_D + 1) + part_D * (np.log(at_D + 1) - np.log(before_D + 1)))
    n_D[at_D == 0] = np.where(np.abs(value_D - reach_DN[:, 0]) <= 1e-9, 1.0, 0.0)[at_D == 0]
    n_D[~reached_DN.any(1)] = np.inf
    return n_D
