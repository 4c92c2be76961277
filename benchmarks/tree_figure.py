"""The figure of how the search works: the tree of one real search of a hard test prompt.

    python -m benchmarks.tree_figure [--budget 360] [--prompt N]
"""

from __future__ import annotations

import argparse
import io

import matplotlib
import numpy as np
from PIL import Image

from benchmarks.common import RESULTS, write
from mcts_ray import SearchConfig, Searcher
from mcts_ray.report.tree_layout import forest, rows
from mcts_ray.scenes import prompts

SEED, CHILD, BEST = "#8a99a6", "#2a6f97", "#c8553d"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=360)
    parser.add_argument("--prompt", type=int, default=0, help="which one of the hard test set")
    args = parser.parse_args()
    text = prompts("hard", "test")[args.prompt]
    result = Searcher.from_pretrained("scenes")(text, SearchConfig(algorithm="mcts", budget=args.budget))
    best = result.best.node
    write("tree_figure", {"prompt": text, "budget": args.budget, "seed": 0, "reward": result.best.reward, "gold": result.gold})
    _plot(result, best)


def _plot(result, best: str) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    tree = forest(result.tree["nodes"])
    nodes = tree.nodes
    row = rows(tree, range(len(nodes)))
    height = max(row.values()) + 1
    figure, axis = plt.subplots(figsize=(9, 0.42 * height + 1.2), constrained_layout=True)
    chosen = set(tree.path(tree.index[best]))
    for i, node in enumerate(nodes):
        above = tree.parents[i]
        colour = BEST if i in chosen else (SEED if _of_seed(tree, i) else CHILD)
        if above >= 0:
            x, y = nodes[above]["level"], row[above]
            axis.plot([x, x - 0.4, node["level"]], [y, row[i], row[i]], color=colour, lw=2.2 if i in chosen else 1.1, zorder=1)
        axis.plot(node["level"], row[i], "o", ms=3.2, color=colour, zorder=2)
        if node["level"] == 0 and node["id"] in result.thumbnails:
            image = np.asarray(Image.open(io.BytesIO(result.thumbnails[node["id"]])))
            axis.add_artist(AnnotationBbox(OffsetImage(image, zoom=0.42), (-1.1, row[i]), frameon=i in chosen, pad=0.1))
            axis.annotate(f"{node['value']:.2f}", (-2.1, row[i]), va="center", fontsize=8, color=BEST if i in chosen else "#444")
    branching = next(node for i, node in enumerate(nodes) if node.get("phi") and tree.parents[i] >= 0)
    parent = tree.parents[tree.index[branching["id"]]]
    axis.annotate(
        "widen: one more child,\nwith fresh noise", (nodes[parent]["level"], row[parent]), (nodes[parent]["level"] + 1, row[parent] - 0.8),
        fontsize=8, arrowprops={"arrowstyle": "->", "lw": 0.8}, annotation_clip=False,
    )  # fmt: skip
    axis.set(xlim=(result.config.levels + 0.6, -3.4), ylim=(height - 0.4, -1.4), yticks=[], xlabel="noise level, T … 0")
    for colour, label in ((SEED, "seeds: whole trajectories, the first evidence"), (CHILD, "children and their roll-outs"), (BEST, "the best image")):
        axis.plot([], [], "o-", color=colour, label=label)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=3, frameon=False)
    axis.set_title(f"“{result.prompt}” — {result.ledger.nfe} NFE, {len(result.finished)} images", fontsize=10)
    axis.spines[["left", "right", "top"]].set_visible(False)
    figure.savefig(RESULTS / "tree_figure.png", dpi=130)


def _of_seed(tree, node: int) -> bool:
    """Whether a node lies on the trajectory of its seed: no noise was added on the way."""
    return not any(tree.nodes[i].get("phi") for i in tree.path(node))


if __name__ == "__main__":
    main()
