"""From raw step scores to what the tree takes: the final reward to expect, with its variance, level by level.

    E[R | S, i]     a map for each level i, isotonic or a line, whichever predicts unseen prompts better
    Var[R | S, i]   residual variance around that map
    sigma_w^2(i)    variance of the final rewards of completions from one state, from sibling data
    tau^2           Var[R | S, i] - sigma_w^2, floored: what the score leaves open about the state itself

R is the guide's reward of the finished image, never gold. Levels without data lie between their neighbours in log-SNR; so do
the levels of another T. A score beyond those that were seen is taken as the nearest seen one.

Legend: P prompts, N samples of a prompt, L levels (a column for each entry of `levels`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mcts_ray.tree.values import Prior

VERSION = 1
METHODS = ("best", "linear", "isotonic")
FLOOR = 0.1  # of tau^2 as a share of sigma_w^2: a prior is worth at most ten returns
FAR = 30.0  # stands for an infinite log-SNR
FOLDS = 2  # of prompts, by which `best` chooses
FEWEST = 8  # finished trajectories per level


@dataclass(frozen=True)
class Level:
    """What is known of one level: `mean(score)` is linear between `knots` (scores, ascending) with `values` (rewards).

    variance: Var[R | S, i] over all prompts. noise: the part of it within a prompt; offset, slope: variances over prompts of a
    prompt's own shift of the map and of its own change of the map's slope, about `center`, the mean score. within: sigma_w^2,
    None if no completions of one state were seen.
    """

    level: int
    log_snr: float
    kind: str
    knots: tuple[float, ...]
    values: tuple[float, ...]
    center: float
    variance: float
    noise: float
    offset: float
    slope: float
    within: float | None = None

    def mean(self, score: float) -> float:
        """E[R | S, i]."""
        return float(np.interp(score, self.knots, self.values))

    def clipped(self, score: float) -> float:
        """The nearest score that was seen."""
        return min(max(score, self.knots[0]), self.knots[-1])


def prior(mean: float, variance: float, within: float | None) -> Prior:
    """(mean, Var[R | S, i]) as a prior. Without sigma_w^2 it is worth one return (n0 = 1)."""
    if within is None:
        return Prior(mean, variance / 2, variance / 2)
    return Prior(mean, within, max(variance - within, FLOOR * within))


@dataclass(frozen=True)
class Calibration:
    """The calibration of one step score of one model to one reward, for trajectories of `T` levels; `levels` ascend.

    guidance: None for the model's own. step_weights: what stands for the weights of the step model ("": it has none, or unknown).
    """

    model: str
    step_reward: str
    reward: str
    T: int
    levels: tuple[Level, ...]
    guidance: float | None = None
    prompts: int = 0
    samples: int = 0
    step_weights: str = ""

    def __call__(self, level: int, score: float) -> Prior:
        """What a raw score at a level of this T says of the final reward."""
        known = self.at(level)
        return prior(known.mean(score), known.variance, known.within)

    def at(self, level: int) -> Level:
        """What is known of a level; between two known ones the map is their mean, weighted by closeness in log-SNR.

        Without log-SNR of a level that is not known, closeness is that of level numbers.
        """
        if level not in self._by_level:
            snr = float(np.interp(level, [one.level for one in self.levels], [one.log_snr for one in self.levels]))
            self._by_level[level] = self._between(level, self.T, snr)
        return self._by_level[level]

    @cached_property
    def _by_level(self) -> dict[int, Level]:
        return {one.level: one for one in self.levels}

    def on(self, log_snr: Sequence[float]) -> Calibration:
        """The same for trajectories whose level i has `log_snr[i]`, i = 0 ... T: known levels are met by log-SNR, not by number."""
        T = len(log_snr) - 1
        snr = [_finite(value) for value in log_snr]
        return replace(self, T=T, levels=tuple(self._between(level, T, snr[level]) for level in range(1, T + 1)))

    def _between(self, level: int, T: int, snr: float) -> Level:
        """Level `level` of `T` at this log-SNR; beyond the known ones the nearest counts."""
        ordered = sorted(self.levels, key=lambda one: one.log_snr)
        place = int(np.searchsorted([one.log_snr for one in ordered], snr))
        low, high = ordered[max(0, place - 1)], ordered[min(place, len(ordered) - 1)]
        gap = high.log_snr - low.log_snr
        weight = min(1.0, max(0.0, (snr - low.log_snr) / gap)) if gap > 0 else 0.0
        if abs(weight - round(weight)) < 1e-6:  # one of the known ones
            return replace((low, high)[round(weight)], level=level, log_snr=snr)
        return replace(_mixed(low, high, weight), level=level, log_snr=snr)

    # files ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write calibration.json, replaced at once."""
        partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read calibration.json. Raises ValueError with one sentence."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"calibration {path} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ValueError(f"calibration {path} is not JSON; make one with `mcts-ray audit --calibrate`") from error
        try:
            if data.pop("version") != VERSION:
                raise ValueError
            levels = tuple(_level(one) for one in data.pop("levels"))
            calibration = cls(**data, levels=levels)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"calibration {path} is no calibration of this version; make one with `mcts-ray audit --calibrate`") from None
        if not levels or [one.level for one in levels] != sorted({one.level for one in levels}):
            raise ValueError(f"calibration {path} must list at least one level, in ascending order")
        return calibration


