"""The generator of scenes: a conditional U-Net and its text encoder on the latents of renders, v-prediction."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from mcts_ray.fitting.loop import Progress, Recipe, fit, save

from ..grammar import MAX_OBJECTS
from ..render import render_arrays
from .autoencoder import to_tensor
from .data import captions_of, random_scenes
from .text import text_encoder, tokenizer

RECIPE = Recipe("unet", steps=4500, batch=64, lr=1e-3, ema=0.999, warmup=300)
# A second stage with more scenes of several objects, from the averaged weights of the first.
SECOND = Recipe("unet-second", steps=2000, batch=64, lr=6e-4, ema=0.998, warmup=50)
POOL = 98_304
DROP_CAPTION = 0.1
WIDTH = 96
COUNTS = (0.1, 0.4, 0.5)  # shares of one, two and three objects in the pool
# and in what is drawn from it: scenes of several objects are rare, as in any captioned collection. With the pool's own
# shares the model gets three of four hard prompts right at once and leaves a search nothing to do (docs/lab.md).
DRAWN = (0.7, 0.2, 0.1)
DRAWN_SECOND = (0.25, 0.15, 0.6)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction (Salimans and Ho, arXiv 2202.00512)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="leading",
    )


class Generator(nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder: CLIPTextModel = text_encoder(WIDTH, 2)
        channels = (64, 96)
        self.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=channels,
            down_block_types=("CrossAttnDownBlock2D",) * len(channels),
            up_block_types=("CrossAttnUpBlock2D",) * len(channels),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        )


def train(out: Path, autoencoder: AutoencoderKL, recipe: Recipe = RECIPE, **options) -> tuple[Generator, float]:
    """Minimise the squared error of v over uniform time steps; a tenth of the captions are dropped for guidance."""
    torch.manual_seed(recipe.seed)
    model = Generator()
    latent_NCHW, token_NL = latent_pool(out, autoencoder, recipe, options.get("report"))
    objects_N = (token_NL == tokenizer().convert_tokens_to_ids("a</w>")).sum(1).numpy()
    by_count = [np.flatnonzero(objects_N == count) for count in range(1, MAX_OBJECTS + 1)]
    alphas_cumprod = scheduler().alphas_cumprod
    words = tokenizer()
    empty_L = torch.tensor(words("", padding="max_length").input_ids)

    def loss_of_batch(drawn: tuple[float, ...], rng: np.random.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        counts = rng.choice(len(by_count), recipe.batch, p=drawn)
        pick = torch.from_numpy(np.array([rng.choice(by_count[c]) for c in counts]))
        x0, tokens = latent_NCHW[pick], token_NL[pick].clone()
        tokens[torch.rand(recipe.batch) < DROP_CAPTION] = empty_L
        t = torch.from_numpy((rng.permutation(recipe.batch) + rng.random(recipe.batch)) * 1000 / recipe.batch).long()
        noise = torch.randn_like(x0)
        alpha, sigma = (a[:, None, None, None] for a in (alphas_cumprod[t].sqrt(), (1 - alphas_cumprod[t]).sqrt()))
        text = model.text_encoder(tokens).last_hidden_state
        v = model.unet(alpha * x0 + sigma * noise, t, text).sample
        return F.mse_loss(v, alpha * noise - sigma * x0), {}

    _, first = fit(recipe, model, partial(loss_of_batch, DRAWN), out, **options)
    _, more = fit(second_stage(recipe), model, partial(loss_of_batch, DRAWN_SECOND), out, **options)
    return model, first + more


def second_stage(recipe: Recipe) -> Recipe:
    """The stage that follows `recipe`, with its seed, and shortened with it."""
    return replace(SECOND, seed=recipe.seed, steps=min(SECOND.steps, recipe.steps))


@torch.no_grad()
def latent_pool(
    out: Path, autoencoder: AutoencoderKL, recipe: Recipe, report: Callable[[Progress], None] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`POOL` training scenes as scaled latents (N, 4, 8, 8) and caption tokens (N, L).

    Made once and kept in `out`, under a name that tells the seed and the autoencoder apart from others.
    """
    weights = b"".join(p.numpy().tobytes() for p in autoencoder.parameters())
    path = out / f"latents-{recipe.seed}-{hashlib.blake2b(weights, digest_size=6).hexdigest()}.pt"
    began = time.monotonic()
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return saved["latents"].float(), saved["tokens"].long()
    words, scale = tokenizer(), autoencoder.config.scaling_factor
    latents, tokens = [], []
    for at in range(0, POOL, 256):
        scenes = random_scenes(256, np.random.default_rng([recipe.seed, 7, at]), COUNTS)
        latents.append(autoencoder.encode(to_tensor(render_arrays(scenes))).latent_dist.mean * scale)
        tokens.append(words(captions_of(scenes), padding="max_length", return_tensors="pt").input_ids)
        if report:
            seconds = time.monotonic() - began
            report(Progress(0, recipe.steps, 0.0, seconds, {"scenes_encoded": at + 256, "of": POOL}))
    pool = {"latents": torch.cat(latents), "tokens": torch.cat(tokens)}
    save(path, {"latents": pool["latents"].half(), "tokens": pool["tokens"].to(torch.int16)})
    return pool["latents"].half().float(), pool["tokens"]
