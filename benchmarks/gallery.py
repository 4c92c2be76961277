"""The picture in the README: for a few hard test prompts, the first sample beside the best of the search.

    python -m benchmarks.gallery [--budget 480]
"""

from __future__ import annotations

import argparse
import textwrap

import matplotlib

from benchmarks.common import RESULTS, write
from mcts_ray import SearchConfig, Searcher
from mcts_ray.scenes import prompts, verify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=480)
    parser.add_argument("--prompts", type=int, default=6, help="the first ones of the hard test set")
    args = parser.parse_args()
    texts = prompts("hard", "test")[: args.prompts]
    results = Searcher.from_pretrained("scenes").many(texts, SearchConfig(budget=args.budget))
    rows = [
        {"prompt": r.prompt, "first_gold": verify(r.first, r.prompt)[0], "best_gold": r.gold, "best_passes": r.passed}
        for r in results
    ]
    write("gallery", {"algorithm": "best-of-n", "budget": args.budget, "seed": 0, "rows": rows})
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(1.9 * len(results), 4.6), constrained_layout=True)
    for (top, bottom), result, row in zip(axes.T, results, rows, strict=True):
        for axis, image, gold, name in (
            (top, result.first, row["first_gold"], "first sample"),
            (bottom, result.images[0], row["best_gold"], f"best of {result.ledger.decodes}"),
        ):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(f"{name}: {gold:.0%} of facts", fontsize=8, color="#2d7d46" if gold == 1 else "#a33")
        top.set_title(textwrap.fill(result.prompt, 24), fontsize=8)
    figure.savefig(RESULTS / "gallery.png", dpi=130)


if __name__ == "__main__":
    main()
