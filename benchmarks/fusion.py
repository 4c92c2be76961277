"""Fuse-and-deepen: how long a fusion takes, and whether it is worth its evaluation.

    python -m benchmarks.fusion [--stage all|time|0|1|2] [--count N] [--modes MODE ...] [--decoder DIR] [--seeds 4]

time: one thread; the noise of SDXL fused from 10 particles, and token transports of SD 1.5 and SDXL latents.
0: one step. `--count` parents (4000) at five levels, 8 children each; the step score (guide on the predicted image) of the fused
   child of every mode against that of a ninth fresh child, in standard deviations of siblings; acceptance; kappa.
1: completions. `--count` parents (600); the best child, one more fresh child and the fused ones (`--modes`, four) are each
   finished four times, with the same noises in all arms; guide, gold and blur of the images.
2: searches. mcts at 8 T without fusion, with a fresh child in its place and with two modes; `--count` prompts (200) x `--seeds`;
   all arms take jumps of 2 levels, since at 8 T with jumps of 1 hardly a set of siblings grows to six.

All on hard validation prompts of scenes. Weights come from the guide alone; gold judges what is finished. Resumable: runs/fusion holds
what has ended, group by group. Intervals are 95 % bootstrap intervals over parents (0, 1) or prompts (2).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import fusion_study
from benchmarks.common import RESULTS, ROOT, bars, write
from mcts_ray.settings import parse_setting
from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.ensemble import ensemble
from mcts_ray.fusion.innovation import barycenter
from mcts_ray.fusion.x0_transport import x0_transport
from mcts_ray.tree.weights import MODES, Refusal, fusion_weights

PARTICLES, REPEATS = 10, 15
LIMITS = {"innovation, SDXL": 5.0, "x0_transport, SD 1.5": 100.0}  # ms
SHAPES = {"SD 1.5": (4, 64, 64), "SDXL": (4, 128, 128)}
COUNTS = {"0": 4000, "1": 600, "2": 200}


def timings() -> dict[str, dict[str, float]]:
    """Median wall and CPU milliseconds of one fusion of 10 particles on one thread."""
    torch.set_num_threads(1)
    a_N = torch.tensor(fusion_weights("innovation", list(np.random.default_rng(0).standard_normal(PARTICLES))).a)
    names = [f"particle {i}" for i in range(PARTICLES)]
    rows = {}
    for model, shape in SHAPES.items():
        z_NCHW, eps_NCHW, x0_NCHW = draw(names, shape), draw([f"{n} eps" for n in names], shape), moving(shape)
        assert not isinstance(x0_transport(x0_NCHW, eps_NCHW, a_N, 0.8, 0.6), Refusal), "tokens must move, or nothing is timed"
        rows[f"draw, {model}"] = _time(lambda: draw(names, shape))
        rows[f"innovation, {model}"] = _time(lambda: barycenter(z_NCHW, a_N))
        rows[f"ensemble, {model}"] = _time(lambda: ensemble(z_NCHW, x0_NCHW, a_N))
        rows[f"x0_transport, {model}"] = _time(lambda: x0_transport(x0_NCHW, eps_NCHW, a_N, 0.8, 0.6))
    return rows


def moving(shape: tuple[int, int, int]) -> torch.Tensor:
    """Predictions (N, C, H, W) in which a spot on a textured ground lies elsewhere for each particle."""
    _, H, W = shape
    y, x = torch.meshgrid(torch.arange(H) / H, torch.arange(W) / W, indexing="ij")
    places = 0.3 + 0.4 * torch.arange(PARTICLES) / (PARTICLES - 1)
    spots = torch.stack([3 * torch.exp(-((y - p) ** 2 + (x - 1 + p) ** 2) / 0.02) for p in places])
    return spots[:, None] + 0.2 * draw([f"ground {i}" for i in range(PARTICLES)], shape)


def _time(fuse) -> dict[str, float]:
    wall, cpu = [], []
    for _ in range(REPEATS):
        began = time.perf_counter(), time.process_time()
        fuse()
        wall.append(1e3 * (time.perf_counter() - began[0]))
        cpu.append(1e3 * (time.process_time() - began[1]))
    return {"ms": round(median(wall), 2), "cpu_ms": round(median(cpu), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="all", choices=("all", "time", *COUNTS))
    parser.add_argument("--count", type=int, help="parents, or prompts of stage 2 [4000, 600, 200]")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, help="[0: all; 1: innovation, signed, ensemble, x0_transport; 2: the first two]"
    )
    parser.add_argument("--decoder", type=Path, help="folder of a fusion decoder [the shipped one, or none]")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each prompt in stage 2")
    parser.add_argument("--set", nargs="*", default=["k=2"], metavar="NAME=VALUE", help="fields of all searches of stage 2 [k=2]")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fusion")
    parser.add_argument("--name", default="fusion", help="of the results files")
    args = parser.parse_args()
    stages = ["time", *COUNTS] if args.stage == "all" else [args.stage]
    for stage in stages:
        if stage == "time":
            rows = timings()
            bars(f"{args.name}-time", {"ms of one fusion, 10 particles": {name: row["ms"] for name, row in rows.items()}})
            write(f"{args.name}-time", {"particles": PARTICLES, "threads": 1, "limits_ms": LIMITS, "rows": rows})
            continue
        count = args.count or COUNTS[stage]
        settings = dict(parse_setting(text) for text in args.set)
        options = fusion_study.Options(count, args.modes, args.decoder, args.seeds, settings)
        found = fusion_study.STAGES[stage](args.out / f"stage{stage}", options)
        write(f"{args.name}-stage{stage}", {"count": count, **found})
        _plot(stage, found, f"{args.name}-stage{stage}")


def _plot(stage: str, found: dict, name: str) -> None:
    """The figures that decide, with intervals."""
    titles = {
        "0": {"over_fresh": "fused - fresh child, sibling sd", "gain": "fused - mean of siblings, sibling sd"},
        "1": {"gold_over_fresh": "gold - fresh child", "guide_over_fresh": "guide - fresh child"},
        "2": {"gold_difference": "gold - no fusion", "pass_difference": "pass - no fusion"},
    }[stage]
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = found["all"]
    bars(name, {title: {arm: row[figure] for arm, row in rows.items() if row.get(figure)} for figure, title in titles.items()})


if __name__ == "__main__":
    main()
