"""Searches compared at equal cost: gold and pass of the returned image, by algorithm, a study on `mcts_ray.compare`.

    python -m benchmarks.quality [--study first|screen|main|schedulers|pruning|scores] [--prompts 30] [--seeds 3] [--full]

first: best-of-n, psp and mcts at 16 T on medium and hard test prompts. screen: every algorithm, both eta, at 8 T on hard
validation prompts. main: psp and the best four of the screen at 2, 4, 8, 16 T on hard test prompts. schedulers: eta, schedules of
phi, grids, T and order for best-of-n and mcts at 8 times 30 NFE, pruning: the rules of mcts at 16 T, both on hard validation
prompts. scores: psp and mcts by each step score at 8 T on hard test prompts. Intervals are 95 % bootstrap intervals over prompts,
seeds averaged within a prompt; `difference` is paired with the first arm. Resumable: runs/NAME holds what has ended, rows.csv and
page.html of the study too; pools of finished samples are shared in runs/pools.
"""

from __future__ import annotations

import argparse
from textwrap import wrap

import matplotlib
import numpy as np

from benchmarks.common import RESULTS, ROOT, write
from mcts_ray.compare.carry_out import carry_out
from mcts_ray.compare.design import every_arm
from mcts_ray.compare.request import make_comparison

