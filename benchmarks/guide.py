"""How good the guide (the learned scenes scorer) is on generated images, judged by the verifier.

    python -m benchmarks.guide

From the pool of finished test samples (`benchmarks.pool`): pairwise accuracy and Spearman correlation within prompts,
and the share of the gold gain of picking by the verifier that picking by the guide wins, among 16 samples.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import spearmanr

from benchmarks import pool
from mcts_ray.replay import best_of
from benchmarks.common import bars, interval, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--among", type=int, default=16)
    args = parser.parse_args()
    rows = {}
    for name, p in pool.load(args.split).items():
        varied = p.gold_PN.std(1) > 0
        guide, gold = p.guide_PN[varied], p.gold_PN[varied]
        base = p.gold_PN.mean(1)
        won = best_of(p.guide_PN, p.gold_PN, args.among) - base
        possible = best_of(p.gold_PN, p.gold_PN, args.among) - base
        rows[name] = {
            "prompts": len(base),
            "prompts_with_spread": int(varied.sum()),
            "pairwise_accuracy": interval(np.array([_pairwise(*row) for row in zip(guide, gold)])),
            "spearman": interval(np.array([spearmanr(*row).statistic for row in zip(guide, gold)])),
            "gain_by_guide": interval(won),
            "gain_by_verifier": interval(possible),
            "share_of_gain": _ratio(won, possible),
        }
    figures = {"pairwise_accuracy": "pairwise accuracy", "spearman": "Spearman within prompts", "share_of_gain": "share of the verifier's gain"}
    bars("guide", {title: {name: row[figure] for name, row in rows.items()} for figure, title in figures.items()}, {"share of the verifier's gain": [0.6]})
    write("guide", {"split": args.split, "among": args.among, "rows": rows})


def _pairwise(guide_N: np.ndarray, gold_N: np.ndarray) -> float:
    """Share of pairs of unlike gold that the guide puts in the right order; a tie counts half."""
    d_guide, d_gold = np.sign(np.subtract.outer(guide_N, guide_N)), np.sign(np.subtract.outer(gold_N, gold_N))
    unlike = d_gold > 0
    return float(np.where(d_guide == 0, 0.5, d_guide > 0)[unlike].mean())


def _ratio(won_P: np.ndarray, possible_P: np.ndarray, draws: int = 4000) -> tuple[float, float, float]:
    """Ratio of the means with a bootstrap interval over prompts."""
    pick = np.random.default_rng(0).integers(0, len(won_P), (draws, len(won_P)))
    ratios = won_P[pick].mean(1) / possible_P[pick].mean(1)
    return tuple(round(float(v), 4) for v in (won_P.mean() / possible_P.mean(), *np.quantile(ratios, [0.025, 0.975])))


if __name__ == "__main__":
    main()
