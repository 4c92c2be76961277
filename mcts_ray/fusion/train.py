"""Training of the fusion decoder: states that the engine itself has been in, and the features that the network had of them.

Trajectories of training prompts, with noise of any eta, are run by the engine; a few states of each are kept with their features,
shard by shard, so that a run that was cut off goes on. The decoder then learns D(f, log-SNR) = x by squared error:

    out/states/00000.safetensors, ...   features (N, C', h, w) fp16, x (N, C, H, W) fp16, log_snr (N,)
    out/fusion.pt, fusion.jsonl         checkpoint and metrics of the training loop
    out/config.json, model.safetensors  what `fuse_model` names

Shapes: N states of C channels, H x W latents; features of C' channels on h x w cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.diffusion.taps import middle_tap
from mcts_ray.fitting.loop import Progress, Recipe, fit
from mcts_ray.fusion.decoder import DecoderNetwork
from mcts_ray.fusion.fuser import log_snr
from mcts_ray.report.run import write_json
from mcts_ray.search.base import Edge, Setting, Work
from mcts_ray.search.ids import jump_id, seed_id

RECIPE = Recipe("fusion", steps=700, batch=64, lr=1e-3, ema=0.998, warmup=100)
LEVELS, SHARD, KEPT = 30, 32, 8  # of a trajectory; trajectories in a shard; states kept of each
HELD_OUT = 16  # one trajectory in so many is not trained on: states of one are too much alike
Report = Callable[[Progress], None]


def run(
    model: str,
    out: Path,
    *,
    prompts: Sequence[str] = (),
    trajectories: int = 512,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str = "auto",
    threads: int | None = None,
    report: Report | None = None,
) -> Path:
    """Collect states of `model` and train its decoder into `out`; returns the folder. `prompts` may be empty for scenes alone.

    Raises ValueError without prompts for another model, and where `out` holds states or a checkpoint of another run.
    """
    if not prompts and model != "scenes":
        raise ValueError(f"the states of {model} need prompts; give a file of them with --prompts")
    if threads:
        torch.set_num_threads(threads)
    denoiser = Denoiser(make_adapter(load_pipeline(model, device)))
    recipe = replace(RECIPE, seed=seed, steps=steps or RECIPE.steps)
    states = collect(denoiser, model, out, prompts, trajectories, recipe, report)
    network, held_out = train(states, out, recipe, resume=resume, report=report)
    about = {"tap": middle_tap(denoiser.adapter.tap_points), "model": model, "held_out_r2": held_out}
    network.save(out, {**about, "trajectories": trajectories, "recipe": asdict(recipe)})
    return out


def train(
    states: dict[str, torch.Tensor], out: Path, recipe: Recipe, *, resume: bool = True, report: Report | None = None
) -> tuple[DecoderNetwork, float]:
    """Minimise ||D(f, log-SNR) - x||^2; returns the network and the share of the variance of x that it explains on held-out trajectories.

    `states` are `KEPT` of each trajectory, one trajectory after the other.
    """
    features_NChw, x_NCHW = states["features"].float(), states["x"].float()
    held = torch.arange(len(x_NCHW)) // KEPT % HELD_OUT == 0
    known = (~held).nonzero()[:, 0]
    torch.manual_seed(recipe.seed)
    factor = x_NCHW.shape[-1] // features_NChw.shape[-1]
    network = DecoderNetwork(features_NChw.shape[1], x_NCHW.shape[1], max(1, factor))
    network.mean.copy_(features_NChw[known].mean((0, 2, 3)))
    network.sd.copy_(features_NChw[known].std((0, 2, 3)) + 1e-3)

    def missed(rows: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(network(features_NChw[rows], states["log_snr"][rows]), x_NCHW[rows])

    def loss_of_batch(rng: np.random.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return missed(known[torch.from_numpy(rng.integers(0, len(known), recipe.batch))]), {}

    network, _ = fit(recipe, network, loss_of_batch, out, resume=resume, report=report)
    with torch.no_grad():
        return network, round(1 - float(missed(held.nonzero()[:, 0]) / x_NCHW[held].var()), 4)


def collect(
    denoiser: Denoiser, model: str, out: Path, prompts: Sequence[str], trajectories: int, recipe: Recipe, report: Report | None = None
) -> dict[str, torch.Tensor]:
    """States with their features, of as many trajectories as fill whole shards; shards that are in `out` are read."""
    folder, parts = out / "states", []
    _open(folder, {**_about(denoiser, model, prompts, recipe.seed), "trajectories": trajectories})
    count = -(-trajectories // SHARD)
    for number in range(count):
        path = folder / f"{number:05d}.safetensors"
        if not path.exists():
            partial = path.with_suffix(".partial")
            save_file(_shard(denoiser, model, prompts, number, recipe.seed), partial)
            partial.replace(path)
            if report:
                report(Progress(0, recipe.steps, 0.0, 0.0, {"trajectories": (number + 1) * SHARD, "of": count * SHARD}))
        parts.append(load_file(path))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _about(denoiser: Denoiser, model: str, prompts: Sequence[str], seed: int) -> dict[str, Any]:
    """What the states depend on; the first and last layers stand for the network's weights."""
    digest = hashlib.blake2b("\n".join(prompts).encode(), digest_size=8)
    for layer in (denoiser.adapter.unet.conv_in, denoiser.adapter.unet.conv_out):
        digest.update(layer.weight.detach().float().cpu().numpy().tobytes())
    return {"model": model, "seed": seed, "levels": LEVELS, "kept": KEPT, "key": digest.hexdigest()}


