"""What a study of chosen jumps decides: paired differences, calls saved at equal gold, regret against regret, each with its interval.

Intervals are 95 % bootstrap intervals over prompts, the same prompts for both sides; seeds are averaged within a prompt first.

Legend: P prompts, D bootstrap draws, G calls 1 ... budget, N states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcts_ray.compare.design import parse_arm
from mcts_ray.compare.figures import Interval, interval

DRAWS = 2000
Row = Mapping[str, Any]


def decisions(rows: Sequence[Row], budget: int) -> dict[str, Any]:
    """Of the searches of one budget (rows of `mcts_ray.compare.run`): each arm by an IGE against the table, and against the constant jump
    of highest gold."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    curves = {arm: curve_of([row for row in rows if row["arm"] == arm], budget) for arm in arms}
    fields = {arm: parse_arm(arm).fields for arm in arms}
    constants = [arm for arm in arms if fields[arm].get("jump", "constant") == "constant"]
    best = max(constants, key=lambda arm: curves[arm][:, -1].mean(), default=None)
    table = next((arm for arm in arms if fields[arm].get("jump") == "table"), None)
    bases = {what: arm for what, arm in (("table", table), ("best_constant", best)) if arm}
    chosen = [arm for arm in arms if fields[arm].get("jump") == "ige"]
    return {**bases, "ige": {arm: {what: against(curves[arm], curves[base]) for what, base in bases.items()} for arm in chosen}}


def against(curve_PG: np.ndarray, base_PG: np.ndarray) -> dict[str, Any]:
    """Difference of gold at the whole budget, and the share of calls saved at the gold that the base reaches with it."""
    return {"gold": interval(curve_PG[:, -1] - base_PG[:, -1]), "saved": saved(curve_PG, base_PG)}


def curve_of(rows: Sequence[Row], budget: int) -> np.ndarray:
    """(P, G): gold of the best image after each number of calls, 0 before the first one; P in the order of set and prompt."""
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for row in rows:
        curve_G = np.zeros(budget)
        for nfe, _, gold in row["curve"]:
            curve_G[max(0, nfe - 1) :] = gold
        found.setdefault((row["set"], row["prompt"]), []).append(curve_G)
    return np.array([np.mean(found[key], 0) for key in sorted(found)])


def saved(curve_PG: np.ndarray, base_PG: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """1 - calls / calls of the base, each read off the mean anytime curve where it first reaches the base's gold at its whole budget.

    {"share": [value, low, high], "calls", "base_calls"}; None where the curve never gets there.
    """
    share_DP = _shares(len(curve_PG), seed)
    level_D = share_DP @ base_PG[:, -1]
    calls_D, base_D = (_first(share_DP @ one_PG, level_D) for one_PG in (curve_PG, base_PG))
    ratio_D = 1 - calls_D / base_D
    low, high = np.quantile(ratio_D[1:], [0.025, 0.975], method="nearest")  # infinities are not interpolated
    share = [_or_none(value) for value in (ratio_D[0], low, high)]
    return {"share": share, "calls": _or_none(calls_D[0]), "base_calls": _or_none(base_D[0])}


def regrets(regret_N: Mapping[str, np.ndarray], prompt_N: np.ndarray, bases: Sequence[str], seed: int = 0) -> dict[str, dict[str, Any]]:
    """By rule its mean regret, and its difference from and its ratio to that of each base."""
    mean_P = {name: np.array([value_N[prompt_N == prompt].mean() for prompt in np.unique(prompt_N)]) for name, value_N in regret_N.items()}
    return {
        name: {
            "regret": interval(own_P),
            "difference": {base: interval(own_P - mean_P[base]) for base in bases if base != name},
            "ratio": {base: ratio(own_P, mean_P[base], seed) for base in bases if base != name},
        }
        for name, own_P in mean_P.items()
    }


def ratio(one_P: np.ndarray, other_P: np.ndarray, seed: int = 0) -> Interval | None:
    """Mean over mean, with its interval; None where the other's interval holds 0, so that a ratio means nothing."""
    share_DP = _shares(len(one_P), seed)
    above_D, below_D = share_DP @ one_P, share_DP @ other_P
    if np.quantile(below_D[1:], 0.025) <= 0:
        return None
    ratio_D = above_D / below_D
    return tuple(round(float(value), 4) for value in (ratio_D[0], *np.quantile(ratio_D[1:], [0.025, 0.975])))


def _shares(prompts: int, seed: int) -> np.ndarray:
    """(1 + D, P): what each prompt counts for, in the sample as it is and in each draw of it."""
    drawn_DP = np.random.default_rng(seed).integers(0, prompts, (DRAWS, prompts))
    return np.vstack([np.ones(prompts), *(np.bincount(row, minlength=prompts) for row in drawn_DP)]) / prompts


def _first(curve_DG: np.ndarray, level_D: np.ndarray) -> np.ndarray:
    """Calls, interpolated, at which curves first reach their levels; infinite where they never do."""
    reached_DG = curve_DG >= level_D[:, None] - 1e-9
    at_D, rows = reached_DG.argmax(1), np.arange(len(level_D))
    low_D = np.where(at_D > 0, curve_DG[rows, np.maximum(at_D - 1, 0)], 0.0)
    high_D = curve_DG[rows, at_D]
    part_D = np.divide(level_D - low_D, high_D - low_D, out=np.ones(len(rows)), where=high_D > low_D).clip(0, 1)
    return np.where(reached_DG.any(1), at_D + part_D, np.inf)


def _or_none(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
