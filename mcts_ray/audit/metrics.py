"""How well scores rank and predict, within prompts: prompts are never pooled, since differences between them are easy to see.

Legend: P prompts (or parents), N samples of one (or children), M completions of a state or pairs, per function. A prompt of which a
figure cannot be told (all targets equal) is NaN; equal scores of different targets tell nothing: 0. ValueError for input
that is not finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata

from mcts_ray.compare.figures import best_of
from mcts_ray.reward.calibrate import FOLDS, fit_map, held_out

BINS = 15
ALIKE = 1e-18  # of the sum of squares of numbers: that of their deviations, where only rounding tells them apart
COVERED = 1.959964  # standard deviations of a 95 % interval


def check_finite(**arrays: np.ndarray) -> None:
    """ValueError for the first array with NaN or infinite entries, saying where."""
    for name, values in arrays.items():
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            where = ", ".join(map(str, bad[0]))
            raise ValueError(f"{name.replace('_', ' ')} holds {len(bad)} entries that are not finite, the first at [{where}]")


def check_gold(guide_PN: np.ndarray, gold_PN: np.ndarray) -> None:
    """ValueError if gold orders all samples exactly as the guide does: then it is the guide under another name, or nothing."""
    if np.allclose(guide_PN, gold_PN, rtol=1e-6, atol=1e-9):
        raise ValueError("gold gave every image the score of the guide: a guide that judges itself is always right; choose another gold")
    rank = spearman(guide_PN, gold_PN)
    known = rank[np.isfinite(rank)]
    if len(known) and (known > 1 - 1e-9).all():
        raise ValueError(
            "gold puts all images in exactly the order of the guide, so it is the guide under another name; choose another gold"
        )


def pearson(score_PN: np.ndarray, target_PN: np.ndarray) -> np.ndarray:
    """Correlation within each prompt: (P,)."""
    score_PN, target_PN = np.asarray(score_PN, float), np.asarray(target_PN, float)
    a, b = (v - v.mean(1, keepdims=True) for v in (score_PN, target_PN))
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), spread, out=_nothing((b**2).sum(1) > ALIKE * (target_PN**2).sum(1)), where=spread > 1e-12)


def spearman(score_PN: np.ndarray, target_PN: np.ndarray) -> np.ndarray:
    """Rank correlation within each prompt, ties by their mean rank: (P,)."""
    check_finite(score=score_PN, target=target_PN)
    return pearson(rankdata(score_PN, axis=1), rankdata(target_PN, axis=1))


def _nothing(varied_P: np.ndarray) -> np.ndarray:
    """The figure of scores that tell nothing: 0 where targets are `varied`, else NaN."""
    return np.where(varied_P, 0.0, np.nan)


def _signs(value_PN: np.ndarray) -> np.ndarray:
    """Sign of each ordered difference: (P, N, N)."""
    return np.sign(value_PN[:, :, None] - value_PN[:, None, :])


def kendall(score_PN: np.ndarray, target_PN: np.ndarray) -> np.ndarray:
    """Kendall's tau-b within each prompt: (P,)."""
    check_finite(score=score_PN, target=target_PN)
    a, b = _signs(score_PN), _signs(target_PN)
    spread = np.sqrt(np.abs(a).sum((1, 2)) * np.abs(b).sum((1, 2)))
    return np.divide((a * b).sum((1, 2)), spread, out=_nothing(np.abs(b).sum((1, 2)) > 0), where=spread > 0)


def pairwise_accuracy(score_PN: np.ndarray, target_PN: np.ndarray) -> np.ndarray:
    """Share of a prompt's pairs with different targets that scores put in order, equal scores counting .5: (P,)."""
    check_finite(score=score_PN, target=target_PN)
    order = _signs(target_PN)
    right = (_signs(score_PN) * order + 1) / 2
    told = order != 0
    pairs = told.sum((1, 2))
    return np.divide((right * told).sum((1, 2)), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def margins(score_PN: np.ndarray, target_PN: np.ndarray) -> np.ndarray:
    """S_w - S_l of all pairs within prompts whose targets differ, w having the higher one: (M,)."""
    check_finite(score=score_PN, target=target_PN)
    return (score_PN[:, :, None] - score_PN[:, None, :])[_signs(target_PN) > 0]


def temperature(margin_M: np.ndarray) -> float:
    """The t that minimises the mean of -ln sigmoid(margin / t) (Guo et al., arXiv 1706.04599).

    Infinite if scores order no better than chance.
    """
    scale = float(np.abs(margin_M).mean()) if len(margin_M) else 0.0
    if scale == 0 or margin_M.mean() <= 0:  # the slope of the likelihood at 1/t = 0
        return float("inf")

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0, -margin_M / (scale * np.exp(log_t))).mean())

    return scale * float(np.exp(minimize_scalar(loss, bounds=(-7, 12), method="bounded").x))