def _open(folder: Path, about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "about.json"
    if path.exists() and json.loads(path.read_text()) != about:
        raise ValueError(f"{folder} holds states of another model, seed, number or prompts; train into another folder with --out")
    write_json(path, about)


def _shard(denoiser: Denoiser, model: str, prompts: Sequence[str], number: int, seed: int) -> dict[str, torch.Tensor]:
    """`SHARD` trajectories walked by an engine, and what it kept."""
    rng = np.random.default_rng([seed, 21, number])
    texts = [prompts[(number * SHARD + i) % len(prompts)] for i in range(SHARD)] if prompts else _captions(rng)
    engine = Engine(denoiser, SHARD)
    works = [_walk(denoiser, model, text, number * SHARD + i, seed, rng) for i, text in enumerate(texts)]
    engine.submit(works)
    while not engine.idle:
        for walked in engine.step():
            if walked.error:
                raise RuntimeError(f"a trajectory of {model} failed: {walked.error}")
    kept = [engine.store.get(work.search, node) for work in works for node in work.keep]
    return {
        "features": torch.stack([one.features for one in kept]).half().cpu(),
        "x": torch.stack([one.alpha * one.x0 + one.sigma * one.eps for one in kept]).half().cpu(),
        "log_snr": torch.tensor([log_snr(one.alpha, one.sigma) for one in kept]),
    }


def _captions(rng: np.random.Generator) -> list[str]:
    from mcts_ray.scenes.train.data import captions_of, random_scenes

    return captions_of(random_scenes(SHARD, rng))


def _walk(denoiser: Denoiser, model: str, prompt: str, index: int, seed: int, rng: np.random.Generator) -> Work:
    """A trajectory with the noise of some eta, and the states of it that are to be kept."""
    height, width = denoiser.adapter.default_size
    tap = middle_tap(denoiser.adapter.tap_points)
    guidance = 3.0 if model == "scenes" else 7.5
    setting = Setting(prompt, guidance=guidance, levels=LEVELS, height=height, width=width, tap=tap)
    levels, eta = denoiser.levels(LEVELS), rng.random()
    edges = [Edge(seed_id(seed, index), LEVELS)]
    for level in range(LEVELS, 1, -1):
        edges.append(Edge(jump_id(edges[-1].node, 1), level - 1, phi_from_eta(levels, level, level - 1, eta)))
    keep = tuple(edges[i].node for i in np.sort(rng.choice(LEVELS, KEPT, replace=False)))
    return Work(f"train/{index}", "train", setting, None, "seed", tuple(edges), keep)