def fit(
    scores_PNL: np.ndarray,
    reward_PN: np.ndarray,
    levels: Sequence[int],
    log_snr: Sequence[float],
    *,
    model: str = "",
    step_reward: str = "x0",
    reward: str = "",
    guidance: float | None = None,
    within: Mapping[int, float] | None = None,
    method: str = "best",
    step_weights: str = "",
) -> Calibration:
    """Calibrate a step score on finished trajectories of whole prompts.

    scores_PNL: raw scores at `levels`; reward_PN: the guide's reward of the finished images. log_snr: of every level 0 ... T.
    within: sigma_w^2 by level, from completions of one state; between those levels it is interpolated over level numbers, with 0
    at level 0, where nothing is open any more. Raises ValueError for numbers that are not finite, or too few of them.
    """
    scores_PNL, reward_PN = np.asarray(scores_PNL, float), np.asarray(reward_PN, float)
    _check(scores_PNL, reward_PN, levels, method)
    order = np.argsort(levels)
    found = []
    for column in order:
        level = int(levels[column])
        one = _fit_level(scores_PNL[:, :, column], reward_PN, method)
        found.append(Level(level=level, log_snr=_finite(log_snr[level]), within=_within(level, within), **one))
    P, N = reward_PN.shape
    return Calibration(model, step_reward, reward, len(log_snr) - 1, tuple(found), guidance, P, N, step_weights)


