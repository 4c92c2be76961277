"""Gold and pass of best-of-n by the guide, n = 1 … 64, from one pool of finished samples (`benchmarks.pool`).

    python -m benchmarks.best_of_n

The expectation over all subsets of n of the pool's N samples is exact: with the samples of a prompt sorted by guide,
the r-th best (r = 0, 1, …) is the best of a random subset with probability C(N−1−r, n−1) / C(N, n). Intervals are
95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

import argparse

import matplotlib
import numpy as np

from benchmarks import pool
from benchmarks.common import RESULTS, interval, write
from mcts_ray.replay import best_of

SIZES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    args = parser.parse_args()
    rows: dict[str, list[dict]] = {}
    for name, p in pool.load(args.split).items():
        rows[name] = []
        for n in (n for n in SIZES if n <= p.gold_PN.shape[1]):
            row = {"n": n}
            for label, judge in (("guide", p.guide_PN), ("oracle", p.gold_PN + 1e-3 * p.guide_PN)):
                for figure, value in (("gold", p.gold_PN), ("pass", p.passed_PN.astype(float))):
                    row[f"{figure}_by_{label}"] = interval(best_of(judge, value, n))
            rows[name].append(row)
    write("best_of_n", {"split": args.split, "interval": "95 % bootstrap over prompts: [mean, low, high]", "rows": rows})
    _plot(rows)


def _plot(rows: dict[str, list[dict]]) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for colour, (name, row) in zip(("#4c9f70", "#e09f3e", "#c8553d"), rows.items(), strict=True):
        for axis, what in zip(axes, ("gold", "pass"), strict=True):
            mean, low, high = np.array([r[f"{what}_by_guide"] for r in row]).T
            sizes = [r["n"] for r in row]
            axis.plot(sizes, mean, "o-", color=colour, label=f"{name}, picked by the guide")
            axis.fill_between(sizes, low, high, color=colour, alpha=0.15, lw=0)
            axis.plot(sizes, [r[f"{what}_by_oracle"][0] for r in row], ":", color=colour, label=f"{name}, by the verifier")
            axis.set(xscale="log", xlabel="n", xticks=SIZES, xticklabels=SIZES)
            axis.grid(alpha=0.2)
    axes[0].set(ylabel="share of facts that hold (gold)", title="Gold of best-of-n")
    axes[1].set(ylabel="share of images in which all hold", title="Pass rate of best-of-n")
    axes[1].legend(fontsize=8, loc="upper left")
    figure.savefig(RESULTS / "best_of_n.png", dpi=130)


if __name__ == "__main__":
    main()
