"""Fuse-and-deepen: how long a fusion takes, and whether it is worth its evaluation.

    python -m benchmarks.fusion [--stage all|time|0|1|2] [--jump 2] [--count N] [--modes MODE ...] [--decoder DIR] [--seeds 4]

time: one thread; 10 particles of SD 1.5 and SDXL latents fused, with and without the draw of their noises.
0: one step. `--count` parents (4000) at five levels, 8 children each; the step score (guide on the predicted image) of the fused
   child of every mode against that of a ninth fresh child, in standard deviations of siblings; acceptance; kappa.
1: completions. `--count` parents (600); the best child, one more fresh child and the fused ones (`--modes`, four) are each
   finished four times, with the same noises in all arms; guide, gold and blur of the images.
2: searches. mcts at 8 T without fusion, with a fresh child in its place and with the two modes that had most gold in stage 1
   (by its results file); `--count` prompts (200) x `--seeds`.

All on hard validation prompts of scenes, by jumps of `--jump` levels. Weights come from the guide alone; gold judges what is finished,
and says, as `verdict` of 1 and 2, whether fusion ships on. Where a mode refuses or falls back is counted, and `as_asked` are the figures
without it. Resumable, and several processes share a stage (each with OMP_NUM_THREADS=1): runs/fusion holds what has ended, group by
group. Intervals are 95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from benchmarks import fusion_study
from benchmarks.common import RESULTS, ROOT, bars, write
from benchmarks.fusion_lab import JUMP, LEVELS
from mcts_ray.settings import parse_setting
from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.store import SIDE
from mcts_ray.fusion.decoder import DecoderNetwork, decoded
from mcts_ray.fusion.ensemble import ensemble
from mcts_ray.fusion.features import feature_transport
from mcts_ray.fusion.fuser import fuse
from mcts_ray.fusion.innovation import barycenter
from mcts_ray.fusion.x0_transport import x0_transport
from mcts_ray.tree.weights import MODES, Refusal, fusion_weights

PARTICLES, REPEATS = 10, 15
LIMITS = {"innovation, SDXL": 5.0, "x0_transport, SD 1.5": 100.0, "x0_transport, SDXL": 100.0}  # ms; both transports of 256 tokens
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # read when numpy and torch are loaded
SHAPES = {"SD 1.5": (4, 64, 64), "SDXL": (4, 128, 128)}
TAPPED = 1280  # channels of the tap of both, whose maps are kept with at most `SIDE` cells a side
COUNTS = {"0": 4000, "1": 600, "2": 200}


def timings() -> dict[str, dict[str, float]]:
    """Median wall and CPU milliseconds of one fusion of 10 particles, in a process with `THREADS`."""
    torch.set_num_threads(1)
    a = fusion_weights("innovation", list(np.random.default_rng(0).standard_normal(PARTICLES))).a
    a_N = torch.tensor(a)
    names = [f"particle {i}" for i in range(PARTICLES)]
    rows = {}
    for model, shape in SHAPES.items():
        z_NCHW, eps_NCHW, x0_NCHW = draw(names, shape), draw([f"{n} eps" for n in names], shape), moving(shape)
        assert not isinstance(x0_transport(x0_NCHW, eps_NCHW, a_N, 0.8, 0.6), Refusal), "tokens must move, or nothing is timed"
        rows[f"draw, {model}"] = _time(lambda: draw(names, shape))
        rows[f"innovation, {model}"] = _time(lambda: barycenter(z_NCHW, a_N))
        rows[f"innovation with the draw, {model}"] = _time(lambda: fuse(names, a, shape))
        rows[f"ensemble, {model}"] = _time(lambda: ensemble(z_NCHW, x0_NCHW, a_N))
        rows[f"x0_transport, {model}"] = _time(lambda: x0_transport(x0_NCHW, eps_NCHW, a_N, 0.8, 0.6))
        rows[f"x0_transport of equal weights, {model}"] = _time(lambda: x0_transport(x0_NCHW, eps_NCHW, torch.ones(PARTICLES), 0.8, 0.6))
        f_NChw = features(x0_NCHW)
        rows[f"features, {model}"] = _time(lambda: feature_transport(x0_NCHW, eps_NCHW, f_NChw, a_N, 0.8, 0.6))
        network, x_NCHW = DecoderNetwork(TAPPED, 4, shape[1] // SIDE), 0.8 * x0_NCHW + 0.6 * eps_NCHW
        rows[f"decoder, {model}"] = _time(lambda: decoded(z_NCHW, x_NCHW, f_NChw, a_N, (x_NCHW[0], 0.3), 0.0, network))
    return rows


def features(x0_NCHW: torch.Tensor) -> torch.Tensor:
    """Features (N, C', h, w) of the size that is kept of SD 1.5 and SDXL, in which the same moves as in the predictions."""
    small_NCHW = adaptive_avg_pool2d(x0_NCHW, SIDE)
    return small_NCHW.repeat(1, TAPPED // 4, 1, 1) + 0.2 * draw([f"features {i}" for i in range(PARTICLES)], (TAPPED, SIDE, SIDE))


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


def time_fusions(name: str) -> None:
    """Measure and write; in a process of its own unless this one was started with `THREADS`."""
    if any(os.environ.get(variable) != count for variable, count in THREADS.items()):
        command = [sys.executable, "-m", "benchmarks.fusion", "--stage", "time", "--name", name]
        subprocess.run(command, cwd=ROOT, env=os.environ | THREADS, check=True)
        return
    rows = timings()
    limits = {row: {"ms": limit, "holds": rows[row]["ms"] <= limit} for row, limit in LIMITS.items()}
    bars(f"{name}-time", {"ms of one fusion, 10 particles": {row: found["ms"] for row, found in rows.items()}})
    passed = all(limit["holds"] for limit in limits.values())
    write(f"{name}-time", {"particles": PARTICLES, "threads": 1, "passed": passed, "limits": limits, "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="all", choices=("all", "time", *COUNTS))
    parser.add_argument("--count", type=int, help="of one stage: parents, or prompts of stage 2 [4000, 600, 200]")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        help="of one stage [0: all; 1: innovation, signed, ensemble, x0_transport; 2: the best two of stage 1]",
    )
    parser.add_argument("--decoder", type=Path, help="folder of a fusion decoder [the shipped one, or none]")
    parser.add_argument("--jump", type=int, default=JUMP, choices=range(1, min(LEVELS)), metavar="K", help="levels of every jump [2]")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each prompt in stage 2")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of all searches of stage 2")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fusion")
    parser.add_argument("--name", default="fusion", help="of the results files")
    args = parser.parse_args()
    if args.stage == "all" and (args.count or args.modes):
        parser.error("--count and --modes are of one stage; name it with --stage")
    for stage in ["time", *COUNTS] if args.stage == "all" else [args.stage]:
        if stage == "time":
            time_fusions(args.name)
        else:
            _study(stage, args)


def _study(stage: str, args: argparse.Namespace) -> None:
    count = args.count or COUNTS[stage]
    settings = dict(parse_setting(text) for text in args.set)
    before = RESULTS / f"{args.name}-stage1.json"
    finished = json.loads(before.read_text()) if stage == "2" and before.exists() else None
    options = fusion_study.Options(count, args.modes, args.decoder, args.seeds, settings, args.jump, finished)
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
