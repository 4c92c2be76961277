"""The autoencoder of scenes: a diffusers `AutoencoderKL`, 64×64×3 to 8×8×4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from mcts_ray.fitting.loop import Recipe, fit

from ..render import SIDE, render_arrays
from .data import crowded_scenes, random_scenes

RECIPE = Recipe("autoencoder", steps=4500, batch=16, lr=1e-3, ema=0.998)
KL_WEIGHT = 3e-5


def build() -> AutoencoderKL:
    channels = (16, 32, 64, 96)
    return AutoencoderKL(
        sample_size=SIDE,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def to_tensor(image_NHWC: np.ndarray) -> torch.Tensor:
    """[0, 1] images to the (N, C, H, W) range [-1, 1] that the autoencoder reads."""
    return torch.from_numpy(image_NHWC).permute(0, 3, 1, 2).contiguous() * 2 - 1


def train(out: Path, recipe: Recipe = RECIPE, **options) -> tuple[AutoencoderKL, float]:
    """Minimise foreground-weighted L1 + squared error + edge error, with a small KL term."""
    torch.manual_seed(recipe.seed)
    model = build()

    def loss_of_batch(rng: np.random.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        half = recipe.batch // 2
        scenes = random_scenes(half, rng), crowded_scenes(recipe.batch - half, rng)
        x = to_tensor(np.concatenate([render_arrays(s) for s in scenes]))
        posterior = model.encode(x).latent_dist
        y = model.decode(posterior.sample()).sample
        weight = 1 + 3 * ((x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1)
        error = weight * ((x - y).abs() + 2 * (x - y) ** 2)
        edges = sum((torch.diff(x, dim=d) - torch.diff(y, dim=d)).abs().mean() for d in (2, 3))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return error.mean() + edges + KL_WEIGHT * kl, {"mse": F.mse_loss(x, y).item(), "kl": kl.item()}

    return fit(recipe, model, loss_of_batch, out, **options)


@torch.no_grad()
def latent_scale(model: AutoencoderKL, n: int = 2048, seed: int = 1) -> float:
    """`scaling_factor` of the pipeline: one over the standard deviation of the latents of training scenes."""
    rng = np.random.default_rng(seed)
    batches = (to_tensor(render_arrays(random_scenes(64, rng))) for _ in range(n // 64))
    return 1 / torch.cat([model.encode(x).latent_dist.mean for x in batches]).std().item()