LEVELS = 30
BASE = "best-of-n"
VALIDATION = 20  # prompts on whose pools the jump policy of best-of-n is chosen
_BOTH = ("grid=trailing", "grid=karras", "grid=ays", "levels=15", "levels=10", "order=2")  # scenes' own grid is leading
SCHEDULERS = [  # the first arm is T = 30 with eta 0; at T = 30 a constant phi branches mcts as the taper does
    BASE,
    *(f"{BASE},{fields}" for fields in ("eta=0.5", "eta=1")),
    *(f"{BASE},phi_schedule={fields}" for fields in ("constant,phi=0.3", "taper,phi=0.3", "cosine,phi=0.6")),
    *(f"{BASE},{fields}" for fields in (*_BOTH, "grid=ays,levels=10", "order=2,k=2")),
    "mcts",
    *(f"mcts,{fields}" for fields in ("phi=0.3", "phi=0.9", "phi_schedule=linear,phi=0.9", "phi_schedule=cosine,phi=0.9")),
    *(f"mcts,{fields}" for fields in (*_BOTH, "rollout_stride=2", "order=2,rollout_stride=2")),
]
PRUNING = ["mcts", *(f"mcts,prune={rules}" for rules in ("statistical", "stages", '["statistical","stages"]'))]
PRUNING += [f"mcts,fuse=innovation{fields}" for fields in ("", ",particles=retire")]  # the particles of a fusion kept or pruned
SCORES = [BASE, *(f"{name},step_reward={score}" for score in ("x0", "lrm", "value") for name in ("psp", "mcts"))]
EVERY = [arm.label for arm in every_arm(LEVELS)]
STUDIES = {  # arms, budgets, sets, split, prompts of each set, seeds, samples of the pools
    "first": ([BASE, "psp", "mcts"], "16", ["medium", "hard"], "test", 30, 3, 0),
    "screen": (EVERY, "8", ["hard"], "validation", 40, 1, 0),
    "main": ([BASE, "psp", "beam", "svdd", "rbf", "bfs"], "2,4,8,16", ["hard"], "test", 100, 3, 128),  # the best four of the screen
    "schedulers": (SCHEDULERS, "8", ["hard"], "validation", 40, 1, 0),
    "pruning": (PRUNING, "16", ["hard"], "validation", 40, 1, 0),
    "scores": (SCORES, "8", ["hard"], "test", 60, 3, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="first", choices=STUDIES)
    parser.add_argument("--arms", nargs="+", help="other arms, the reference first, as in mcts,phi=0.4")
    parser.add_argument("--times", help="other budgets, as in 2,4,8,16")
    parser.add_argument("--prompts", type=int, help="of each set")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--group", type=int, default=30, help="prompts searched together [30]; 1: seconds of a lone search")
    parser.add_argument("--pool", type=int, help="samples per prompt of the pools, 0: none")
    parser.add_argument("--policy", nargs="+", default=(), help="jump policies of the pools, as in k=4 [those of mcts-ray compare]")
    parser.add_argument("--oracle", action="store_true", help="each arm once more, guided by the verifier")
    parser.add_argument("--full", action="store_true", help="every algorithm, 2 to 16 T, 100 prompts, 3 seeds, pools of 128")
    parser.add_argument("--name", help="of the results file")
    args = parser.parse_args()
    arms, times, sets, split, prompts, seeds, pool = STUDIES[args.study]
    if args.full:
        own = [arm for arm in arms if "," in arm and arm not in EVERY]  # a name alone is one of EVERY
        arms, times, prompts, seeds, pool = [*EVERY, *own], "2,4,8,16", 100, 3, 128
    comparison = make_comparison(
        args.arms or arms,
        out=ROOT / "runs" / (args.name or f"quality-{args.study}"),
        times=args.times or times,
        set_names=sets,
        split=split,
        count=args.prompts or prompts,
        seeds=args.seeds or seeds,
        levels=LEVELS,
        pool=pool if args.pool is None else args.pool,
        policies=args.policy,
        validation_count=VALIDATION,
        oracle=args.oracle,
        group=args.group,
        executor="local",
        pools=ROOT / "runs" / "pools",
    )
    summary = carry_out(comparison, lambda line: print(line, flush=True))
    design = comparison.design
    name = args.name or ("quality" if args.study == "first" else f"quality-{args.study}")
    about = {"split": split, "times": design.times[0] if len(design.times) == 1 else list(design.times), "levels": LEVELS}
    about |= {"prompts": args.prompts or prompts, "seeds": design.seeds, "together": design.group}
    about["interval"] = "95 % bootstrap over prompts: [mean, low, high]"
    if len(design.times) == 1:
        table = {name: {row["arm"]: _figures(row) for row in one["rows"]} for name, one in summary["sets"].items()}
    else:
        table = {name: {f"{r['arm']} {r['times']}x": _figures(r) for r in one["rows"]} for name, one in summary["sets"].items()}
    pools = {name: one["pool"] for name, one in summary["sets"].items() if one["pool"]}
    write(name, {**about, "rows": table, **({"pools": pools} if pools else {})})
    _plot(summary, name, f"{about['prompts']} {split} prompts a set × {design.seeds} seeds, T = {LEVELS}")


def _figures(row: dict) -> dict:
    """The figures of one arm under the names of the results files."""
    figures = {what: row[known] for what, known in (("gold", "gold"), ("pass", "passed"), ("guide", "guide"))}
    for what, known in (("gold", "gold"), ("pass", "passed"), ("guide", "guide")):
        if "difference" in row:
            figures[f"{what}_difference"] = row["difference"][known]
    figures |= {"nfe": row["nfe"], "decodes": row["decodes"], "seconds": round(row["busy_seconds"], 2)}
    more = ("difference_sd", "over_best_of_n_first", "over_best_of_n_best", "multiplier_first", "multiplier_best")
    more += ("reward_error", "pruning")
    return figures | {what: row[what] for what in more if what in row}


def _plot(summary: dict, name: str, title: str) -> None:
    """Gold and pass of every arm and budget, with intervals: a row of panels for each prompt set."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    texts = [["\n".join(wrap(f"{r['arm']}  {r['times']}×".replace(",", ", "), 40)) for r in one["rows"]] for one in summary["sets"].values()]
    most = max(sum(1 + label.count("\n") for label in labels) for labels in texts)
    size = (9, (1 + 0.24 * most) * len(texts))
    figure, axes = plt.subplots(len(texts), 2, figsize=size, constrained_layout=True, squeeze=False)
    for (set_name, one), labels, pair in zip(summary["sets"].items(), texts, axes, strict=True):
        for axis, what in zip(pair, ("gold", "passed"), strict=True):
            mean, low, high = np.array([row[what] for row in one["rows"]]).T
            axis.errorbar(mean, range(len(labels)), xerr=[mean - low, high - mean], fmt="o", ms=5, capsize=3, color="#2a6f97")
            axis.set_yticks(range(len(labels)), labels if what == "gold" else [""] * len(labels), fontsize=7)
            axis.set_title(f"{set_name}: {'share of facts that hold' if what == 'gold' else 'all facts hold'}", fontsize=9)
            axis.invert_yaxis()
            axis.grid(alpha=0.2)
    figure.suptitle(title, fontsize=10)
    figure.savefig(RESULTS / f"{name}.png", dpi=130)


if __name__ == "__main__":
    main()
