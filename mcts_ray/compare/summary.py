"""From rows to figures: means with intervals by prompt set, budget and arm; rows.csv and summary.json.

Legend: S seeds, P prompts.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcts_ray.compare.design import Arm, Design
from mcts_ray.compare.figures import known_interval, multiplier
from mcts_ray.compare.judge import DIVERSITY, VERIFIER
from mcts_ray.compare.pool import Pool, best_policy
from mcts_ray.compare.run import Row
from mcts_ray.report.share import replacing
from mcts_ray.tree.prune import COUNTS

SCORES = ("gold", "passed", "guide")
COSTS = ("nfe", "decodes", "model_forwards", "busy_seconds", "failed_units")
COLUMNS = ("set", "arm", "times", "seed", "prompt", "text", *SCORES, *COSTS, "diversity")
PRUNING = tuple(f"pruning_{what}" for what in (*COUNTS, "retired"))  # columns more, of those that any search has
MEANING = {
    "interval": "[mean, low, high], 95 % bootstrap over prompts, seeds averaged within a prompt",
    "gold": "held-out judge of the returned best image",
    "passed": "share of returned best images in which all facts hold (verifier only)",
    "guide": "what the search saw of its best image; not known of oracle arms",
    "difference": "paired by prompt, against the reference arm at the same budget",
    "difference_sd": "mean difference in standard deviations of single samples within a prompt (pool of the first policy)",
    "over_best_of_n": "gold, paired by prompt, against exact best-of-n of the pool at the same budget",
    "multiplier": "budget that best-of-n needs for the same gold, over the budget spent; > where its pool never gets there",
    "reward_error": "gold of the same search guided by the gold judge, minus gold: lost to the guide",
    "search_error": "highest gold there is (1 for the verifier, else the best sample of the first pool) minus that: lost to the search",
    "busy_seconds": "a search's share of denoising, decoding and rewarding; wall time is shared by many searches",
    "failed_units": "units of work that failed, per search",
    "pruning": "counts per search: nodes pruned (in all, by statistical bounds, in stages), nodes and jumps left out by predicted gain, "
    "nodes revived, states evicted and remade, particles retired after a fusion",
    "curve": "best image so far over NFE that were booked when it came; what is still in flight is not booked yet",
    "diversity": DIVERSITY + ", of the returned images",
}


def summarise(design: Design, rows: Sequence[Row], pools: dict[str, list[Pool]], validation: dict[str, list[Pool]]) -> dict[str, Any]:
    """Figures of a whole comparison, as in summary.json: {"meaning", "reference", "sets": {set: {"pool", "rows"}}}."""
    sets = {name: _set(design, name, [r for r in rows if r["set"] == name], pools.get(name), validation.get(name)) for name in design.sets}
    return {"meaning": MEANING, "reference": design.arms[0].label, "sets": sets}


def _set(design: Design, name: str, rows: list[Row], pools: list[Pool] | None, validation: list[Pool] | None) -> dict[str, Any]:
    budgets = design.budgets
    references = _references(pools, validation, budgets) if pools else {}
    found = []
    for times in design.times:
        cells = {arm.label: [r for r in rows if (r["times"], r["arm"]) == (times, arm.label)] for arm in design.arms}
        found += [_cell(design, arm, times, cells, references, len(design.sets[name])) for arm in design.arms]
    return {"prompts": len(design.sets[name]), "pool": _pool_figures(pools, references, budgets), "rows": found}


def _references(pools: list[Pool], validation: list[Pool] | None, budgets: list[int]) -> dict[str, Pool]:
    """The pools that searches are held against: "first", the first policy (k=1), and "best", the one chosen on validation prompts.

    Without validation prompts there is a best policy only if there is one alone.
    """
    by_name = {pool.policy: pool for pool in pools}
    best = best_policy(validation, budgets) if validation else pools[0].policy if len(pools) == 1 else None
    return {"first": pools[0]} | ({"best": by_name[best]} if best else {})


def _pool_figures(pools: list[Pool] | None, references: dict[str, Pool], budgets: list[int]) -> dict[str, Any] | None:
    if not pools:
        return None
    chosen = {what: pool.policy for what, pool in references.items()}
    policies = {
        pool.policy: {
            "nfe_per_sample": pool.cost,
            "samples": pool.gold_PN.shape[1],
            "sd": {what: round(value, 4) for what, value in pool.sd.items()},
            "best_of_n": [[n * pool.cost, *known_interval(pool.reach_PN[:, n - 1])] for n in _sizes(pool.gold_PN.shape[1])],
            "at_budgets": {str(budget): known_interval(pool.at(budget)) for budget in budgets},
        }
        for pool in pools
    }
    return {"policies": policies, **chosen}


def _sizes(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return sorted({2**i for i in range(most.bit_length())} | {most})


def _cell(design: Design, arm: Arm, times: int, cells: dict[str, list[Row]], references: dict[str, Pool], prompts: int) -> dict[str, Any]:
    """The figures of one arm at one budget."""
    rows = cells[arm.label]
    mean_P = {what: per_prompt(rows, what, prompts) for what in (*SCORES, *COSTS, "diversity")}
    row: dict[str, Any] = {"arm": arm.label, "oracle": arm.oracle, "times": times, "budget": times * design.levels}
    row["searches"], row["without_image"] = len(rows), sum(r["gold"] is None for r in rows)
    row |= {what: known_interval(mean_P[what]) for what in (*SCORES, "diversity")}
    row |= {what: round(float(np.nanmean(mean_P[what])), 3) for what in COSTS}
    if counts := _counted(rows):
        row["pruning"] = {what.removeprefix("pruning_"): round(float(np.nanmean(per_prompt(rows, what, prompts))), 3) for what in counts}
    base = cells[design.arms[0].label]
    if base is not rows:
        row["difference"] = {what: known_interval(mean_P[what] - per_prompt(base, what, prompts)) for what in SCORES}
        if references:
            row["difference_sd"] = _in_sd(row["difference"], references["first"].sd)
    for what, pool in references.items():
        row |= _against_pool(pool, mean_P["gold"], row["budget"], row["nfe"], what)
    oracle = cells.get(f"{arm.label} (oracle)")
    if oracle:
        row |= _errors(design, mean_P["gold"], per_prompt(oracle, "gold", prompts), references.get("first"))
    row["curve"] = anytime(rows, times * design.levels)
    return row


def _counted(rows: Sequence[Row]) -> list[str]:
    """The columns of `PRUNING` that there are."""
    return [what for what in PRUNING if any(what in row for row in rows)]


def _errors(design: Design, gold_P: np.ndarray, oracle_P: np.ndarray, pool: Pool | None) -> dict[str, Any]:
    """What is lost of the highest gold, to the guide and to the search; of the search where that height is known."""
    errors = {"reward_error": known_interval(oracle_P - gold_P)}
    if design.gold == VERIFIER or pool:
        highest_P = np.ones_like(gold_P) if design.gold == VERIFIER else pool.gold_PN.max(1)
        errors["search_error"] = known_interval(highest_P - oracle_P)
    return errors


def _in_sd(difference: dict[str, Any], sd: dict[str, float]) -> dict[str, float | None]:
    return {what: round(difference[what][0] / sd[what], 3) if difference[what] and sd[what] else None for what in sd}


def _against_pool(pool: Pool, gold_P: np.ndarray, budget: int, spent: float, what: str) -> dict[str, Any]:
    """Difference and multiplier against the best-of-n of a pool, over the prompts with an image."""
    known = np.isfinite(gold_P)
    ratio = multiplier(gold_P[known], pool.reach_PN[known], pool.cost, spent).to_dict() if known.any() and spent else None
    difference = known_interval(gold_P - pool.at(budget))
    return {f"over_best_of_n_{what}": difference, f"multiplier_{what}": ratio}


def per_prompt(rows: Sequence[Row], what: str, prompts: int) -> np.ndarray:
    """Means over the seeds that have a value (P,); NaN where none has."""
    values: list[list[float]] = [[] for _ in range(prompts)]
    for row in rows:
        if row.get(what) is not None:
            values[row["prompt"]].append(row[what])
    return np.array([np.mean(v) if v else np.nan for v in values], float)


def anytime(rows: Sequence[Row], budget: int, points: int = 40) -> list[list[float | None]]:
    """[NFE, mean guide, mean gold] of the best image so far, from where all searches have one; None where one is not known.

    Searches without any image are left out; `without_image` counts them.
    """
    curves = [row["curve"] for row in rows if row["curve"]]
    if not curves:
        return []
    start = max(curve[0][0] for curve in curves)
    grid = np.unique(np.geomspace(start, max(budget, start), points).round().astype(int))
    found = []
    for nfe in grid:
        last = [[point for point in curve if point[0] <= nfe][-1] for curve in curves]
        means = [None if any(p[i] is None for p in last) else round(float(np.mean([p[i] for p in last])), 4) for i in (1, 2)]
        found.append([int(nfe), *means])
    return found


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """rows.csv: one line for each search."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *_counted(rows)), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
