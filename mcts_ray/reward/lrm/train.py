"""Bradley-Terry training of a latent reward model on pairs at equal level (arXiv 2502.01051, section 4.2).

Shapes: P pairs of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mcts_ray.diffusion.levels import Levels
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.diffusion.quiet import quiet
from mcts_ray.diffusion.resolve import Model, resolve_model
from mcts_ray.fitting.loop import Progress, Recipe, check_same_run, fit
from mcts_ray.reward.lrm.accuracy import accuracies
from mcts_ray.reward.lrm.data import Data, bradley_terry, ranked_right
from mcts_ray.reward.lrm.files import write
from mcts_ray.reward.lrm.latents import encoded
from mcts_ray.reward.lrm.model import LatentRewardModel, check_encoders
from mcts_ray.reward.lrm.pairs import Pairs, read_pairs
from mcts_ray.reward.lrm.words import Words

SCENES = Recipe("lrm", steps=3000, batch=32, lr=4e-4, warmup=200, ema=0.998)
# The published recipes: AdamW, weight decay 0.3, gradients clipped at 1.
SD = Recipe("lrm", steps=4000, batch=128, lr=1e-5, warmup=500, weight_decay=0.3)
SDXL = replace(SD, steps=8000, batch=32, warmup=1000)
LEVELS = 20  # of Stable Diffusion's DDIM: the published time steps {1, 51, ..., 951}
LEVELS_OF_SCENES = 30  # those of its searches
HELD_OUT = 0.1  # share of the prompts
PART = 2**17  # numbers of the latents that go through the network at once: 4 pairs of 64 x 64 x 4, whose activations take gigabytes


def run(
    model: str,
    data: Path,
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str = "auto",
    threads: int | None = None,
    report: Callable[[str, Progress], None] | None = None,
    recipe: Recipe | None = None,
    levels: int | None = None,
) -> Path:
    """Train an LRM for the latents of `model` on the pairs in `data` and write config.json, model.safetensors and metrics.json to `out`.

    The last weights (their moving average) are kept, none are chosen by a metric: one level's accuracy says little of the others'.
    recipe, levels: by default those of the model's family. Raises ValueError with one sentence for pairs or a model that cannot be
    used, or a folder that holds a run on others.
    """
    if threads:
        torch.set_num_threads(threads)
    pairs = read_pairs(data)
    kept, held = split(pairs)
    found = resolve_model(model)
    pipe = load_pipeline(found, device)
    check_encoders(pipe)  # before the images are encoded
    recipe = recipe or _recipe(found, pipe)
    recipe = replace(recipe, seed=seed, steps=steps or recipe.steps)
    levels = levels or (LEVELS_OF_SCENES if found.name == "scenes" else LEVELS)
    notes = {"model": found.name, "data": pairs.fingerprint, "levels": levels}
    check_same_run(out, recipe, notes, resume, "holds a training run that differs in")
    tell = partial(report, "lrm") if report else None
    latents = encoded(pairs, pipe.vae, _size(pipe), out, _telling(tell, recipe, len(pairs.images)))
    known = Data(pairs, latents, Levels.from_scheduler(pipe.scheduler, levels), Words.of_pipeline(pipe), pipe.unet.device)
    torch.manual_seed(seed)
    with quiet():
        network = LatentRewardModel.from_pipeline(pipe).to(known.device)
    network, seconds = fit(recipe, network, partial(loss_of_batch, network, known, kept, recipe.batch), out, resume=resume, report=tell)
    write(network, out, pipe.vae, training=notes, timesteps=known.levels.timesteps_L[1:].int().tolist())
    metrics = {name: accuracies(network, known, pair_P) for name, pair_P in (("held_out", held), ("trained", kept))}
    counts = {"pairs": len(pairs), "prompts": len(pairs.prompts), "images": len(pairs.images), "held_out_pairs": len(held)}
    record = {**notes, **counts, "recipe": asdict(recipe), "seconds": round(seconds), "torch": torch.__version__, **metrics}
    (out / "metrics.json").write_text(json.dumps(record, indent=2) + "\n")
    return out


def split(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the pairs to train on, and of those of a tenth of the prompts, which are held out; the same for every seed.

    ValueError for pairs of one prompt only, or if all to train on are ties.
    """
    count = len(pairs.prompts)
    if count < 2:
        raise ValueError(f"{pairs.path} has pairs of one prompt only; training holds prompts out and needs at least two")
    order = np.random.default_rng(0).permutation(count)
    held = np.isin(pairs.prompt_P, order[: max(1, round(HELD_OUT * count))])
    if (pairs.label_P[~held] == 0.5).all():
        raise ValueError(f"{pairs.path} has only ties to train on, from which nothing can be learned; give pairs with a better image")
    return np.flatnonzero(~held), np.flatnonzero(held)


def loss_of_batch(model: LatentRewardModel, data: Data, kept: np.ndarray, batch: int, rng: np.random.Generator, step: int):
    """The loss of pairs drawn from `kept` at uniform levels, weighted by 1 / pairs of their prompt, and the share that it ranks right.

    A batch too large for the memory is gone through in parts, whose gradients add up; that of the last is left to the caller.
    """
    pair_P = rng.choice(kept, batch)
    level_P = rng.integers(1, data.levels.T + 1, batch)
    weight_P = torch.from_numpy(data.pairs.weight_P[pair_P].astype(np.float32))
    share_P = (weight_P / weight_P.sum()).to(data.device)
    label_P = torch.from_numpy(data.pairs.label_P[pair_P]).to(data.device)
    size = max(1, PART // (2 * data.latent_NCHW[0].size))
    total, right = torch.zeros((), device=data.device), 0.0
    for at in range(0, batch, size):
        part = slice(at, at + size)
        score_P2 = data.scores(model, pair_P[part], level_P[part])
        loss = (share_P[part] * bradley_terry(score_P2, label_P[part])).sum()
        right += ranked_right(score_P2.detach(), label_P[part]).sum().item()
        if at + size < batch:
            loss.backward()
            loss = loss.detach()
        total = total + loss
    decided = int((label_P != 0.5).sum())
    return total, {"accuracy": right / max(1, decided), "scale": model.logit_scale.exp().item()}


def _recipe(model: Model, pipe) -> Recipe:
    if model.name == "scenes":
        return SCENES
    return SD if getattr(pipe, "text_encoder_2", None) is None else SDXL


def _size(pipe) -> tuple[int, int]:
    """(height, width) in pixels that the generator was trained for."""
    side = pipe.unet.config.sample_size
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    height, width = (side, side) if isinstance(side, int) else side
    return height * factor, width * factor


def _telling(tell: Callable[[Progress], None] | None, recipe: Recipe, images: int) -> Callable[[int], None] | None:
    """Reports of the encoding, as progress of a run that has not begun."""
    if tell is None:
        return None
    return lambda done: tell(Progress(0, recipe.steps, 0.0, 0.0, {"images_encoded": done, "of": images}))
