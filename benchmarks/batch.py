"""Denoiser throughput over batch sizes, and how much of it a study of many small searches gets.

    python -m benchmarks.batch [--model scenes] [--sizes 1 2 4 … ] [--device auto]

NFE/s: guided evaluations of one sample each second, bare `Denoiser.denoise` calls. The study row is a `LocalExecutor`
carrying out `--searches` best-of-n searches of 4 trajectories together, decode and reward included, measured in turn
with bare batches of its batch size in the same run; the figure to compare is the ratio of medians. `fastest`: of the sizes the one that
`batch_size="profile"` would take.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import matplotlib
import torch

from benchmarks.common import RESULTS, write
from mcts_ray import SearchConfig, Searcher
from mcts_ray.diffusion.sizing import pick
from mcts_ray.scenes import prompts
from mcts_ray.search import Setting


def bare(searcher: Searcher, batch: int, guidance: float, seconds: float = 2.0) -> float:
    """NFE/s of denoise calls on one full batch, over about `seconds`."""
    side = searcher.backend.adapter.default_size
    texts = prompts("hard", "validation")[:batch]
    settings = [Setting(texts[i % len(texts)], guidance=guidance, height=side[0], width=side[1]) for i in range(batch)]
    x = torch.randn(batch, *searcher.backend.adapter.latent_shape(*side), device=searcher.backend.adapter.device)
    level = torch.arange(batch) % 30 + 1
    searcher.backend.denoiser.denoise(x, level, settings)
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        searcher.backend.denoiser.denoise(x, level, settings)
        if x.is_cuda:
            torch.cuda.synchronize()
        calls += 1
    return calls * batch / (time.perf_counter() - began)


def study(searcher: Searcher, searches: int, seed: int) -> tuple[float, float]:
    """(NFE/s of the wall clock, share of it spent in the denoiser) of many small searches together."""
    config = SearchConfig(algorithm="best-of-n", budget=4 * 30, levels=30, images=1, seed=seed, in_flight=4)
    began = time.perf_counter()
    results = searcher.many(prompts("hard", "validation")[:searches], config)
    wall = time.perf_counter() - began
    nfe = sum(r.ledger.nfe for r in results)
    return nfe / wall, sum(r.ledger.denoiser_seconds for r in results) / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--searches", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="batch")
    args = parser.parse_args()
    searcher = Searcher.from_pretrained(args.model, device=args.device, dtype=args.dtype, batch_size=64)
    curve = {size: [] for size in args.sizes}
    full, together, share = [], [], []
    for round_ in range(args.rounds):
        for size in args.sizes:
            curve[size].append(bare(searcher, size, 3.0))
        full.append(bare(searcher, 64, 3.0, seconds=8))
        rate, part = study(searcher, args.searches, round_)
        together.append(rate)
        share.append(part)
    rows = [{"batch": size, "nfe_per_second": round(median(v), 1)} for size, v in curve.items()]
    results = {
        "device_used": str(searcher.backend.adapter.device),
        "dtype": args.dtype,
        "rounds": args.rounds,
        "rows": rows,
        "fastest": pick({row["batch"]: row["nfe_per_second"] for row in rows}),
        "study": {
            "searches": args.searches,
            "budget": 120,
            "nfe_per_second": round(median(together), 1),
            "bare_batch_64": round(median(full), 1),
            "ratio": round(median(together) / median(full), 3),
            "denoiser_share_of_wall": round(median(share), 3),
        },
    }
    write(args.name, results)
    _plot(rows, results["device_used"], args.name)


def _plot(rows: list[dict], device: str, name: str) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.6), constrained_layout=True)
    sizes = [r["batch"] for r in rows]
    axis.plot(sizes, [r["nfe_per_second"] for r in rows], "o-", color="#2a6f97")
    axis.set(xscale="log", xlabel="batch size", ylabel="guided NFE/s", title=f"Denoiser throughput on {device}")
    axis.set_xticks(sizes, sizes)
    axis.set_ylim(0)
    axis.grid(alpha=0.2)
    figure.savefig(RESULTS / f"{name}.png", dpi=130)


if __name__ == "__main__":
    main()