def _check(scores_PNL: np.ndarray, reward_PN: np.ndarray, levels: Sequence[int], method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown calibration method {method!r}; choose one of {', '.join(METHODS)}")
    if scores_PNL.shape != (*reward_PN.shape, len(levels)):
        shapes = f"scores {scores_PNL.shape}, rewards {reward_PN.shape}, {len(levels)} levels"
        raise ValueError(f"a calibration needs scores (prompt, sample, level) and rewards (prompt, sample), not {shapes}")
    for what, values in (("score", scores_PNL), ("reward", reward_PN)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            raise ValueError(f"{len(bad)} {what}s to calibrate on are not finite, the first at index {tuple(map(int, bad[0]))}")
    if reward_PN.size < FEWEST:
        raise ValueError(f"a calibration needs at least {FEWEST} finished trajectories, not {reward_PN.size}")


def _fit_level(score_PN: np.ndarray, reward_PN: np.ndarray, method: str) -> dict[str, Any]:
    """The fields of `Level` but for its place and sigma_w^2."""
    kind = _better(score_PN, reward_PN) if method == "best" else method
    knots, values = fit_map(score_PN.ravel(), reward_PN.ravel(), kind)
    left_PN = reward_PN - np.interp(score_PN, knots, values)
    freedom = left_PN.size - (2 if kind == "linear" else len(knots) // 2)
    center = float(score_PN.mean())
    noise, offset, slope = _by_prompt(score_PN - center, left_PN)
    variance = float((left_PN**2).sum() / max(1, freedom))
    return {
        "kind": kind, "knots": tuple(map(float, knots)), "values": tuple(map(float, values)), "center": center,
        "variance": variance, "noise": noise, "offset": offset, "slope": slope,
    }  # fmt: skip


def fit_map(score_N: np.ndarray, reward_N: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Knots and values of E[R | S]: least squares among lines, or among all functions, that do not fall.

    A score that ranks the wrong way tells nothing: its map is flat.
    """
    if kind == "isotonic":
        return _isotonic(score_N, reward_N)
    spread = ((score_N - score_N.mean()) ** 2).sum()
    slope = max(0.0, float(((score_N - score_N.mean()) * reward_N).sum() / spread)) if spread > 0 else 0.0
    knots = np.unique([score_N.min(), score_N.max()])
    return knots, reward_N.mean() + slope * (knots - score_N.mean())


def _isotonic(score_N: np.ndarray, reward_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Isotonic regression; the knots are both ends of each block, equal scores being one observation."""
    from scipy.optimize import isotonic_regression

    seen, place_N, count = np.unique(score_N, return_inverse=True, return_counts=True)
    mean = np.bincount(place_N.ravel(), reward_N) / count
    level = isotonic_regression(mean, weights=count).x
    change = np.flatnonzero(np.diff(level))
    ends = np.unique(np.concatenate([[0], change, change + 1, [len(seen) - 1]]))
    return seen[ends], level[ends]


def _better(score_PN: np.ndarray, reward_PN: np.ndarray) -> str:
    """Which map predicts the prompts better that it was not fitted to; with one prompt: a line."""
    if len(score_PN) < FOLDS:
        return "linear"
    error = {kind: float(((reward_PN - held_out(score_PN, reward_PN, kind)) ** 2).sum()) for kind in ("linear", "isotonic")}
    return min(error, key=error.__getitem__)


def held_out(score_PN: np.ndarray, reward_PN: np.ndarray, kind: str) -> np.ndarray:
    """E[R | S] of every prompt from a map fitted to other prompts (every second one): (P, N)."""
    fold_P = np.arange(len(score_PN)) % FOLDS
    out_PN = np.empty_like(reward_PN)
    for fold in range(FOLDS):
        mine, others = fold_P == fold, fold_P != fold
        out_PN[mine] = np.interp(score_PN[mine], *fit_map(score_PN[others].ravel(), reward_PN[others].ravel(), kind))
    return out_PN


def _by_prompt(score_PN: np.ndarray, left_PN: np.ndarray) -> tuple[float, float, float]:
    """Residuals as offset + slope x score + noise, by prompt: the variance of the noise, and those over prompts of the other two.

    Moments: the variance of the prompts' least squares estimates, less what the noise gives them; floored at 0. Prompts of which
    a line cannot be told (fewer than four samples, or equal scores) say nothing.
    """
    P, N = left_PN.shape
    known = [p for p in range(P) if N >= 4 and score_PN[p].std() > 1e-9]
    if len(known) < 2:
        return float(left_PN.var()), 0.0, 0.0
    estimates, spreads, squares = [], [], 0.0
    for p in known:
        X = np.stack([np.ones(N), score_PN[p]], 1)
        inverse = np.linalg.inv(X.T @ X)
        estimate = inverse @ X.T @ left_PN[p]
        squares += float(((left_PN[p] - X @ estimate) ** 2).sum())
        estimates.append(estimate)
        spreads.append(np.diag(inverse))
    noise = squares / (len(known) * (N - 2))
    offset, slope = np.maximum(0.0, np.var(estimates, axis=0, ddof=1) - noise * np.mean(spreads, axis=0))
    return noise, float(offset), float(slope)


def _within(level: int, within: Mapping[int, float] | None) -> float | None:
    if not within:
        return None
    places = sorted(within)
    return float(np.interp(level, [0, *places], [0.0, *(within[place] for place in places)]))


def _mixed(low: Level, high: Level, weight: float) -> Level:
    """Between two levels: the weighted mean of their maps, exact since both are linear between knots, and of their variances."""
    knots = np.union1d(low.knots, high.knots)
    values = (1 - weight) * np.interp(knots, low.knots, low.values) + weight * np.interp(knots, high.knots, high.values)
    names = ("center", "variance", "noise", "offset", "slope", "within")
    pairs = {name: (getattr(low, name), getattr(high, name)) for name in names}
    means = {name: None if None in pair else (1 - weight) * pair[0] + weight * pair[1] for name, pair in pairs.items()}
    return replace(low, kind="mixed", knots=tuple(knots.tolist()), values=tuple(values.tolist()), **means)


def _level(data: Mapping[str, Any]) -> Level:
    """A level as it stands in a file. Raises ValueError or TypeError for one that cannot be."""
    level = Level(**{**data, "knots": tuple(data["knots"]), "values": tuple(data["values"])})
    numbers = [level.log_snr, level.center, level.variance, level.noise, level.offset, level.slope, *level.knots, *level.values]
    numbers += [] if level.within is None else [level.within]
    if not all(math.isfinite(number) for number in numbers) or len(level.knots) != len(level.values) or not level.knots:
        raise ValueError
    if min(level.variance, level.noise, level.offset, level.slope, level.within or 0.0) < 0 or list(level.knots) != sorted(level.knots):
        raise ValueError
    return level


def _finite(log_snr: float) -> float:
    return min(max(float(log_snr), -FAR), FAR)
