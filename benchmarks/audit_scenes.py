"""Are the step scores of scenes to be trusted? The audit of `mcts-ray audit` at full size, on hard test prompts.

    python -m benchmarks.audit_scenes [--step-reward x0 value lrm] [--keep-pool] [--tiny]

60 prompts x 32 trajectories scored at all 30 levels; siblings: 60 prompts x 4 levels x 8 children x 8 completions; best-of-n: 40
prompts x 320 samples; jump paths: 20 prompts x 4 noises, T = 8. With 370 NFE/s and 4.2 ms to decode and score an image about 39 minutes
for x0 on two cores (trajectories 7, siblings 12, pool 18, paths 1, figures 1); each further score that needs no decoding about 3 more.
Resumable: runs/audit-scenes holds what has ended, audit.html too. A calibration for use in searches is made on validation prompts:

    mcts-ray audit --split validation --count 60 --trajectories 32 --siblings 4x8x8 --pool 0 --paths 0 --out runs/calibrate-x0 \\
      --calibrate mcts_ray/scenes/weights/x0/calibration.json
"""

from __future__ import annotations

import argparse
import json

import matplotlib

from benchmarks.common import RESULTS, ROOT, write
from mcts_ray.audit import plots
from mcts_ray.audit.carry_out import carry_out
from mcts_ray.audit.request import make_audit

FULL = {"count": 60, "trajectories": 32, "levels": 30, "siblings": "4x8x8", "pool": "40x320", "paths": "20x4"}
TINY = {"count": 4, "trajectories": 6, "levels": 10, "siblings": "2x4x3", "pool": "3x16", "paths": "2x1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-reward", nargs="+", default=["x0"], help="the first is the reference")
    parser.add_argument("--step-model", nargs="*", default=[], metavar="NAME=PATH")
    parser.add_argument("--set-name", default="hard")
    parser.add_argument("--split", default="test")
    parser.add_argument("--tiny", action="store_true", help="a size that shows that it runs")
    parser.add_argument("--keep-pool", action="store_true", help="take best-of-n, which knows no step score, from the last results")
    parser.add_argument("--name", default="audit_scenes", help="of the results file")
    args = parser.parse_args()
    size = TINY if args.tiny else FULL
    kept = json.loads((RESULTS / f"{args.name}.json").read_text()) if args.keep_pool else None
    audit = make_audit(
        out=ROOT / "runs" / args.name.replace("_", "-"),
        step_rewards=args.step_reward,
        step_models=args.step_model,
        set_name=args.set_name,
        split=args.split,
        executor="local",
        **(size | {"pool": "0"} if kept else size),
    )
    found = carry_out(audit, lambda line: print(line, flush=True))
    if kept:
        pool = kept.get("pool") or {name: kept[name] for name in ("commit", "date")}
        found |= {"over_optimisation": kept["over_optimisation"], "pool": {"size": size["pool"], **pool}}
    _plot(found, args.name)
    found.pop("versions")
    write(args.name, {"interval": "_ci and triples: 95 % bootstrap over prompts", **found})


def _plot(found: dict, name: str) -> None:
    """The six plots of the page in one picture."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = {
        "rank correlation": plots.ranking(found),
        "what pruning keeps": plots.pruning(found),
        "calibration error": plots.certainty(found),
    }
    drawn |= {"children of one state": plots.siblings(found), "path regret": plots.path_regret(found)}
    if found["over_optimisation"]:
        drawn["over-optimisation"] = plots.optimisation(found["over_optimisation"])
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), constrained_layout=True)
    for axis, (title, draw) in zip(axes.flat, drawn.items()):
        draw(axis)
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.2)
    design = found["design"]
    figure.suptitle(
        f"{design['texts']} {design['source']} prompts × {design['trajectories']} trajectories, T = {design['levels']}", fontsize=10
    )
    figure.savefig(RESULTS / f"{name}.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
