"""Path regret: on small trees whose jump paths are all known, was the wrong path chosen, and what was lost by it?

A path is chosen greedily: from the noise down, always to the state (of any jump size) of the highest score, a finished image
counting with its guide. It is held against the best path by guide and by gold, the mean over all paths (a blind choice), and the
path of single levels (no jumps at all). Scores of different levels are compared as calibrated rewards where there is a calibration.

Legend: P prompts, S states of a prompt's trees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mcts_ray.audit.metrics import check_finite
from mcts_ray.compare.figures import interval

Judge = Callable[[int, float], float]  # (level, raw score) -> what to compare
SAME = 1e-9


def regrets(parent_PS: np.ndarray, level_PS: np.ndarray, score_PS: np.ndarray, gold_PS: np.ndarray, judge: Judge) -> dict[str, Any]:
    """Figures over prompts, the trees of a prompt averaged first; scores at level 0 are the guide's."""
    check_finite(score=score_PS, gold=gold_PS)
    rows = [tree for one in zip(parent_PS, level_PS, score_PS, gold_PS) for tree in [_prompt(*one, judge)]]
    names = rows[0][0].keys()
    mean_P = {name: np.array([np.mean([tree[name] for tree in trees]) for trees in rows]) for name in names}
    return {"prompts": len(rows), "trees": sum(map(len, rows)), "paths": rows[0][0]["paths"]} | {
        name: interval(values) for name, values in mean_P.items() if name != "paths"
    }


def _prompt(parent_S: np.ndarray, level_S: np.ndarray, score_S: np.ndarray, gold_S: np.ndarray, judge: Judge) -> list[dict[str, float]]:
    """The figures of each tree of one prompt."""
    below: dict[int, list[int]] = {}
    for state, parent in enumerate(parent_S):
        below.setdefault(int(parent), []).append(state)
    worth_S = np.array([score if level == 0 else judge(int(level), float(score)) for level, score in zip(level_S, score_S)])
    return [_tree(root, below, worth_S, level_S, score_S, gold_S) for root in below[-1]]


def _tree(
    root: int, below: dict[int, list[int]], worth_S: np.ndarray, level_S: np.ndarray, guide_S: np.ndarray, gold_S: np.ndarray
) -> dict[str, float]:
    ends = _ends(root, below)
    chosen = _walk(root, below, lambda states: max(states, key=lambda state: worth_S[state]))
    finest = _walk(root, below, lambda states: max(states, key=lambda state: level_S[state]))
    guide, gold = guide_S[ends], gold_S[ends]
    return {
        "paths": len(ends),
        "best_chosen": float(guide_S[chosen] >= guide.max() - SAME),
        "best_chosen_blindly": float((guide >= guide.max() - SAME).mean()),
        "guide_lost": guide.max() - guide_S[chosen],
        "guide_lost_blindly": guide.max() - guide.mean(),
        "guide_lost_by_single_levels": guide.max() - guide_S[finest],
        "gold_lost": gold.max() - gold_S[chosen],
        "gold_lost_blindly": gold.max() - gold.mean(),
        "gold_lost_by_single_levels": gold.max() - gold_S[finest],
        "gold_of_best_by_guide_lost": gold.max() - gold[guide >= guide.max() - SAME].mean(),
    }


def _ends(root: int, below: dict[int, list[int]]) -> np.ndarray:
    """The finished images of a tree."""
    ends, waiting = [], [root]
    while waiting:
        state = waiting.pop()
        if state in below:
            waiting += below[state]
        else:
            ends.append(state)
    return np.array(ends)


def _walk(state: int, below: dict[int, list[int]], choose: Callable[[list[int]], int]) -> int:
    while state in below:
        state = choose(below[state])
    return state