def calibration_error(margin_M: np.ndarray, t: float) -> tuple[float, float]:
    """Expected calibration error, in BINS equal bins of max(p, 1 - p), and Brier score of p = sigmoid(margin / t).

    ECE = sum_b n_b / n |accuracy_b - confidence_b|; of a margin of 0 half is right.
    """
    if not len(margin_M):
        return float("nan"), float("nan")
    p = expit(margin_M / t)
    confidence, right = np.maximum(p, 1 - p), (np.sign(margin_M) + 1) / 2
    place = np.minimum((2 * (confidence - 0.5) * BINS).astype(int), BINS - 1)
    gap = np.bincount(place, right - confidence, BINS)
    return float(np.abs(gap).sum() / len(margin_M)), float(((1 - p) ** 2).mean())


def kept_best(score_PN: np.ndarray, target_PN: np.ndarray, share: float) -> np.ndarray:
    """Whether the sample of the highest target is among the best `share` by score, of several such the mean: (P,)."""
    keep = max(1, round(share * score_PN.shape[1]))
    kept = np.zeros(score_PN.shape, bool)
    np.put_along_axis(kept, np.argsort(-score_PN, 1, kind="stable")[:, :keep], True, 1)
    best = target_PN >= target_PN.max(1, keepdims=True)
    return (kept & best).sum(1) / best.sum(1)


def picked(score_PN: np.ndarray, target_PN: np.ndarray, n: int = 4) -> np.ndarray:
    """What the best by score of n samples has above the mean, in standard deviations within a prompt (pooled): (P,)."""
    sd = np.sqrt(target_PN.var(1, ddof=1).mean())
    gain = best_of(score_PN, target_PN, n) - target_PN.mean(1)
    return gain / sd if sd > 0 else np.full(len(gain), np.nan)


@dataclass(frozen=True)
class Explained:
    """How well E[R | S, i] predicts prompts it was not fitted to.

    r2: 1 - squared error / that of the mean reward of the other prompts (a level-only predictor). within: the same after each
    prompt's own mean is taken from both. coverage: share of rewards in the 95 % interval by Var[R | S, i]. intercept: of the line
    through all, its value at the mean score, and slope.
    """

    r2: float
    within: float
    coverage: float
    intercept: float
    slope: float


def explained(score_PN: np.ndarray, reward_PN: np.ndarray, kind: str = "linear") -> Explained:
    """Fitted on one half of the prompts and held against the other, both ways. NaN with fewer than two prompts, or equal rewards."""
    knots, values = fit_map(score_PN.ravel(), reward_PN.ravel(), "linear")
    slope = float((values[-1] - values[0]) / (knots[-1] - knots[0])) if len(knots) > 1 else 0.0
    intercept = float(np.interp(score_PN.mean(), knots, values))
    if len(reward_PN) < FOLDS or reward_PN.var() < 1e-12:
        return Explained(*[float("nan")] * 3, intercept, slope)
    error_PN = reward_PN - held_out(score_PN, reward_PN, kind)
    fold_P = np.arange(len(reward_PN)) % FOLDS
    mean_P = np.array([reward_PN[fold_P != fold].mean() for fold in fold_P])
    sd_P = np.array([error_PN[fold_P != fold].std() for fold in fold_P])
    own = (reward_PN - reward_PN.mean(1, keepdims=True)) ** 2
    centred = (error_PN - error_PN.mean(1, keepdims=True)) ** 2
    r2 = 1 - (error_PN**2).sum() / ((reward_PN - mean_P[:, None]) ** 2).sum()
    within = 1 - centred.sum() / own.sum() if own.sum() > 0 else float("nan")
    return Explained(float(r2), float(within), float((np.abs(error_PN) <= COVERED * sd_P[:, None]).mean()), intercept, slope)


@dataclass(frozen=True)
class Components:
    """Variance of completions: `between` states and `within` one state, `completions` of each."""

    between: float
    within: float
    completions: int

    @property
    def icc(self) -> float:
        """Share of the variance that the states decide."""
        total = self.between + self.within
        return self.between / total if total > 0 else float("nan")

    @property
    def ceiling(self) -> float:
        """sqrt(ICC): the highest correlation that any score of a state can have with one completion of it."""
        return float(np.sqrt(self.icc))

    @property
    def ceiling_of_means(self) -> float:
        """The highest correlation with the mean of the completions, itself a noisy one."""
        noisy = self.between + self.within / self.completions
        return float(np.sqrt(self.between / noisy)) if noisy > 0 else float("nan")


def components(value_PCM: np.ndarray) -> Components:
    """One-way analysis of variance of C children x M completions, pooled over P parents; unbiased, between floored at 0."""
    check_finite(completions=value_PCM)
    M = value_PCM.shape[2]
    between = M * value_PCM.mean(2).var(1, ddof=1).mean()
    within = value_PCM.var(2, ddof=1).mean()
    return Components(max(0.0, float(between - within) / M), float(within), M)
