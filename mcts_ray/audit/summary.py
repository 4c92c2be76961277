"""From measurements to figures: audit.json.

Legend: P prompts, N samples, L scored levels, A parent levels, C children, M completions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mcts_ray.audit import metrics
from mcts_ray.audit.collect import Data
from mcts_ray.audit.design import Design
from mcts_ray.audit.optimisation import over_optimisation
from mcts_ray.audit.paths import regrets
from mcts_ray.audit.verdict import verdict
from mcts_ray.compare.figures import known_interval, within_sd
from mcts_ray.reward.calibrate import Calibration, fit

MEANING = {
    "level": "noise level, T is pure noise; share: of the trajectory's calls that are made when the state has been scored",
    "_ci": "95 % bootstrap interval over prompts of the figure with that name",
    "spearman": "rank correlation within a prompt of the score and the guide's reward of the finished image; of gold: spearman_gold",
    "kendall": "tau-b, likewise",
    "accuracy": "share of pairs within a prompt that the score puts in order; equal scores count one half",
    "ece": "calibration error of sigmoid(score difference / temperature) for pairs, 15 bins; temperature fitted per level; "
    "brier: its Brier score",
    "spread": "standard deviation of the score within a prompt (root mean square over prompts)",
    "r2": "of the reward by a line through the score, on prompts it was not fitted to, over a predictor that knows the level alone; "
    "r2_within: prompt means taken out; coverage: share of rewards in its 95 % interval",
    "intercept": "of the line through score and reward at this level: reward at the mean score, and slope; their drift over levels "
    "is why raw scores of different levels must not be compared",
    "kept_quarter": "chance that the best sample by guide is among the best quarter by score; kept_half: likewise",
    "pick_of_4": "what the best of 4 by score has above the mean, in standard deviations within a prompt (perfect: about 1); "
    "of gold: pick_of_4_gold",
    "over_first": "paired difference of spearman to the first step score",
    "siblings": "children of one state, each completed several times; spearman: of score and mean gold of the completions, "
    "parents with spread only",
    "icc": "share of the variance of completions that the children decide; ceiling: its root, the highest correlation possible with "
    "one completion; ceiling_of_means: likewise with the mean of the completions; of_ceiling: Pearson correlation over that, "
    "of_ceiling_high: by the upper end of its interval",
    "fresh_ceiling": "root of 1 - variance of completions of one state / variance of finished images of a prompt: the highest "
    "correlation of a score with images finished from there with fresh noise. The trajectories here have no fresh noise: nothing but "
    "foresight bounds theirs",
    "over_optimisation": "gains of best-of-n in standard deviations within a prompt; d: root of KL bound; expectation: rho x guide gain",
    "paths": "all jump paths of small trees; chosen: greedily by calibrated score; lost: against the best path",
}


def summarise(design: Design, data: Data) -> tuple[dict[str, Any], dict[str, Calibration]]:
    """audit.json as a dictionary, and a calibration to the guide for each step score.

    ValueError for input that is not finite.
    """
    guide, gold = data.trajectories["guide"], data.trajectories["gold"]
    metrics.check_finite(guide=guide, gold=gold, **{f"scores of {name}": scores for name, scores in data.scores.items()})
    calibrations = {name: calibrate(design, data, name) for name in data.scores}
    found = {"design": design.head(), "meaning": MEANING, "guide_and_gold": _judges(guide, gold)}
    scores: dict[str, Any] = {}
    ceilings = _ceilings(design, data)
    for name in data.scores:
        scores[name] = {"levels": _levels(design, data, name, ceilings), "siblings": _siblings(design, data, name)}
        if name in data.paths:
            scores[name]["paths"] = _paths(data, name, calibrations[name])
    found["scores"] = scores
    found["levels"] = scores[next(iter(scores))]["levels"]  # of the first step score once more, where they are looked for
    varied = data.pool and within_sd(data.pool["guide"]) > 0 < within_sd(data.pool["gold"])
    found["over_optimisation"] = over_optimisation(data.pool["guide"], data.pool["gold"]) if varied else None
    found = plain(found)
    return found | {"verdict": verdict(found)}, calibrations


def calibrate(design: Design, data: Data, name: str) -> Calibration:
    """Of one step score to the guide; sigma_w^2 from completions as the guide judges them."""
    within = {level - 1: metrics.components(data.siblings["guide"][:, a]).within for a, level in enumerate(design.parents)}
    return fit(
        data.scores[name], data.trajectories["guide"], design.scored, data.log_snr, model=design.model, step_reward=name,
        reward=design.reward, guidance=design.guidance, within=within or None, step_weights=design.step_weights(name),
    )  # fmt: skip


def _judges(guide_PN: np.ndarray, gold_PN: np.ndarray) -> dict[str, Any]:
    """Of finished images: how guide and gold go together, and their spread within a prompt."""
    return {
        **_with_interval("spearman", metrics.spearman(guide_PN, gold_PN)),
        **_with_interval("pearson", metrics.pearson(guide_PN, gold_PN)),
        "guide_sd": within_sd(guide_PN), "gold_sd": within_sd(gold_PN),
        "guide_mean": float(guide_PN.mean()), "gold_mean": float(gold_PN.mean()),
    }  # fmt: skip


def _levels(design: Design, data: Data, name: str, ceilings: dict[int, float]) -> list[dict[str, Any]]:
    first = next(iter(data.scores))
    rows = []
    for column, level in enumerate(design.scored):
        score_PN = data.scores[name][:, :, column]
        row = {"level": level, "share": round((design.levels - level + 1) / design.levels, 4), "log_snr": data.log_snr[level]}
        row |= _ranking(score_PN, data.trajectories["guide"], data.trajectories["gold"])
        if name != first:
            there = metrics.spearman(data.scores[first][:, :, column], data.trajectories["guide"])
            row["over_first"] = known_interval(metrics.spearman(score_PN, data.trajectories["guide"]) - there)
        if level in ceilings:
            row["fresh_ceiling"] = ceilings[level]
        rows.append(row)
    return rows


def _ranking(score_PN: np.ndarray, guide_PN: np.ndarray, gold_PN: np.ndarray) -> dict[str, Any]:
    """All figures of one level."""
    row: dict[str, Any] = {}
    for suffix, target_PN in (("", guide_PN), ("_gold", gold_PN)):
        row |= _with_interval(f"spearman{suffix}", metrics.spearman(score_PN, target_PN))
        row |= _with_interval(f"kendall{suffix}", metrics.kendall(score_PN, target_PN))
        row |= _with_interval(f"accuracy{suffix}", metrics.pairwise_accuracy(score_PN, target_PN))
        row |= _with_interval(f"pick_of_4{suffix}", metrics.picked(score_PN, target_PN))
        margin_M = metrics.margins(score_PN, target_PN)
        t = metrics.temperature(margin_M)
        error, brier = metrics.calibration_error(margin_M, t)
        row |= {f"temperature{suffix}": t, f"ece{suffix}": error, f"brier{suffix}": brier}
    for what, share in (("kept_quarter", 0.25), ("kept_half", 0.5)):
        row[what] = float(metrics.kept_best(score_PN, guide_PN, share).mean())
    known = metrics.explained(score_PN, guide_PN)
    row |= {"spread": within_sd(score_PN), "r2": known.r2, "r2_within": known.within, "coverage": known.coverage}
    return row | {"intercept": known.intercept, "slope": known.slope}


def _ceilings(design: Design, data: Data) -> dict[int, float]:
    """sqrt(1 - sigma_w^2 / Var[R | prompt]) by level of the children: what is decided by then of an image finished with fresh noise."""
    total = within_sd(data.trajectories["guide"]) ** 2
    if not total:
        return {}
    found = {level - 1: metrics.components(data.siblings["guide"][:, a]).within for a, level in enumerate(design.parents)}
    return {level: math.sqrt(max(0.0, 1 - within / total)) for level, within in found.items()}


def _siblings(design: Design, data: Data, name: str) -> list[dict[str, Any]]:
    """By level of the children."""
    rows = []
    for a, level in enumerate(design.parents):
        score_PC = data.sibling_scores[name][:, a]
        row: dict[str, Any] = {"level": level - 1, "share": round((design.levels - level + 2) / design.levels, 4)}
        for suffix, what in (("", "gold"), ("_guide", "guide")):
            value_PCM = data.siblings[what][:, a]
            row |= _siblings_against(score_PC, value_PCM, suffix)
        rows.append(row)
    return rows


def _siblings_against(score_PC: np.ndarray, value_PCM: np.ndarray, suffix: str) -> dict[str, Any]:
    mean_PC = value_PCM.mean(2).round(9)  # equal means are to be equal, in whatever order they were added up
    rank_P, pearson_P = metrics.spearman(score_PC, mean_PC), metrics.pearson(score_PC, mean_PC)
    parts = metrics.components(value_PCM)
    ceiling = parts.ceiling_of_means
    straight = _with_interval(f"pearson{suffix}", pearson_P)
    row = {
        **straight,
        **_with_interval(f"spearman{suffix}", rank_P),
        **_with_interval(f"accuracy{suffix}", metrics.pairwise_accuracy(score_PC, mean_PC)),
    }
    row |= {f"parents{suffix}": int(np.isfinite(rank_P).sum()), f"icc{suffix}": parts.icc, f"ceiling{suffix}": parts.ceiling}
    row[f"ceiling_of_means{suffix}"] = ceiling
    for end, value in (("", straight[f"pearson{suffix}"]), ("_high", (straight[f"pearson{suffix}_ci"] or [None])[-1])):
        row[f"of_ceiling{suffix}{end}"] = value / ceiling if value is not None and ceiling > 0 else None
    return row


def _paths(data: Data, name: str, calibration: Calibration) -> dict[str, Any]:
    known = calibration.on(data.path_log_snr)
    table = data.paths[name]
    return regrets(table["parent"], table["level"], table["score"], table["gold"], lambda level, score: known.at(level).mean(score))


def _with_interval(name: str, value_P: np.ndarray) -> dict[str, Any]:
    """The mean over prompts of which it is known, with its interval; None if it is known of none."""
    found = known_interval(value_P)
    return {name: found and found[0], f"{name}_ci": found and list(found[1:])}


def plain(value: Any) -> Any:
    """For JSON: numbers rounded, NaN and infinities as null."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 4) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
