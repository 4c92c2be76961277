"""Searches compared at equal cost: gold and pass of the returned image, by algorithm, on test prompts.

    python -m benchmarks.quality [--algorithms best-of-n psp mcts] [--times 16] [--prompts 30] [--seeds 3]

Every search has the budget `--times` x T guided evaluations (NFE), T = 30, and sees the guide alone; the verifier judges the
image that it returns. Seeds of a prompt are averaged, then intervals are 95 % bootstrap intervals over prompts; `difference` is
that of the same prompts and seeds from best-of-n. Resumable: groups of searches are kept under runs/ as they end.
"""

from __future__ import annotations

import argparse
import json
from hashlib import md5

import matplotlib
import numpy as np

from benchmarks.common import RESULTS, ROOT, interval, write
from benchmarks.pool import key
from mcts_ray import SearchConfig, Searcher
from mcts_ray.config import parse_setting
from mcts_ray.scenes import prompts
from mcts_ray.scenes.scorer import WEIGHTS

GROUP = 30
LEVELS = 30
FIGURES = ("gold", "pass", "guide")
BASE = "best-of-n"


def searched(searcher: Searcher, texts: list[str], config: SearchConfig) -> list[dict]:
    """One row for each prompt: gold, pass and guide of the returned image, and what it cost."""
    return [
        {
            "gold": result.gold,
            "pass": float(result.passed),
            "guide": result.best.reward,
            "nfe": result.ledger.nfe,
            "decodes": result.ledger.decodes,
            "seconds": result.ledger.denoiser_seconds + result.scoring_seconds,
        }
        for result in searcher.many(texts, config)
    ]


def rows_of(searcher: Searcher, folder, name: str, texts: list[str], config: SearchConfig, label: str) -> list[dict]:
    """All rows of one algorithm, prompt set and seed; groups that are there already are read."""
    rows = []
    for at in range(0, len(texts), GROUP):
        path = folder / f"{label}-{name}-{config.seed}-{at}-{len(texts[at : at + GROUP])}.json"
        if not path.exists():
            found = searched(searcher, texts[at : at + GROUP], config)
            path.with_suffix(".partial").write_text(json.dumps(found))
            path.with_suffix(".partial").replace(path)
            print(f"{label}, {name}, seed {config.seed}: {at + len(found)} of {len(texts)}", flush=True)
        rows += json.loads(path.read_text())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=[BASE, "psp", "mcts"])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="SearchConfig fields of mcts")
    parser.add_argument("--sets", nargs="+", default=["medium", "hard"])
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--times", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=30, help="of each set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", default="quality", help="of the results file")
    args = parser.parse_args()
    searcher = Searcher.from_pretrained("scenes")
    settings = dict(parse_setting(text) for text in args.set)
    weights = f"{key(searcher, LEVELS)}-{md5((WEIGHTS / 'scorer' / 'model.safetensors').read_bytes()).hexdigest()[:8]}"
    folder = ROOT / "runs" / f"{args.name}-{args.split}-{args.times}-{weights}"
    folder.mkdir(parents=True, exist_ok=True)
    table = {}
    for name in args.sets:
        texts = prompts(name, args.split)[: args.prompts]
        values = {}
        for seed in range(args.seeds):
            for algorithm in args.algorithms:
                own = settings if algorithm == "mcts" else {}
                config = SearchConfig(algorithm=algorithm, budget=args.times * LEVELS, levels=LEVELS, seed=seed, images=1, **own)
                label = algorithm + "".join(f",{k}={v}" for k, v in own.items())
                values.setdefault(algorithm, []).append(rows_of(searcher, folder, name, texts, config, label))
        table[name] = {algorithm: _figures(runs, values.get(BASE)) for algorithm, runs in values.items()}
    design = {"split": args.split, "times": args.times, "levels": LEVELS, "prompts": args.prompts, "seeds": args.seeds}
    write(args.name, {**design, "mcts": settings, "interval": "95 % bootstrap over prompts: [mean, low, high]", "rows": table})
    _plot(table, args)


def _figures(runs: list[list[dict]], base: list[list[dict]] | None) -> dict:
    """Figures of one algorithm: means over seeds first, then over prompts."""
    mean_P = {what: np.mean([[row[what] for row in run] for run in runs], 0) for what in (*FIGURES, "nfe", "decodes", "seconds")}
    figures = {what: interval(mean_P[what]) for what in FIGURES}
    if base is not None and base is not runs:
        for what in FIGURES:
            figures[f"{what}_difference"] = interval(mean_P[what] - np.mean([[row[what] for row in run] for run in base], 0))
    return figures | {what: round(float(mean_P[what].mean()), 2) for what in ("nfe", "decodes", "seconds")}


def _plot(table: dict, args: argparse.Namespace) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    colours = dict(zip(args.algorithms, ("#8a99a6", "#e09f3e", "#2a6f97", "#4c9f70", "#c8553d")))
    for axis, what in zip(axes, ("gold", "pass"), strict=True):
        for place, (name, row) in enumerate(table.items()):
            for number, (algorithm, figures) in enumerate(row.items()):
                mean, low, high = figures[what]
                x = place + 0.22 * (number - (len(row) - 1) / 2)
                axis.errorbar(x, mean, [[mean - low], [high - mean]], fmt="o", ms=7, capsize=4, color=colours[algorithm])
                axis.annotate(f"{mean:.2f}", (x, mean), (7, -3), textcoords="offset points", fontsize=8)
        axis.set_xticks(range(len(table)), table)
        axis.set_xlim(-0.6, len(table) - 0.3)
        axis.set(title={"gold": "gold: share of facts that hold", "pass": "pass: all facts hold"}[what])
        axis.grid(alpha=0.2, axis="y")
    for algorithm, colour in colours.items():
        axes[0].plot([], [], "o", color=colour, label=algorithm)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{args.prompts} {args.split} prompts a set × {args.seeds} seeds at {args.times} × T", fontsize=10)
    figure.savefig(RESULTS / f"{args.name}.png", dpi=130)


if __name__ == "__main__":
    main()
