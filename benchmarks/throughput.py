"""What the engine makes of a denoiser: mixed work against full batches, static batches and diffusers pipelines, side by side.

    python -m benchmarks.throughput [--models scenes] [--device auto] [--dtype fp32] [--batch N] [--seconds 20] [--rounds 3]

NFE/s: guided evaluations of one sample each second. Mixed work: single jumps of 1, 2, 4 and 8 levels from states that are kept, and
roll-outs to level 0 by the same strides, in turn, of eight prompts, with as many waiting as there are slots. In turn, in each round:

    engine      the slot machine: who has finished leaves, who waits joins
    bare        the same number of samples in every call, at mixed levels: `denoise` on one fixed full batch, nothing else
    unet        the U-Net alone on the same batch, without steps, prompts or guidance arithmetic
    static      the same units in batches that begin and end together, filled up to their size, as a pipeline runs them
    pipeline    one diffusers pipeline call for one image after the other, T = 30, latents only

Ratios are of the medians over the rounds; `passed`: all are as `wanted`, otherwise the exit code is 1. Models: scenes, or random weights of
the size of SD 1.5 or SDXL (sd15, sdxl; on a GPU in fp16).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import cycle
from statistics import median
from typing import Any

import torch

from benchmarks.common import bars, write
from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.device import resolve_device, resolve_dtype
from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.sizing import choose_batch_size
from mcts_ray.search.base import Edge, Setting, Work

T, GUIDANCE, STRIDES = 30, 3.0, (1, 2, 4, 8)
PROMPTS = [f"a {colour} {shape}" for colour in ("red", "green", "blue", "yellow") for shape in ("circle", "square")]
PARENT = 24  # level of the states from which jumps are made
WANTED = {"engine / bare": 0.95, "engine / static": 1.5, "engine / pipeline": 3.0}


class Mixed:
    """Units without end: jumps and roll-outs in turn. parents: ids of kept states at level `PARENT`, by prompt."""

    def __init__(self, adapter) -> None:
        height, width = adapter.default_size
        self.settings = [Setting(prompt, guidance=GUIDANCE, levels=T, height=height, width=width) for prompt in PROMPTS]
        self.kinds = cycle([(kind, k) for k in STRIDES for kind in ("jump", "rollout")])
        self.count = 0

    def parents(self) -> list[Work]:
        """Walks that leave the states to jump from."""
        edges = [tuple(Edge(f"p{at}/{level}", level) for level in range(T, PARENT - 1, -1)) for at in range(len(self.settings))]
        return [Work(f"p{at}", "s", self.settings[at], None, "seed", one, keep=(one[-1].node,)) for at, one in enumerate(edges)]

    def unit(self) -> Work:
        """The next one."""
        (kind, k), at, self.count = next(self.kinds), self.count % len(self.settings), self.count + 1
        name, setting = f"u{self.count}", self.settings[at]
        if kind == "jump":
            return Work(name, "s", setting, f"p{at}/{PARENT}", "jump", (Edge(name, PARENT - k, 0.5),))
        levels = [*range(T, 0, -k), 0]
        return Work(name, "s", setting, None, "seed", tuple(Edge(f"{name}/{level}", level) for level in levels))


def clocked(step: Callable[[], int], seconds: float, device: torch.device) -> float:
    """NFE each second of calls of `step`, which says how many it made; the first is not counted."""
    step()
    _wait(device)
    total, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        total += step()
        _wait(device)
    return total / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def engine(denoiser: Denoiser, size: int) -> Callable[[], int]:
    """One call of the engine, kept full."""
    made, mixed = Engine(denoiser, size), Mixed(denoiser.adapter)
    made.submit(mixed.parents())
    while not made.idle:
        made.step()
    out = [0]

    def step() -> int:
        while out[0] < 2 * size:
            made.submit([mixed.unit()])
            out[0] += 1
        before = made.nfe
        out[0] -= len(made.step())
        return made.nfe - before

    for _ in range(T):  # until its slots are at all levels
        step()
    return step


def static(denoiser: Denoiser, size: int) -> Callable[[], int]:
    """One batch of units from its beginning to the end of its last."""
    made, mixed = Engine(denoiser, size), Mixed(denoiser.adapter)
    made.submit(mixed.parents())
    while not made.idle:
        made.step()
    (lane,) = made._lanes.values()

    def batch() -> int:
        units = [mixed.unit() for _ in range(size)]
        made.submit(units)
        while len(lane):
            lane.step(size)
        return sum(unit.nfe for unit in units)

    return batch


def bare(denoiser: Denoiser, size: int) -> Callable[[], int]:
    """One `denoise` call on a full batch."""
    x, settings, levels = _batch(denoiser, size)

    def call() -> int:
        denoiser.denoise(x, levels, settings)
        return size

    return call


def unet(denoiser: Denoiser, size: int) -> Callable[[], int]:
    """One forward of the network alone on the samples of a full batch, with and without their prompts."""
    x, settings, levels = _batch(denoiser, size)
    seen: list[tuple[Any, ...]] = []
    adapter, forward = denoiser.adapter, denoiser.adapter.forward

    def record(*args):
        seen.append(args)
        return forward(*args)

    adapter.forward = record
    denoiser.denoise(x, levels, settings)
    adapter.forward = forward

    @torch.no_grad()
    def call() -> int:
        for args in seen:
            forward(*args)
        return size

    return call


def _batch(denoiser: Denoiser, size: int) -> tuple[torch.Tensor, list[Setting], list[int]]:
    settings = Mixed(denoiser.adapter).settings
    shape = denoiser.adapter.latent_shape(settings[0].height, settings[0].width)
    x = torch.randn(size, *shape, device=denoiser.device)
    return x, [settings[at % len(settings)] for at in range(size)], [at % T + 1 for at in range(size)]


def pipeline(pipe) -> Callable[[], int]:
    """One image by diffusers."""
    prompts = cycle(PROMPTS)

    def image() -> int:
        pipe(next(prompts), num_inference_steps=T, guidance_scale=GUIDANCE, output_type="latent")
        return T

    return image


def measured(model: str, device: str, dtype: str, size: int | None, seconds: float, rounds: int) -> dict[str, Any]:
    """All arms of one model."""
    pipe = load(model, device, dtype)
    adapter = make_adapter(pipe)
    denoiser = Denoiser(adapter)
    size = choose_batch_size(denoiser, adapter.latent_shape(*adapter.default_size), size)
    arms = {
        "engine": engine(denoiser, size),
        "bare": bare(denoiser, size),
        "unet": unet(denoiser, size),
        "static": static(denoiser, size),
        "pipeline": pipeline(pipe),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, step in arms.items():
            rates[name].append(clocked(step, seconds, adapter.device))
            print(f"{model}: {name} {rates[name][-1]:.1f} NFE/s", flush=True)
    found = {name: median(some) for name, some in rates.items()}
    ratios = {f"engine / {name}": round(found["engine"] / rate, 3) for name, rate in found.items() if name != "engine"}
    row = {"batch": size, "dtype": dtype, "nfe_per_second": {name: round(rate, 2) for name, rate in found.items()}, "ratios": ratios}
    row["holds"] = holds(ratios)
    if adapter.device.type == "cuda":
        row["gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        torch.cuda.reset_peak_memory_stats()
    return row


def holds(ratios: dict[str, float]) -> dict[str, bool]:
    """Which of the wanted ratios are reached."""
    return {name: ratios[name] >= least for name, least in WANTED.items()}


def load(model: str, device: str, dtype: str):
    """The pipeline of scenes, or one of random weights of the size of SD 1.5 or SDXL."""
    from mcts_ray.diffusion.load import load_pipeline

    if model == "scenes":
        return load_pipeline("scenes", device, dtype)
    from benchmarks.sized import PIPELINES

    pipe = PIPELINES[model]().to(resolve_device(device), resolve_dtype(dtype, resolve_device(device)))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["scenes"], choices=("scenes", "sd15", "sdxl"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default=None, help="fp32, bf16 or fp16; fp32 for scenes, fp16 for others on a GPU")
    parser.add_argument("--batch", type=int, help="slots; by default as many as a search would have")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each arm in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="throughput")
    args = parser.parse_args()
    device = resolve_device(args.device).type
    rows = {}
    for model in args.models:
        dtype = args.dtype or ("fp16" if device == "cuda" and model != "scenes" else "fp32")
        rows[model] = measured(model, device, dtype, args.batch, args.seconds, args.rounds)
    about = {"device_used": device, "threads": torch.get_num_threads(), "levels": T, "seconds": args.seconds, "rounds": args.rounds}
    passed = all(all(row["holds"].values()) for row in rows.values())
    write(args.name, {**about, "wanted": WANTED, "passed": passed, "rows": rows})
    bars(args.name, {f"{model}, batch {row['batch']}: NFE/s": row["nfe_per_second"] for model, row in rows.items()})
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
